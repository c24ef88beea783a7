"""The servicers: one for grpc.aio.server and one for grpc.server, with a shared core."""

import asyncio
import functools
import logging
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing, suppress
from typing import Any, TypeVar, cast

import grpc

from smg_proto import llm_pb2_grpc
from smg_proto._serving.loop import LoopThread
from smg_proto.errors import FieldViolation, SmgError, abort, invalid
from smg_proto.llm._backends import Backend, EchoBackend, FunctionBackend, Piece
from smg_proto.llm_pb2 import GenerateRequest, GenerateResponse

log: logging.Logger = logging.getLogger("smg_proto.llm")

Source = Backend | Callable[..., AsyncIterator[str | Piece]]
_F = TypeVar("_F", bound=Callable[..., Any])

# How many pieces a backend may be ahead of a slow reader in a grpc.server.
MAX_PIECES_AHEAD = 16


class _Core:
    """Checks a request, runs the backend, and turns each failure into a status."""

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
            raise _plain(error) from None
        except Exception as error:
            # Only its type, because the text may quote the prompt.
            log.error("backend failed error=%s", type(error).__name__)
            raise SmgError(grpc.StatusCode.INTERNAL, _FAILED, reason="WORKER_ERROR") from None

    def _check(self, request: GenerateRequest) -> None:
        violations: list[FieldViolation] = []

        def check(valid: bool, field: str, why: str) -> None:
            if not valid:
                violations.append(FieldViolation(field, why))

        present = {field.name for field, _ in request.ListFields()}
        check(bool(request.prompt) or self._allow_empty_prompt, "prompt", "is required")
        for field, valid, why in (
            ("max_tokens", request.max_tokens >= 1, "must be at least 1"),
            ("temperature", 0 <= request.temperature <= 2, "must be from 0 to 2"),
            ("top_p", 0 < request.top_p <= 1, "must be above 0 and at most 1"),
        ):
            check(valid or field not in present, field, why)
        check(all(request.stop), "stop", "must not have an empty string")
        if violations:
            raise invalid(*violations)


_FAILED = "the backend failed"
_MESSAGES = {
    grpc.StatusCode.INVALID_ARGUMENT: "the backend rejects the request",
    grpc.StatusCode.NOT_FOUND: "the backend does not have this model",
    grpc.StatusCode.UNAUTHENTICATED: "the backend requires another key",
    grpc.StatusCode.PERMISSION_DENIED: "the backend does not permit the request",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the backend is full; try again later",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the backend did not reply in time",
    grpc.StatusCode.UNAVAILABLE: "the backend cannot be reached",
    grpc.StatusCode.UNIMPLEMENTED: "the backend does not support the request",
}


def _plain(error: SmgError) -> SmgError:
    """The same status with a fixed message: a backend's may quote the prompt or its address."""
    fields = [FieldViolation(v.field, "the backend rejects it") for v in error.field_violations]
    if error.reason == "INVALID_REQUEST" and not error.metadata:
        fields = list(error.field_violations)  # created in this process
    return SmgError(
        error.code,
        _MESSAGES.get(error.code, _FAILED),
        reason=error.reason or "WORKER_ERROR",
        field_violations=fields,
        retry_after=error.retry_after,
    )


def _for_aio(method: _F) -> _F:
    """Report an error if a grpc.server calls an async method.

    The body of an async generator never runs there, so the method itself checks its context.
    """
    return cast(_F, _AioMethod(method))


class _AioMethod:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, servicer: object | None, owner: type) -> Callable[..., Any]:
        return self._function if servicer is None else _AioCall(self._function, servicer)


class _AioCall(functools.partial[Any]):  # grpc.aio looks through a partial
    def __call__(self, request: Any, context: Any) -> Any:
        if isinstance(context, grpc.ServicerContext):
            _wrong_server(context, "LLMService is for grpc.aio.server; use SyncLLMService here")
        return super().__call__(request, context)


def _wrong_server(context: Any, message: str) -> None:
    log.error(message)
    context.abort(grpc.StatusCode.UNIMPLEMENTED, message)


class LLMService(llm_pb2_grpc.LLMServiceServicer):
    """LLMService for `grpc.aio.server`; SyncLLMService is for `grpc.server`.

    `backend` is an async function that yields text, or a Backend. Default: echo the prompt.
    """

    def __init__(self, backend: Source | None = None, *, allow_empty_prompt: bool = False) -> None:
        self._core = _Core(backend, allow_empty_prompt)

    @_for_aio
    async def Generate(
        self, request: GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[GenerateResponse]:
        failure: SmgError | None = None
        try:
            async with aclosing(self._core.generate(request)) as replies:
                async for reply in replies:
                    yield reply
        except SmgError as error:
            failure = error
        if failure:
            await abort(context, failure)

    async def aclose(self) -> None:
        """Close the backend."""
        await self._core.backend.aclose()


class SyncLLMService(llm_pb2_grpc.LLMServiceServicer):
    """LLMService for `grpc.server`; LLMService is for `grpc.aio.server`.

    The backend runs in its own event loop, in one thread for all calls. `close()` ends it.
    """

    def __init__(self, backend: Source | None = None, *, allow_empty_prompt: bool = False) -> None:
        self._core = _Core(backend, allow_empty_prompt)
        self._loop: LoopThread | None = None
        self._closed = False
        self._calls: set[Future[None]] = set()
        self._lock = threading.Lock()

    def Generate(
        self, request: GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[GenerateResponse]:
        untyped: Any = context  # of grpc.aio, if it is the wrong server
        if not isinstance(untyped, grpc.ServicerContext):
            _wrong_server(untyped, "SyncLLMService is for grpc.server; use LLMService here")
        ready: queue.SimpleQueue[GenerateResponse | None] = queue.SimpleQueue()
        room = asyncio.Semaphore(MAX_PIECES_AHEAD)

        async def work() -> None:
            async with aclosing(self._core.generate(request)) as replies:
                async for reply in replies:
                    await room.acquire()
                    ready.put(reply)

        failure: SmgError | None = _closed()
        if started := self._start(work):
            loop, call = started
            call.add_done_callback(lambda _: ready.put(None))  # however it ends

            def cancel() -> None:
                call.cancel()

            # The client may cancel while the backend produces nothing, or may already have done so.
            if not context.add_callback(cancel):
                cancel()
            try:
                while (reply := ready.get()) is not None:
                    yield reply
                    with suppress(RuntimeError):  # the loop may be closed by now
                        loop.call_soon_threadsafe(room.release)
                call.result()
                failure = None
            except SmgError as error:
                failure = error
            except CancelledError:
                pass
            finally:
                call.cancel()
                with self._lock:
                    self._calls.discard(call)
        if failure:
            abort(context, failure)

    def close(self) -> None:
        """End calls in flight with UNAVAILABLE, close the backend, and end the thread."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
            calls = list(self._calls)
        if loop is None:
            return
        for call in calls:
            call.cancel()
        try:
            loop.run(self._close_backend())
        finally:
            loop.close()

    def _start(
        self, work: Callable[[], Any]
    ) -> "tuple[asyncio.AbstractEventLoop, Future[None]] | None":
        """Run a call in the event loop, which the first call starts. None after close()."""
        with self._lock:
            if self._closed:
                return None
            if self._loop is None:
                self._loop = LoopThread("smg-proto-llm")
            call = self._loop.submit(work())
            self._calls.add(call)
            return self._loop.loop, call

    async def _close_backend(self) -> None:
        # The generators of cancelled calls are closed first.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await self._core.backend.aclose()


def _closed() -> SmgError:
    return SmgError(grpc.StatusCode.UNAVAILABLE, "the service is closed", reason="WORKER_ERROR")
