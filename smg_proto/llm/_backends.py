"""Backends generate the text: their protocol, and the backends without dependencies."""

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
    """A piece of text. The last one may hold the finish reason and the token counts."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Backend(Protocol):
    """Generates text. `generate` is closed when the caller cancels: stop the work then.

    Raise an SmgError to choose the status. Any other exception becomes INTERNAL, without its text.
    """

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]: ...

    async def aclose(self) -> None: ...


class EchoBackend:
    """Returns the prompt, word by word."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        words = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", request.prompt)
        limit = request.max_tokens if request.HasField("max_tokens") else len(words)
        output = words[:limit]
        text = "".join(output)
        stops = [index for stop in request.stop if (index := text.find(stop)) >= 0]
        remaining = min(stops, default=len(text))
        for word in output:
            if remaining <= 0:
                break
            yield Piece(word[:remaining])
            remaining -= len(word)
        reason = "length" if limit < len(words) and not stops else "stop"
        yield Piece(finish_reason=reason, prompt_tokens=len(words), completion_tokens=len(output))

    async def aclose(self) -> None:
        pass


# Fields of the request that a function may have parameters for, and those that it may lack.
_PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed", "model", "request_id")
_OPTIONAL = ("model", "request_id")


class FunctionBackend:
    """An async function that takes a prompt and yields text or Pieces.

    Its parameters of these names receive the fields of the request: `max_tokens`, `temperature`,
    `top_p`, `stop`, `seed`, `model`, `request_id`. Requests that set a field without a parameter
    are rejected, except for `model` and `request_id`.
    """

    def __init__(self, function: Callable[..., AsyncIterator[str | Piece]]) -> None:
        self._function = function
        parameters = inspect.signature(function).parameters.values()
        self._all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._names = {p.name for p in parameters}

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        arguments: dict[str, Any] = {}
        for field, value in request.ListFields():
            if field.name not in _PARAMETERS:
                continue
            if self._all or field.name in self._names:
                arguments[field.name] = list(value) if field.name == "stop" else value
            elif field.name not in _OPTIONAL:
                raise invalid(FieldViolation(field.name, "is not supported by this backend"))
        pieces = self._function(request.prompt, **arguments)
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
    """Several backends. If one is unavailable or full, tries the next.

    It does so only before the first piece, so that no text is sent twice.
    """

    def __init__(self, *backends: Backend) -> None:
        if not backends:
            raise ValueError("Failover requires at least one backend")
        self._backends: Sequence[Backend] = backends

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        for number, backend in enumerate(self._backends, 1):
            started = False
            try:
                async with aclosing(backend.generate(request)) as pieces:
                    async for piece in pieces:
                        started = True
                        yield piece
                return
            except SmgError as error:
                if started or number == len(self._backends) or error.code not in _TRANSIENT:
                    raise

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:  # closes all, even if one fails
            for backend in self._backends:
                stack.push_async_callback(backend.aclose)
