"""What a caller asks for, the same for every contract: the parameters, and what they may be."""

import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from smg_proto._channel import MetadataLike, mapping, sequence
from smg_proto.engine._config import CHECKS
from smg_proto.engine._errors import ParameterError

MAX_TOKEN_ID = 2**31 - 1
MAX_COUNT = 2**31 - 1
MAX_STOPS = 1_000
MAX_NUMBER = 3e38  # about the largest 32-bit float


class GenerateParams(TypedDict, total=False):
    """What generate() and complete() take. Left out, or None: the engine's default.

    What the contract of the server cannot express is an UnsupportedError before anything is sent.
    """

    prompt: str | None
    """The prompt as text, without any chat template. Either this or `token_ids`."""
    token_ids: Sequence[int] | None
    """The prompt as token ids. Either this or `prompt`."""
    max_tokens: int | None
    """Most tokens to generate, at least 1."""
    min_tokens: int | None
    """Tokens to generate before an end or a stop may come."""
    temperature: float | None
    """From 0; 0 takes the likeliest token at each step."""
    top_p: float | None
    """Sample among the likeliest tokens that add up to this probability, above 0 and up to 1."""
    top_k: int | None
    """Sample among this many likeliest tokens; 0: among all."""
    min_p: float | None
    """Leave out tokens less likely than this part of the likeliest one, from 0 to 1."""
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    """Above 0; 1 changes nothing."""
    logit_bias: Mapping[int, float] | None
    """Token id to what is added to its score."""
    seed: int | None
    """From 0. Makes sampling repeatable, as far as the engine can."""
    n: int | None
    """Sequences to generate for the prompt. Pieces say by `index` which they belong to."""
    stop: str | Sequence[str] | None
    """Strings that end a sequence."""
    stop_token_ids: Sequence[int] | None
    """Token ids that end a sequence, beside the model's own."""
    ignore_eos: bool | None
    """Generate on after the model's end token."""
    logprobs: int | None
    """Return the log probability of each token, and of this many likeliest ones."""
    prompt_logprobs: int | None
    """Return the log probability of each token of the prompt, and of this many likeliest ones."""
    json_schema: str | Mapping[str, Any] | None
    """The output is JSON of this schema. Of this and the five below, one at most."""
    json_object: bool | None
    """The output is a JSON object."""
    regex: str | None
    """The output matches this regular expression."""
    grammar: str | None
    """The output follows this grammar, in the engine's own form of EBNF."""
    choice: Sequence[str] | None
    """The output is one of these."""
    structural_tag: str | None
    """Parts of the output between given tags are constrained; JSON, in the engine's own form."""
    lora: str | None
    """The LoRA adapter to apply, by the engine's name for it."""
    model: str | None
    """The model, for contracts that name one. Others serve the model that they have."""
    request_id: str | None
    """Names the request, for abort(). Left out: a random one."""
    timeout: float | None
    """Seconds for the whole call. None: no limit."""
    metadata: MetadataLike | None
    """gRPC metadata of this call, beside that of the connection."""


CONSTRAINTS = ("json_schema", "json_object", "regex", "grammar", "choice", "structural_tag")


class Asked(dict[str, Any]):
    """The parameters that were given, checked. `request_id` is always there."""

    @property
    def n(self) -> int:
        return int(self.get("n", 1))

    @property
    def constraint(self) -> tuple[str, Any] | None:
        """The one constraint, by its parameter."""
        return next(((name, self[name]) for name in CONSTRAINTS if name in self), None)


def check(params: Mapping[str, Any]) -> Asked:
    """Check parameters that no contract could take otherwise. ParameterError: one is wrong."""
    asked = Asked()
    for name, value in params.items():
        checked = _CHECKS.get(name)
        if checked is None:
            raise ParameterError(name[:80], "there is no such parameter")
        if value is not None:
            asked[name] = checked(name, value)
    if asked.get("json_object") is False:
        del asked["json_object"]
    if ("prompt" in asked) == ("token_ids" in asked):
        raise ParameterError("prompt", "give either prompt or token_ids")
    constraints = [name for name in CONSTRAINTS if name in asked]
    if len(constraints) > 1:
        raise ParameterError(constraints[1], f"cannot be together with {constraints[0]}")
    if asked.get("min_tokens", 0) > asked.get("max_tokens", MAX_COUNT):
        raise ParameterError("min_tokens", "must not be above max_tokens")
    asked.setdefault("request_id", uuid.uuid4().hex)
    return asked


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    def checked(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ParameterError(name, f"must be a whole number, not {type(value).__name__}")
        number = int(value.__index__())
        if not low <= number <= high:
            raise ParameterError(name, f"must be from {low} to {high}")
        return number

    return checked


def _number(what: str, fits: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def checked(name: str, value: Any) -> float:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise ParameterError(name, f"must be a number, not {type(value).__name__}")
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if not abs(number) < MAX_NUMBER or not fits(number):
            raise ParameterError(name, f"must be {what}")
        return number

    return checked


def _texts(name: str, value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else sequence(value)
    if items is None:
        raise ParameterError(name, "must be a list of strings")
    if len(items) > MAX_STOPS:
        raise ParameterError(name, f"has more than {MAX_STOPS} strings")
    return [CHECKS.text(name, item) for item in items]


def _choices(name: str, value: Any) -> list[str]:
    found = [] if isinstance(value, str) else _texts(name, value)
    if not found:
        raise ParameterError(name, "must be a list of strings, and not empty")
    return found


def _ids(name: str, value: Any) -> list[int]:
    given = sequence(value)
    if given is None:
        raise ParameterError(name, "must be a list of whole numbers")
    ids = list(given)
    for item in ids:
        if type(item) is not int or not 0 <= item <= MAX_TOKEN_ID:
            raise ParameterError(name, f"must be whole numbers from 0 to {MAX_TOKEN_ID}")
    return ids


def _prompt_ids(name: str, value: Any) -> list[int]:
    ids = _ids(name, value)
    if not ids:
        raise ParameterError(name, "must not be empty")
    return ids


def _bias(name: str, value: Any) -> dict[int, float]:
    pairs = mapping(value)
    if pairs is None:
        raise ParameterError(name, "must map token ids to numbers")
    number = _number("a number", lambda _: True)
    biases = [number(name, bias) for bias in pairs.values()]
    return dict(zip(_ids(name, list(pairs)), biases, strict=True))


def _schema(name: str, value: Any) -> str:
    if isinstance(value, str):
        return CHECKS.text(name, value)
    if mapping(value) is None:
        raise ParameterError(name, "must be a JSON schema: a mapping, or text")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ParameterError(name, "cannot be written as JSON") from None


def check_request_id(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,256}", value):
        raise ParameterError(name, "must be 1 to 256 printable ASCII characters without spaces")
    return value


_FROM_0 = _number("0 or more", lambda number: number >= 0)
_PENALTY = _number("from -2 to 2", lambda number: -2 <= number <= 2)
_PART = _number("from 0 to 1", lambda number: 0 <= number <= 1)

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "prompt": CHECKS.text,
    "token_ids": _prompt_ids,
    "max_tokens": _whole(1, MAX_COUNT),
    "min_tokens": _whole(0, MAX_COUNT),
    "temperature": _FROM_0,
    "top_p": _number("above 0 and at most 1", lambda number: 0 < number <= 1),
    "top_k": _whole(0, MAX_COUNT),
    "min_p": _PART,
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "repetition_penalty": _number("above 0", lambda number: number > 0),
    "logit_bias": _bias,
    "seed": _whole(0, 2**63 - 1),
    "n": _whole(1, 1_000),
    "stop": _texts,
    "stop_token_ids": _ids,
    "ignore_eos": CHECKS.flag,
    "logprobs": _whole(0, MAX_COUNT),
    "prompt_logprobs": _whole(0, MAX_COUNT),
    "json_schema": _schema,
    "json_object": CHECKS.flag,
    "regex": CHECKS.text,
    "grammar": CHECKS.text,
    "choice": _choices,
    "structural_tag": CHECKS.text,
    "lora": CHECKS.text,
    "model": CHECKS.text,
    "request_id": check_request_id,
    "timeout": CHECKS.seconds,
    "metadata": lambda _, value: CHECKS.metadata(value),
}
