"""Shared parts of the conversions: effective settings, and fields without a counterpart."""

import math
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from smg_proto.sagellm._models import GREEDY_BELOW, DecodingStrategy, Request, SamplingParams
from smg_proto.sagellm._unknown import Unknown

# Fields of Request without a counterpart in vLLM's and the gateway's API.
_WITHOUT_COUNTERPART = (
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
# Fields of SamplingParams that the strategies greedy and sampling do not use.
_OTHER_STRATEGIES = (
    "beam_size",
    "length_penalty",
    "early_stopping",
    "alpha",
    "penalty_alpha",
    "n_speculative_tokens",
)
# Fields that have no effect by the contract, because of the strategy or because others override
# them.
WITHOUT_EFFECT = frozenset(
    {
        "temperature",
        "top_p",
        "sampling_params.max_tokens",
        *(f"sampling_params.{name}" for name in _OTHER_STRATEGIES),
    }
)


class BridgeError(ValueError):
    """A request cannot be converted. The message names the field and what to do."""


def names(argument: str, given: Collection[str]) -> frozenset[str]:
    """The names in an argument. TypeError for one string, which would be read as its letters."""
    if isinstance(given, str):
        raise TypeError(f"{argument} takes a collection of names, not one string; put it in a list")
    return frozenset(given)


def prompt_of(request: Request, target: str, drop: Collection[str]) -> str:
    """The prompt. BridgeError if the conversion would silently lose another field."""
    for name in _WITHOUT_COUNTERPART:
        if getattr(request, name) is not None and name not in drop:
            raise BridgeError(
                f"Request.{name} has no counterpart in {target}; leave it unset, or name it in drop"
            )
    if request.messages and not request.prompt:
        raise BridgeError(
            f"Request.messages has no counterpart in {target}, which takes a prompt; render them "
            "with the model's chat template, or use a chat API"
        )
    if request.messages and "messages" not in drop:
        raise BridgeError(
            f"Request.messages cannot be sent with a prompt in {target}; leave one of them unset, "
            "or name messages in drop"
        )
    return request.prompt


def sampling_of(request: Request, target: str, drop: Collection[str]) -> SamplingParams | None:
    """The effective sampling parameters, with temperature 0 for greedy. None: the engine's own.

    BridgeError if a value would be lost silently, because another overrides it or because only
    another strategy uses it.
    """
    original = request.sampling_params
    if original is None:
        return None
    match original.strategy:
        case DecodingStrategy.SAMPLING if original.temperature >= GREEDY_BELOW:
            params = original
        case DecodingStrategy.GREEDY | DecodingStrategy.SAMPLING:
            params = original.model_copy(update={"temperature": 0.0})
        case Unknown() | DecodingStrategy():
            name = original.strategy.value
            raise BridgeError(f"strategy {name} is not supported; use greedy or sampling")
    for name, why in _lost(request, original, params):
        if name not in drop:
            raise BridgeError(
                f"Request.{name} cannot be sent to {target}: {why}; leave it unset, or name it in "
                "drop"
            )
    return params


def _lost(
    request: Request, original: SamplingParams, sent: SamplingParams
) -> Iterator[tuple[str, str]]:
    """The fields whose values would not be sent, and why."""
    if request.temperature not in (None, original.temperature, sent.temperature):
        yield "temperature", "sampling_params overrides it"
    if request.top_p not in (None, original.top_p):
        yield "top_p", "sampling_params overrides it"
    if original.max_tokens not in (None, request.max_tokens):
        yield "sampling_params.max_tokens", "Request.max_tokens overrides it"
    for name in _OTHER_STRATEGIES:
        if getattr(original, name) != SamplingParams.model_fields[name].default:
            yield f"sampling_params.{name}", f"strategy {original.strategy.value} does not use it"


def set_field(message: Any, name: str, value: Any) -> None:
    """Set a field, or fill a repeated one. BridgeError names it if it cannot hold the value."""
    try:
        if isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except UnicodeError:
        problem = "it has a lone surrogate"
    except TypeError:
        problem = "it has another type"
    except ValueError:
        problem = "it is too large"
    else:
        if not isinstance(value, float):
            return
        sent = getattr(message, name)
        if math.isfinite(sent) and (sent or name != "top_p"):  # 0 would turn top_p off
            return
        problem = "it is too small" if math.isfinite(sent) else "it is too large"
    raise BridgeError(f"{message.DESCRIPTOR.full_name}.{name} cannot hold this value: {problem}")


def set_plain_sampling(message: Any, request: Request) -> None:
    """Set temperature and top_p of a request without sampling parameters."""
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            set_field(message, name, value)


def reject_other_fields(message: Message, *handled: str) -> None:
    """BridgeError if any other field is set."""
    for field, _ in message.ListFields():
        if field.name not in handled:
            name = field.full_name
            raise BridgeError(f"{name} has no counterpart in a sageLLM request; leave it unset")


def values_set(message: Any, names: Iterable[str]) -> dict[str, Any]:
    """The values of the named fields that are set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def max_tokens_of(requested: int | None, default: int | None) -> int:
    tokens = default if requested is None else requested
    if tokens is None:
        raise BridgeError("missing max_tokens: sageLLM requires it; pass max_tokens")
    return tokens


def shortest(value: float) -> float:
    """The shortest decimal number with the same 32-bit float: 0.7, not 0.699999988."""
    for digits in range(6, 9):
        number = float(f"{value:.{digits}g}")
        if struct.pack("f", number) == struct.pack("f", value):
            return number
    return value
