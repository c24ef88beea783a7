"""How a call is made, as opposed to what it asks: time limits, retries, metadata."""

import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, TypeAlias

import grpc
from typing_extensions import TypedDict

from smg_proto.vllm.checks import mapping, seconds, sequence, whole
from smg_proto.vllm.errors import (
    Metadata,
    VLLMGrpcError,
    VLLMGrpcValidationError,
    from_rpc_error,
)

MetadataLike: TypeAlias = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


class NotGiven(Enum):
    """Marks an argument that was left out, where None has a meaning of its own."""

    NOT_GIVEN = "not given"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds; None is no limit. Time that the reader of a stream takes never counts."""

    call: float | None = None
    """For one unary call or one unstreamed completion, retries included."""
    first_message: float | None = None
    """For the first message of a stream, retries included."""
    idle: float | None = None
    """For each later message of a stream."""
    stream: float | None = None
    """For a whole stream. Off unless asked for: a long stream that makes progress is healthy."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            seconds(f"timeout.{name}", getattr(self, name))

    @classmethod
    def of(cls, value: "float | Timeout | None") -> "Timeout":
        """One number limits a call, and each wait for a message of a stream."""
        if isinstance(value, Timeout):
            return value
        seconds("timeout", value)
        return cls(call=value, first_message=value, idle=value)


class CallParams(TypedDict, total=False):
    """What every call takes. Left out: as the client has it."""

    timeout: float | Timeout | None
    max_retries: int
    metadata: MetadataLike
    traceparent: str
    wait_for_ready: bool


CALL_PARAMS: Final = frozenset(CallParams.__annotations__)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one call: those of the client, changed by those of the call."""

    timeout: Timeout
    max_retries: int = 2
    metadata: Metadata = ()
    wait_for_ready: bool = False
    initial_backoff: float = 0.5
    max_backoff: float = 8.0

    def changed(self, params: CallParams) -> "Options":
        if not params:
            return self
        options = self
        if "timeout" in params:
            options = replace(options, timeout=Timeout.of(params["timeout"]))
        if "max_retries" in params:
            options = replace(options, max_retries=check_retries(params["max_retries"]))
        if "wait_for_ready" in params:
            options = replace(options, wait_for_ready=bool(params["wait_for_ready"]))
        added = check_metadata(params.get("metadata", ()))
        if "traceparent" in params:
            added += (("traceparent", check_traceparent(params["traceparent"])),)
        if added:
            options = replace(options, metadata=merge_metadata(options.metadata, added))
        return options


def split(params: Mapping[str, Any]) -> tuple[CallParams, dict[str, Any]]:
    """The parameters of any call, and the others."""
    call: CallParams = {}
    rest: dict[str, Any] = {}
    for name, value in params.items():
        if name in CALL_PARAMS:
            call[name] = value  # type: ignore[literal-required]
        else:
            rest[name] = value
    return call, rest


def check_retries(value: object) -> int:
    return whole("max_retries", value, 0, 1000, "must be a whole number, 0 for no retries")


def check_traceparent(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", value
    ):
        raise VLLMGrpcValidationError("traceparent", "must look like 00-<32 hex>-<16 hex>-01")
    return value


def check_metadata(value: object) -> Metadata:
    if not value:
        return ()
    by_name = mapping(value)
    items = list(by_name.items()) if by_name is not None else sequence(value)
    if items is None:
        raise VLLMGrpcValidationError("metadata", "must be a mapping or a list of pairs")
    checked: list[tuple[str, str | bytes]] = []
    for item in items:
        pair = sequence(item)
        if pair is None or len(pair) != 2 or not isinstance(pair[0], str):
            raise VLLMGrpcValidationError("metadata", "must be a mapping or a list of pairs")
        key, content = pair[0].lower(), pair[1]
        if not re.fullmatch(r"[0-9a-z_.-]+", key) or key.startswith("grpc-"):
            raise VLLMGrpcValidationError(
                "metadata", f"{key!r} is no name for it: letters, digits, _ . - and not grpc-…"
            )
        # The value is not shown: it may be a secret.
        if key.endswith("-bin") != isinstance(content, bytes):
            raise VLLMGrpcValidationError("metadata", f"{key}: bytes if, and only if, it ends -bin")
        if isinstance(content, str) and not re.fullmatch(r"[ -~]*", content):
            raise VLLMGrpcValidationError("metadata", f"{key}: only printable ASCII can be sent")
        if not isinstance(content, str | bytes):
            raise VLLMGrpcValidationError("metadata", f"{key}: must be a string")
        checked.append((key, content))
    return tuple(checked)


def merge_metadata(base: Metadata, added: Metadata) -> Metadata:
    """Both; what is added replaces what has the same name."""
    names = {key for key, _ in added}
    return tuple(pair for pair in base if pair[0] not in names) + added


class Attempts:
    """The tries of one call: the time left for them, and whether there is another one."""

    __slots__ = ("_ends", "_number", "options", "request_id", "target")

    def __init__(
        self, options: Options, limit: float | None, *, target: str, request_id: str | None = None
    ) -> None:
        self.options: Options = options
        self.target: str = target
        self.request_id: str | None = request_id
        self._ends = None if limit is None else time.monotonic() + limit
        self._number = 0

    def remaining(self) -> float | None:
        """Seconds left, as gRPC wants its deadline."""
        return None if self._ends is None else max(self._ends - time.monotonic(), 0.001)

    def error(self, cause: grpc.RpcError) -> VLLMGrpcError:
        return from_rpc_error(cause, target=self.target, request_id=self.request_id)

    def delay(self, error: VLLMGrpcError) -> float | None:
        """Seconds to wait before the next try; None: no other try."""
        if not error.retryable or self._number >= self.options.max_retries:
            return None
        delay = error.pushback
        if delay is None:
            backoff = self.options.initial_backoff * 2**self._number
            # Jitter, so that clients that failed together do not come back together.
            delay = min(backoff, self.options.max_backoff) * random.uniform(0.5, 1.0)
        if self._ends is not None and time.monotonic() + delay >= self._ends:
            return None
        self._number += 1
        return delay
