"""Backends over the network: an OpenAI-compatible server, an engine over gRPC."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc

from smg_proto.errors import FieldViolation, SmgError
from smg_proto.llm._backends import Piece
from smg_proto.llm_pb2 import GenerateRequest

if TYPE_CHECKING:
    from smg_proto._http.upstream import Upstream
    from smg_proto.engine import AsyncEngine, EngineError
    from smg_proto.vllm import AsyncVLLMGrpcClient, VLLMGrpcError

T = TypeVar("T")


class _Opened(Generic[T]):
    """What a backend holds open: opened by the first request, once, however many come at a time."""

    def __init__(self, open_: Callable[[AsyncExitStack], Awaitable[T]]) -> None:
        self._open = open_
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._held: list[T] = []

    async def get(self) -> T:
        async with self._lock:
            if not self._held:
                async with AsyncExitStack() as stack:
                    self._held.append(await self._open(stack))
                    self._stack = stack.pop_all()
            return self._held[0]

    async def aclose(self) -> None:
        async with self._lock:
            self._held.clear()
            await self._stack.aclose()


class OpenAIBackend:
    """POST /v1/completions of an OpenAI-compatible server. Needs the extra `serve`.

    `url` is the server's, with or without /v1; `model` is for requests that name none.
    """

    def __init__(self, url: str, *, model: str = "", api_key: str = "") -> None:
        import_module("smg_proto._http.upstream")  # a missing extra shows now, not at a request
        self._url, self._model = url.removesuffix("/").removesuffix("/v1"), model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._upstream = _Opened(self._open)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        from smg_proto import smg_pb2
        from smg_proto._http.failures import truncated
        from smg_proto._http.fields import write_request
        from smg_proto._http.mapping import completion

        asked = smg_pb2.CompletionRequest(prompt=request.prompt, stop=request.stop)
        asked.model = request.model or self._model
        for name in ("max_tokens", "temperature", "top_p", "seed"):
            if request.HasField(name):
                setattr(asked, name, getattr(request, name))
        body = write_request(completion.REQUEST, asked)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        upstream, reader = await self._upstream.get(), completion.CompletionChunks()
        async with upstream.listen("/v1/completions", body, self._headers) as stream:
            while (batch := await stream.read()) is not None:
                for event in reader.read(batch):
                    if event.HasField("delta"):
                        yield Piece(event.delta.text)
                    elif event.HasField("end"):
                        end = event.end
                        yield Piece("", end.finish_reason, end.prompt_tokens, end.completion_tokens)
                if reader.done:
                    stream.finish()
                    return
        raise truncated("the server's stream stopped before its end")

    async def _open(self, stack: AsyncExitStack) -> "Upstream":
        from smg_proto._http.upstream import Upstream

        return await stack.enter_async_context(Upstream(self._url))

    async def aclose(self) -> None:
        await self._upstream.aclose()


class VLLMBackend:
    """A vLLM gRPC engine, with its own tokenizer. Needs the extras `client` and `decode`.

    `options` are those of AsyncVLLMGrpcClient.
    """

    def __init__(self, target: str, **options: Any) -> None:
        import_module("smg_proto.vllm")  # a missing extra shows now, not at a request
        self._target, self._options = target, options
        self._client = _Opened(self._open)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        from smg_proto.vllm import VLLMGrpcError

        try:
            client = await self._client.get()
            given: dict[str, Any] = {
                name: getattr(request, name)
                for name in ("max_tokens", "temperature", "top_p", "seed", "request_id")
                if request.HasField(name)
            }
            if request.stop:
                given["stop"] = list(request.stop)
            stream = await client.completions.create(prompt=request.prompt, stream=True, **given)
            async with stream:
                reason = None
                async for chunk in stream:
                    for choice in chunk.choices:
                        reason = choice.finish_reason or reason
                        if choice.text:
                            yield Piece(choice.text)
                usage = stream.usage
                yield Piece("", reason, usage.prompt_tokens, usage.completion_tokens)
        except VLLMGrpcError as error:
            raise _from_engine(error) from error

    async def _open(self, stack: AsyncExitStack) -> "AsyncVLLMGrpcClient":
        from smg_proto.vllm import AsyncVLLMGrpcClient, TokenDecoder

        client = AsyncVLLMGrpcClient(target=self._target, **self._options)
        stack.push_async_callback(client.close)
        return client.with_options(decoder=await TokenDecoder.afrom_client(client))

    async def aclose(self) -> None:
        await self._client.aclose()


class EngineBackend:
    """An engine of any contract that has text: `vllm`, `sglang.runtime.v1`, `openengine.v1`.

    `options` are those of smg_proto.engine.connect: with `decoder="server"` any other contract of
    an engine will do.
    """

    def __init__(self, target: str, **options: Any) -> None:
        engine = import_module("smg_proto.engine")
        engine.connect(target, **options)  # a wrong option shows now, not at a request
        self._target, self._options = target, options
        self._engine = _Opened(self._open)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        from smg_proto.engine import EngineError

        try:
            engine = await self._engine.get()
            if not engine.has_text:
                what = f"the engine speaks {engine.contract}, which carries token ids alone"
                raise SmgError(grpc.StatusCode.FAILED_PRECONDITION, what, reason="WORKER_ERROR")
            given: dict[str, Any] = {
                name: getattr(request, name)
                for name in ("max_tokens", "temperature", "top_p", "seed", "request_id")
                if request.HasField(name)
            }
            stops = list(request.stop) or None
            async with engine.generate(prompt=request.prompt, stop=stops, **given) as stream:
                async for piece in stream:
                    if piece.text:
                        yield Piece(piece.text)
                    if usage := piece.usage:
                        reason, prompt = piece.finish_reason, usage.prompt_tokens
                        yield Piece("", reason, prompt, usage.completion_tokens)
        except EngineError as error:
            raise _from_any_engine(error) from error

    async def _open(self, stack: AsyncExitStack) -> "AsyncEngine":
        from smg_proto.engine import connect

        return await stack.enter_async_context(connect(self._target, **self._options))

    async def aclose(self) -> None:
        await self._engine.aclose()


def _from_any_engine(error: "EngineError") -> SmgError:
    """The engine's status without its text."""
    from smg_proto.engine import ParameterError, RequestError, UnsupportedError

    at_fault = ""
    if isinstance(error, ParameterError):
        at_fault = error.parameter
    elif isinstance(error, UnsupportedError):
        at_fault = error.what
    code = "INVALID_ARGUMENT" if at_fault else error.code or "INTERNAL"
    return SmgError(
        getattr(grpc.StatusCode, code),
        "the engine failed",
        reason="INVALID_REQUEST" if isinstance(error, RequestError) or at_fault else "WORKER_ERROR",
        field_violations=[FieldViolation(at_fault, "the engine rejects it")] if at_fault else (),
    )


def _from_engine(error: "VLLMGrpcError") -> SmgError:
    """The engine's status without its text."""
    from smg_proto.vllm import VLLMGrpcValidationError

    wait = error.pushback
    at_fault = [error.param] if isinstance(error, VLLMGrpcValidationError) else []
    return SmgError(
        getattr(grpc.StatusCode, error.code or "", grpc.StatusCode.INTERNAL),
        "the engine failed",
        reason="INVALID_REQUEST" if at_fault else "WORKER_ERROR",
        field_violations=[FieldViolation(param, "the engine rejects it") for param in at_fault],
        retry_after=timedelta(seconds=wait) if wait and wait > 0 else None,
    )
