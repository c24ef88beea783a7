"""What vLLM's gRPC servicer imports of vLLM, torch and transformers, and no more of them.

`install()` puts the modules into sys.modules. Classes that the servicer calls or catches are
defined here; every other name it imports (for annotations, or for media, which the fake engine
refuses) is an empty class of that name.
"""

import enum
import logging
import sys
from dataclasses import dataclass
from http import HTTPStatus
from types import ModuleType
from typing import Any

VLLM_VERSION = "0.33.0"
MODULES = [
    "torch",
    "transformers",
    "vllm",
    "vllm.engine",
    "vllm.engine.protocol",
    "vllm.exceptions",
    "vllm.inputs",
    "vllm.inputs.engine",
    "vllm.logger",
    "vllm.logprobs",
    "vllm.multimodal",
    "vllm.multimodal.inputs",
    "vllm.outputs",
    "vllm.sampling_params",
    "vllm.v1",
    "vllm.v1.engine",
    "vllm.v1.engine.exceptions",
    "vllm.version",
]


class VLLMClientError(Exception):
    pass


class VLLMNotFoundError(Exception):
    pass


class EngineGenerateError(Exception):
    pass


class GracefulHTTPError(Exception):
    def __init__(self, message: str, http_status: HTTPStatus) -> None:
        super().__init__(message)
        self.http_status = http_status


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class Logprob:
    logprob: float


@dataclass
class PoolingParams:
    task: str


class StructuredOutputsParams:
    def __init__(self, **given: object) -> None:
        self.given = given


class SamplingParams:
    """All that the servicer gave, by name, after vLLM's checks of the ranges."""

    n: int
    max_tokens: int | None
    min_tokens: int
    stop: list[str] | None
    stop_token_ids: list[int] | None
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    extra_args: dict[str, Any] | None
    output_kind: RequestOutputKind

    def __init__(self, **given: Any) -> None:
        self.given = given
        vars(self).update(given)
        allowed = {
            "temperature": 0 <= given["temperature"] <= 2,
            "top_p": 0 < given["top_p"] <= 1,
            "min_p": 0 <= given["min_p"] <= 1,
            "frequency_penalty": -2 <= given["frequency_penalty"] <= 2,
            "presence_penalty": -2 <= given["presence_penalty"] <= 2,
            "repetition_penalty": given["repetition_penalty"] > 0,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 1,
            "min_tokens": self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "n": self.n == 1 or given["temperature"] >= 1e-5,
            "stop": "" not in (self.stop or []),
            "logprobs": self.logprobs is None or -1 <= self.logprobs <= 20,
        }
        if wrong := [name for name, fine in allowed.items() if not fine]:
            raise VLLMClientError(f"{wrong[0]} is out of range: {given[wrong[0]]!r}")


class _Module(ModuleType):
    """A module in which every name is there."""

    __path__ = []  # noqa: RUF012 (makes it a package)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def install() -> None:
    for name in MODULES:
        module = sys.modules[name] = _Module(name)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    members: dict[str, dict[str, object]] = {
        "vllm": {"SamplingParams": SamplingParams, "PoolingParams": PoolingParams},
        "vllm.exceptions": {
            "VLLMClientError": VLLMClientError,
            "VLLMNotFoundError": VLLMNotFoundError,
            "GracefulHTTPError": GracefulHTTPError,
        },
        "vllm.inputs.engine": {"tokens_input": lambda **prompt: {"type": "token", **prompt}},
        "vllm.logger": {"init_logger": logging.getLogger},
        "vllm.sampling_params": {
            "RequestOutputKind": RequestOutputKind,
            "StructuredOutputsParams": StructuredOutputsParams,
        },
        "vllm.v1.engine.exceptions": {"EngineGenerateError": EngineGenerateError},
        "vllm.version": {"__version__": VLLM_VERSION},
    }
    for name, replaced in members.items():
        vars(sys.modules[name]).update(replaced)
