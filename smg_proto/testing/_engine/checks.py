"""Checks of requests that all fake engines share, and constrained output."""

import math
from collections.abc import Sequence

import grpc

from smg_proto.testing._generation import Sampling
from smg_proto.testing._json_schema import Unsupported, smallest_text
from smg_proto.testing._model import Model


class Rejected(Exception):
    """A rejected request, with the status that ends it."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.code = code


def unsupported(message: str) -> Rejected:
    return Rejected(message, grpc.StatusCode.UNIMPLEMENTED)


def check(holds: bool, message: str) -> None:
    if not holds:
        raise Rejected(message)


def check_prompt(prompt: Sequence[int], model: Model) -> None:
    check(bool(prompt), "the prompt is empty")
    known = all(0 <= token < model.tokenizer.vocab_size for token in prompt)
    check(known, "the prompt has a token id outside the vocabulary")
    check(
        len(prompt) < model.context_length,
        f"the prompt of {len(prompt)} tokens does not fit the context of {model.context_length}",
    )


def check_sampling(sampling: Sampling) -> None:
    check(0 <= sampling.temperature <= 2, "temperature must be from 0 to 2")
    check(0 < sampling.top_p <= 1, "top_p must be above 0 and at most 1")
    check(0 <= sampling.min_p <= 1, "min_p must be from 0 to 1")
    check(0 < sampling.repetition_penalty < math.inf, "repetition_penalty must be above 0")
    most = math.inf if sampling.max_tokens is None else sampling.max_tokens
    check(most >= 1, "max_tokens must be at least 1")
    check(sampling.min_tokens <= most, "min_tokens must not exceed max_tokens")
    check("" not in sampling.stop, "a stop string must not be empty")


def fitting_json(schema: str) -> str:
    """JSON text that matches a JSON Schema. An empty schema: any object."""
    try:
        return smallest_text(schema)
    except Unsupported as error:
        raise unsupported(str(error)) from None
    except ValueError as error:
        raise Rejected(f"invalid JSON schema: {error}") from None


def grammar(kind: str) -> Rejected:
    return unsupported(f"the built-in model does not support constraints of kind {kind}")
