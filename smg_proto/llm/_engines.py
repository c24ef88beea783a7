"""Backends over the network: an OpenAI-compatible server, a vLLM gRPC engine."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto.errors import SmgError
from smg_proto.llm._backends import Piece
from smg_proto.llm_pb2 import GenerateRequest

if TYPE_CHECKING:
    from smg_proto._http.upstream import Upstream
    from smg_proto.vllm import AsyncVLLMGrpcClient


class OpenAIBackend:
    """POST /v1/completions of an OpenAI-compatible server. Needs the extra `serve`.

    `url` is the server's, without /v1; `model` is used where a request names none.
    """

    def __init__(self, url: str, *, model: str = "", api_key: str = "") -> None:
        from smg_proto._http.upstream import Upstream as _needed  # noqa: F401  # pyright: ignore[reportUnusedImport]

        self._url, self._model = url.removesuffix("/").removesuffix("/v1"), model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._upstream: Upstream | None = None

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
        upstream, reader = await self._opened(), completion.CompletionChunks()
        async with upstream.listen("/v1/completions", body, self._headers) as stream:
            async for batch in stream.events:
                for event in (found for each in batch for found in reader.feed(each)):
                    if event.HasField("delta"):
                        yield Piece(event.delta.text)
                    elif event.HasField("end"):
                        end = event.end
                        yield Piece("", end.finish_reason, end.prompt_tokens, end.completion_tokens)
                if reader.done:
                    await stream.finish()
                    return
        raise truncated("the server's stream stopped before its end")

    async def _opened(self) -> "Upstream":
        if self._upstream is None:
            from smg_proto._http.upstream import Upstream

            upstream = Upstream(self._url)
            self._upstream = upstream
            await upstream.__aenter__()
        return self._upstream

    async def aclose(self) -> None:
        if self._upstream is not None:
            await self._upstream.__aexit__(None, None, None)
            self._upstream = None


class VLLMBackend:
    """A vLLM gRPC engine, with its own tokenizer. Needs the extras `client` and `decode`.

    `options` are AsyncVLLMGrpcClient's.
    """

    def __init__(self, target: str, **options: Any) -> None:
        from smg_proto.vllm import AsyncVLLMGrpcClient as _needed  # noqa: F401  # pyright: ignore[reportUnusedImport]

        self._target, self._options = target, options
        self._client: AsyncVLLMGrpcClient | None = None
        self._opening = asyncio.Lock()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        from smg_proto.vllm import VLLMGrpcError

        try:
            client = await self._opened()
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
            code = getattr(grpc.StatusCode, error.code or "", grpc.StatusCode.INTERNAL)
            raise SmgError(code, "the engine failed", reason="WORKER_ERROR") from error

    async def _opened(self) -> "AsyncVLLMGrpcClient":
        from smg_proto.vllm import AsyncVLLMGrpcClient, TokenDecoder

        async with self._opening:
            if self._client is None:
                client = AsyncVLLMGrpcClient(target=self._target, **self._options)
                try:
                    decoder = await TokenDecoder.afrom_client(client)
                except BaseException:
                    await client.close()
                    raise
                self._client = client.with_options(decoder=decoder)
                self._owner = client
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._owner.close()
            self._client = None
