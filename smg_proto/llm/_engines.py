"""Backends over the network: OpenAI-compatible servers, and engines over gRPC."""

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


class _Lazy(Generic[T]):
    """A resource that the first request opens. Concurrent requests open it only once."""

    def __init__(self, open_: Callable[[AsyncExitStack], Awaitable[T]]) -> None:
        self._open = open_
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._resource: list[T] = []  # empty or one

    async def get(self) -> T:
        async with self._lock:
            if not self._resource:
                async with AsyncExitStack() as stack:
                    self._resource.append(await self._open(stack))
                    self._stack = stack.pop_all()
            return self._resource[0]

    async def aclose(self) -> None:
        async with self._lock:
            self._resource.clear()
            await self._stack.aclose()


class OpenAIBackend:
    """POST /v1/completions of an OpenAI-compatible server. Requires the extra `serve`.

    `url` is the server's, with or without /v1. `model` is for requests without a model.
    """

    def __init__(self, url: str, *, model: str = "", api_key: str = "") -> None:
        import_module("smg_proto._http.upstream")  # report a missing extra now, not per request
        self._url, self._model = url.removesuffix("/").removesuffix("/v1"), model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._upstream = _Lazy(self._open)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        from smg_proto import smg_pb2
        from smg_proto._http.failures import truncated
        from smg_proto._http.fields import write_request
        from smg_proto._http.mapping import completion

        converted = smg_pb2.CompletionRequest(prompt=request.prompt, stop=request.stop)
        converted.model = request.model or self._model
        for name in ("max_tokens", "temperature", "top_p", "seed"):
            if request.HasField(name):
                setattr(converted, name, getattr(request, name))
        body = write_request(completion.REQUEST, converted)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        upstream, reader = await self._upstream.get(), completion.CompletionChunks()
        async with upstream.stream("/v1/completions", body, self._headers) as stream:
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
        raise truncated("the server's stream ended early")

    async def _open(self, stack: AsyncExitStack) -> "Upstream":
        from smg_proto._http.upstream import Upstream

        return await stack.enter_async_context(Upstream(self._url))

    async def aclose(self) -> None:
        await self._upstream.aclose()


class VLLMBackend:
    """A vLLM gRPC engine, with its own tokenizer. Requires the extras `client` and `decode`.

    `options` are those of AsyncVLLMGrpcClient.
    """

    def __init__(self, target: str, **options: Any) -> None:
        import_module("smg_proto.vllm")  # report a missing extra now, not per request
        self._target, self._options = target, options
        self._client = _Lazy(self._open)

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
    """An engine of any contract with text: `vllm`, `sglang.runtime.v1`, `openengine.v1`.

    `options` are those of smg_proto.engine.connect: with `decoder="server"` any other contract of
    an engine will do.
    """

    def __init__(self, target: str, **options: Any) -> None:
        engine = import_module("smg_proto.engine")
        engine.connect(target, **options)  # report an invalid option now, not per request
        self._target, self._options = target, options
        self._engine = _Lazy(self._open)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        from smg_proto.engine import EngineError

        try:
            engine = await self._engine.get()
            if not engine.has_text:
                why = f"the engine's contract {engine.contract} has no text, only token ids"
                raise SmgError(grpc.StatusCode.FAILED_PRECONDITION, why, reason="WORKER_ERROR")
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

    field = ""
    if isinstance(error, ParameterError):
        field = error.parameter
    elif isinstance(error, UnsupportedError):
        field = error.what
    code = "INVALID_ARGUMENT" if field else error.code or "INTERNAL"
    return SmgError(
        getattr(grpc.StatusCode, code),
        "the engine failed",
        reason="INVALID_REQUEST" if isinstance(error, RequestError) or field else "WORKER_ERROR",
        field_violations=[FieldViolation(field, "the engine rejects it")] if field else (),
    )


def _from_engine(error: "VLLMGrpcError") -> SmgError:
    """The engine's status without its text."""
    from smg_proto.vllm import VLLMGrpcValidationError

    wait = error.pushback or 0.0
    params = [error.param] if isinstance(error, VLLMGrpcValidationError) else []
    return SmgError(
        getattr(grpc.StatusCode, error.code or "", grpc.StatusCode.INTERNAL),
        "the engine failed",
        reason="INVALID_REQUEST" if params else "WORKER_ERROR",
        field_violations=[FieldViolation(param, "the engine rejects it") for param in params],
        retry_after=timedelta(seconds=wait) if wait > 0 else None,
    )
