"""What generates the text: the protocol of a backend, and those that need nothing else."""

import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.llm_pb2 import GenerateRequest


@dataclass(frozen=True)
class Piece:
    """A piece of text; the last one may say why the text ended and what it cost."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Backend(Protocol):
    """Generates text. `generate` is closed when the caller leaves: stop the work then.

    Raise an SmgError to choose the status; anything else becomes INTERNAL without its text.
    """

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]: ...

    async def aclose(self) -> None: ...


class EchoBackend:
    """Returns the prompt, word by word."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        words = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", request.prompt)
        most = request.max_tokens if request.HasField("max_tokens") else len(words)
        said = words[:most]
        text = "".join(said)
        found = [place for stop in request.stop if (place := text.find(stop)) >= 0]
        left = min(found, default=len(text))
        for word in said:
            if left <= 0:
                break
            yield Piece(word[:left])
            left -= len(word)
        reason = "length" if most < len(words) and not found else "stop"
        yield Piece(finish_reason=reason, prompt_tokens=len(words), completion_tokens=len(said))

    async def aclose(self) -> None:
        pass


# Fields of the request that a function may have parameters for, and those that it may ignore.
_PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed", "model", "request_id")
_FREE = ("model", "request_id")


class FunctionBackend:
    """Any async function that takes a prompt and yields text (or Pieces).

    Fields of the request reach it as the parameters of these names that it has: `max_tokens`,
    `temperature`, `top_p`, `stop`, `seed`, `model`, `request_id`. A field that is set and that it
    has no parameter for is rejected.
    """

    def __init__(self, function: Callable[..., AsyncIterator[str | Piece]]) -> None:
        self._function = function
        parameters = inspect.signature(function).parameters.values()
        self._all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._names = {p.name for p in parameters}

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        given: dict[str, Any] = {}
        for field, value in request.ListFields():
            if field.name not in _PARAMETERS:
                continue
            if self._all or field.name in self._names:
                given[field.name] = list(value) if field.name == "stop" else value
            elif field.name not in _FREE:
                raise invalid(FieldViolation(field.name, "this backend does not support it"))
        pieces = self._function(request.prompt, **given)
        try:
            async for piece in pieces:
                yield piece if isinstance(piece, Piece) else Piece(piece)
        finally:
            close = getattr(pieces, "aclose", None)
            if close:
                await close()

    async def aclose(self) -> None:
        pass


_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Failover:
    """Several backends: the next one is tried when one cannot be reached or is full.

    Only before the first piece: no text is sent twice.
    """

    def __init__(self, *backends: Backend) -> None:
        if not backends:
            raise ValueError("Failover needs at least one backend")
        self._backends: Sequence[Backend] = backends

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        for number, backend in enumerate(self._backends, 1):
            begun = False
            try:
                async with aclosing(backend.generate(request)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except SmgError as error:
                if begun or number == len(self._backends) or error.code not in _TRANSIENT:
                    raise

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:  # all of them, whichever fails
            for backend in self._backends:
                stack.push_async_callback(backend.aclose)
