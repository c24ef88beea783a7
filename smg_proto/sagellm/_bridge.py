"""What the bridges share: which settings a request comes down to, and what has no place."""

import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from smg_proto.sagellm._models import DecodingStrategy, Request, SamplingParams
from smg_proto.sagellm._unknown import Unknown

# Fields of Request that neither vLLM's nor the gateway's API can carry.
_NOWHERE = (
    "kv_budget_tokens",
    "metadata",
    "phase",
    "rank",
    "world_size",
    "group_id",
    "tp_rank",
    "pp_rank",
    "tp_size",
    "pp_size",
)
# Fields of SamplingParams that neither greedy nor sampling reads.
_OTHER_STRATEGIES = (
    "beam_size",
    "length_penalty",
    "early_stopping",
    "alpha",
    "penalty_alpha",
    "n_speculative_tokens",
)
# The fields that the contract itself lets have no effect, beside others that win or by strategy.
WITHOUT_EFFECT = frozenset(
    {
        "temperature",
        "top_p",
        "sampling_params.max_tokens",
        *(f"sampling_params.{name}" for name in _OTHER_STRATEGIES),
    }
)


class BridgeError(ValueError):
    """A request says what the other API cannot say; the text names the field and the way out."""


def prompt_of(request: Request, target: str, drop: Collection[str]) -> str:
    """The prompt, once it is sure that nothing of the request would be lost unnoticed."""
    for name in _NOWHERE:
        if getattr(request, name) is not None and name not in drop:
            raise BridgeError(
                f"Request.{name} has no place in {target}: leave it unset, or name it in drop"
            )
    if request.messages and not request.prompt:
        raise BridgeError(
            f"Request.messages has no place in {target}, which takes a prompt: render them with "
            "the model's chat template, or use an API for chats"
        )
    if request.messages and "messages" not in drop:
        raise BridgeError(
            f"Request.messages has no place in {target} beside the prompt: leave one of them "
            "unset, or name messages in drop"
        )
    return request.prompt


def sampling_of(request: Request, target: str, drop: Collection[str]) -> SamplingParams | None:
    """The sampling parameters that hold, with temperature 0 for greedy. None: the engine's own.

    BridgeError if that would lose a value unnoticed: one that another wins over, or one that only
    another strategy reads.
    """
    given = request.sampling_params
    if given is None:
        return None
    match given.strategy:
        case DecodingStrategy.SAMPLING:
            params = given
        case DecodingStrategy.GREEDY:
            params = given.model_copy(update={"temperature": 0.0})
        case Unknown() | DecodingStrategy():
            name = given.strategy.value
            raise BridgeError(f"strategy {name} cannot be asked for here: greedy and sampling can")
    for name, why in _lost(request, given, params):
        if name not in drop:
            raise BridgeError(
                f"Request.{name} has no place in {target}, because {why}: leave it unset, or name "
                "it in drop"
            )
    return params


def _lost(
    request: Request, given: SamplingParams, sent: SamplingParams
) -> Iterator[tuple[str, str]]:
    """The fields whose values would not be sent, and why."""
    if request.temperature not in (None, given.temperature, sent.temperature):
        yield "temperature", "sampling_params has another one, which wins"
    if request.top_p not in (None, given.top_p):
        yield "top_p", "sampling_params has another one, which wins"
    if given.max_tokens not in (None, request.max_tokens):
        yield "sampling_params.max_tokens", "Request.max_tokens is another one, which wins"
    for name in _OTHER_STRATEGIES:
        if getattr(given, name) != SamplingParams.model_fields[name].default:
            yield f"sampling_params.{name}", f"strategy {given.strategy.value} does not read it"


def put(message: Any, name: str, value: Any) -> None:
    """Set a field; a number that it cannot hold is refused by the field's name."""
    try:
        setattr(message, name, value)
    except ValueError:
        kind = message.DESCRIPTOR.full_name
        raise BridgeError(f"{kind}.{name} cannot hold this value: it is too large") from None


def put_plain_sampling(message: Any, request: Request) -> None:
    """Set what a request without sampling parameters says of sampling itself."""
    if request.temperature is not None:
        message.temperature = request.temperature
    if request.top_p is not None:
        message.top_p = request.top_p


def refuse_the_rest(message: Message, *handled: str) -> None:
    """BridgeError if a field is set that was not handled."""
    for field, _ in message.ListFields():
        if field.name not in handled:
            name = field.full_name
            raise BridgeError(f"{name} has no place in a sageLLM request: leave it unset")


def values_set(message: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named fields that are set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def max_tokens_of(given: int | None, otherwise: int | None) -> int:
    tokens = otherwise if given is None else given
    if tokens is None:
        raise BridgeError("sageLLM requires max_tokens: it is not in the request, so give it")
    return tokens


def shortest(value: float) -> float:
    """The decimal number that was meant by a float of 32 bits: 0.7, not 0.699999988."""
    for digits in range(6, 9):
        number = float(f"{value:.{digits}g}")
        if struct.pack("f", number) == struct.pack("f", value):
            return number
    return value
