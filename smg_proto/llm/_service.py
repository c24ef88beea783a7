"""The servicers: one for grpc.server, one for grpc.aio.server, over the same core."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import grpc

from smg_proto import llm_pb2_grpc
from smg_proto.errors import FieldViolation, SmgError, abort, invalid
from smg_proto.llm._backends import Backend, EchoBackend, FunctionBackend, Piece
from smg_proto.llm_pb2 import GenerateRequest, GenerateResponse

log: logging.Logger = logging.getLogger("smg_proto.llm")

Source = Backend | Callable[..., AsyncIterator[str | Piece]]

# Pieces that a slow reader may be behind before the backend has to wait.
_AHEAD = 16


class _Core:
    """Checks a request, asks the backend, and makes every failure a status without its text."""

    def __init__(self, backend: Source | None, allow_empty_prompt: bool) -> None:
        source = EchoBackend() if backend is None else backend
        self.backend: Backend = (
            source if hasattr(source, "generate") else FunctionBackend(source)  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        )
        self._allow_empty_prompt = allow_empty_prompt

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateResponse, None]:
        self._check(request)
        try:
            async with aclosing(self.backend.generate(request)) as pieces:
                async for piece in pieces:
                    yield GenerateResponse(
                        token=piece.text,
                        finish_reason=piece.finish_reason,
                        prompt_tokens=piece.prompt_tokens,
                        completion_tokens=piece.completion_tokens,
                    )
        except SmgError as error:
            raise _plain(error) from error
        except Exception as error:
            # Only its kind: the text may quote the prompt.
            log.error("the backend failed: %s", type(error).__name__)
            failed = "the backend failed"
            raise SmgError(grpc.StatusCode.INTERNAL, failed, reason="WORKER_ERROR") from error

    def _check(self, request: GenerateRequest) -> None:
        found: list[FieldViolation] = []

        def check(good: bool, field: str, why: str) -> None:
            if not good:
                found.append(FieldViolation(field, why))

        given = {field.name for field, _ in request.ListFields()}
        check(bool(request.prompt) or self._allow_empty_prompt, "prompt", "is required")
        for field, good, why in (
            ("max_tokens", request.max_tokens >= 1, "must be 1 or more"),
            ("temperature", 0 <= request.temperature <= 2, "must be 0 to 2"),
            ("top_p", 0 < request.top_p <= 1, "must be above 0, up to 1"),
        ):
            check(good or field not in given, field, why)
        check(all(request.stop), "stop", "must not have an empty string")
        if found:
            raise invalid(*found)


_WORDS = {
    grpc.StatusCode.INVALID_ARGUMENT: "the backend refuses the request",
    grpc.StatusCode.NOT_FOUND: "the backend has no such model",
    grpc.StatusCode.UNAUTHENTICATED: "the backend wants another key",
    grpc.StatusCode.PERMISSION_DENIED: "the backend does not permit it",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the backend is full; try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the backend did not answer in time",
    grpc.StatusCode.UNAVAILABLE: "the backend cannot be reached",
    grpc.StatusCode.UNIMPLEMENTED: "the backend cannot do this",
}


def _plain(error: SmgError) -> SmgError:
    """The same status, in words of our own: a backend's may quote the prompt, or tell of itself."""
    fields = [FieldViolation(v.field, "the backend refuses it") for v in error.field_violations]
    if error.reason == "INVALID_REQUEST" and not error.metadata:
        fields = list(error.field_violations)  # from here, not from behind
    message = _WORDS.get(error.code, "the backend failed")
    return SmgError(
        error.code,
        message,
        reason=error.reason or "WORKER_ERROR",
        field_violations=fields,
        retry_after=error.retry_after,
    )


class AsyncLLMService(llm_pb2_grpc.LLMServiceServicer):
    """LLMService for `grpc.aio.server`. `backend`: an async function, or a Backend; none echoes."""

    def __init__(self, backend: Source | None = None, *, allow_empty_prompt: bool = False) -> None:
        self._core = _Core(backend, allow_empty_prompt)

    async def Generate(
        self, request: GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[GenerateResponse]:
        try:
            async with aclosing(self._core.generate(request)) as replies:
                async for reply in replies:
                    yield reply
        except SmgError as error:
            await abort(context, error)

    async def aclose(self) -> None:
        """Close what the backend holds open."""
        await self._core.backend.aclose()


class LLMService(llm_pb2_grpc.LLMServiceServicer):
    """LLMService for `grpc.server`. `backend`: an async function, or a Backend; none echoes.

    The backend runs in an event loop of its own, in one thread, however many calls there are.
    """

    def __init__(self, backend: Source | None = None, *, allow_empty_prompt: bool = False) -> None:
        self._core = _Core(backend, allow_empty_prompt)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def Generate(
        self, request: GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[GenerateResponse]:
        handed: queue.SimpleQueue[GenerateResponse | SmgError | None] = queue.SimpleQueue()
        loop = self._running_loop()
        ahead = asyncio.Semaphore(_AHEAD)

        async def work() -> None:
            try:
                async with aclosing(self._core.generate(request)) as replies:
                    async for reply in replies:
                        await ahead.acquire()
                        handed.put(reply)
                handed.put(None)
            except SmgError as error:
                handed.put(error)
            except asyncio.CancelledError:
                handed.put(None)
                raise

        task = asyncio.run_coroutine_threadsafe(work(), loop)

        def stop() -> None:
            task.cancel()

        # Also when the client is gone while the backend is silent.
        context.add_callback(stop)
        try:
            while (found := handed.get()) is not None:
                if isinstance(found, SmgError):
                    abort(context, found)
                yield found
                loop.call_soon_threadsafe(ahead.release)
        finally:
            stop()

    def close(self) -> None:
        """Close what the backend holds open, and end its thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._core.backend.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                run = self._loop.run_forever
                threading.Thread(target=run, name="smg-proto-llm", daemon=True).start()
            return self._loop
