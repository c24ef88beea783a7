"""The parameters of a request, the same for every contract, and their checks."""

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
    """Parameters of generate() and complete(). Missing or None: the engine's default.

    A parameter that the server's contract cannot express raises UnsupportedError before anything is
    sent.
    """

    prompt: str | None
    """The prompt as text. No chat template is applied. Either this or `token_ids`."""
    token_ids: Sequence[int] | None
    """The prompt as token ids. Either this or `prompt`."""
    max_tokens: int | None
    """Maximum number of tokens to generate, at least 1."""
    min_tokens: int | None
    """Number of tokens before the end token or a stop can end a sequence."""
    temperature: float | None
    """At least 0. 0 selects the most likely token at each step."""
    top_p: float | None
    """Sample from the most likely tokens whose probabilities add up to this, above 0 and at most
    1."""
    top_k: int | None
    """Sample from this many most likely tokens. 0: from all."""
    min_p: float | None
    """Minimum probability of a token relative to the most likely one, from 0 to 1."""
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    """Above 0. 1 changes nothing."""
    logit_bias: Mapping[int, float] | None
    """Token id to the number added to its score."""
    seed: int | None
    """At least 0. Makes sampling repeatable if the engine can."""
    n: int | None
    """Number of sequences to generate. `Piece.index` says which one a piece belongs to."""
    stop: str | Sequence[str] | None
    """Strings that end a sequence."""
    stop_token_ids: Sequence[int] | None
    """Token ids that end a sequence, in addition to the model's own."""
    ignore_eos: bool | None
    """Continue after the model's end token."""
    logprobs: int | None
    """Return the log probability of each token, and of this many most likely tokens."""
    prompt_logprobs: int | None
    """As `logprobs`, for each token of the prompt."""
    json_schema: str | Mapping[str, Any] | None
    """The output is JSON that matches this schema. At most one of this and the next five."""
    json_object: bool | None
    """The output is a JSON object."""
    regex: str | None
    """The output matches this regular expression."""
    grammar: str | None
    """The output follows this grammar, in the engine's EBNF dialect."""
    choice: Sequence[str] | None
    """The output is one of these."""
    structural_tag: str | None
    """Constrains the output between given tags. JSON, in the engine's format."""
    lora: str | None
    """The LoRA adapter to apply, by the engine's name for it."""
    model: str | None
    """The model, for contracts that name one. Others use the model that the engine has loaded."""
    request_id: str | None
    """The request's id, for abort(). Unset: random."""
    timeout: float | None
    """Seconds for the whole call. Unset: no limit."""
    metadata: MetadataLike | None
    """gRPC metadata of this call, in addition to the connection's."""


CONSTRAINTS = ("json_schema", "json_object", "regex", "grammar", "choice", "structural_tag")


class CheckedParams(dict[str, Any]):
    """Checked parameters, without those that are None. `request_id` is always set."""

    @property
    def n(self) -> int:
        return int(self.get("n", 1))

    @property
    def constraint(self) -> tuple[str, Any] | None:
        """The parameter that constrains the output, and its value."""
        return next(((name, self[name]) for name in CONSTRAINTS if name in self), None)


def check(params: Mapping[str, Any]) -> CheckedParams:
    """Check the rules that hold for every contract. ParameterError: a parameter is wrong."""
    checked = CheckedParams()
    for name, value in params.items():
        convert = _CHECKS.get(name)
        if convert is None:
            raise ParameterError(name[:80], "unknown parameter")
        if value is not None:
            checked[name] = convert(name, value)
    if checked.get("json_object") is False:
        del checked["json_object"]
    if ("prompt" in checked) == ("token_ids" in checked):
        raise ParameterError("prompt", "pass either prompt or token_ids")
    constraints = [name for name in CONSTRAINTS if name in checked]
    if len(constraints) > 1:
        raise ParameterError(constraints[1], f"cannot be combined with {constraints[0]}")
    if checked.get("min_tokens", 0) > checked.get("max_tokens", MAX_COUNT):
        raise ParameterError("min_tokens", "must not exceed max_tokens")
    checked.setdefault("request_id", uuid.uuid4().hex)
    return checked


def _integer(low: int, high: int) -> Callable[[str, Any], int]:
    def convert(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ParameterError(name, f"must be a whole number, not {type(value).__name__}")
        number = int(value.__index__())
        if not low <= number <= high:
            raise ParameterError(name, f"must be from {low} to {high}")
        return number

    return convert


def _number(what: str, fits: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def convert(name: str, value: Any) -> float:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise ParameterError(name, f"must be a number, not {type(value).__name__}")
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if not abs(number) < MAX_NUMBER or not fits(number):
            raise ParameterError(name, f"must be {what}")
        return number

    return convert


def _strings(name: str, value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else sequence(value)
    if items is None:
        raise ParameterError(name, "must be a list of strings")
    if len(items) > MAX_STOPS:
        raise ParameterError(name, f"must have at most {MAX_STOPS} strings")
    return [CHECKS.text(name, item) for item in items]


def _choices(name: str, value: Any) -> list[str]:
    found = [] if isinstance(value, str) else _strings(name, value)
    if not found:
        raise ParameterError(name, "must be a list of at least one string")
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


_FROM_0 = _number("at least 0", lambda number: number >= 0)
_PENALTY = _number("from -2 to 2", lambda number: -2 <= number <= 2)
_PART = _number("from 0 to 1", lambda number: 0 <= number <= 1)

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "prompt": CHECKS.text,
    "token_ids": _prompt_ids,
    "max_tokens": _integer(1, MAX_COUNT),
    "min_tokens": _integer(0, MAX_COUNT),
    "temperature": _FROM_0,
    "top_p": _number("above 0 and at most 1", lambda number: 0 < number <= 1),
    "top_k": _integer(0, MAX_COUNT),
    "min_p": _PART,
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "repetition_penalty": _number("above 0", lambda number: number > 0),
    "logit_bias": _bias,
    "seed": _integer(0, 2**63 - 1),
    "n": _integer(1, 1_000),
    "stop": _strings,
    "stop_token_ids": _ids,
    "ignore_eos": CHECKS.flag,
    "logprobs": _integer(0, MAX_COUNT),
    "prompt_logprobs": _integer(0, MAX_COUNT),
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
