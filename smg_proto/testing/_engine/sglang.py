"""FakeSglang: SGLang's own service, `sglang.runtime.v1`, over the built-in model."""

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from smg_proto import sglang_runtime_pb2 as pb
from smg_proto import sglang_runtime_pb2_grpc
from smg_proto.testing._engine.base import Context, FakeEngine
from smg_proto.testing._engine.checks import Rejected
from smg_proto.testing._engine.load import MAX_RUNNING, Running
from smg_proto.testing._engine.sglang_runtime import (
    Choice,
    Params,
    count_of,
    prompt_of,
    sampling_of,
)
from smg_proto.testing._kv_cache import BLOCK_SIZE
from smg_proto.testing._scripting import Answer

_Chunk = dict[str, Any]


class FakeSglang(FakeEngine, sglang_runtime_pb2_grpc.SglangServiceServicer):
    """SGLang's own gRPC server: generation, embeddings, tokenization, and control.

    Each message of a stream repeats the whole output so far, as SGLang's messages do; `incremental`
    is SGLang's `--incremental-streaming-output`. Classification, the OpenAI RPCs, profiles and
    weights are UNIMPLEMENTED. `script` and `record` work as in FakeVllmEngine.
    """

    generating: frozenset[str] = frozenset({"Generate", "TextGenerate"})

    def __init__(
        self,
        *,
        name: str | None = None,
        token_delay: float = 0.0,
        tokens_per_chunk: int = 1,
        incremental: bool = False,
    ) -> None:
        super().__init__(name=name, token_delay=token_delay, tokens_per_chunk=tokens_per_chunk)
        self.incremental = incremental

    @property
    def services(self) -> list[str]:
        """Full names of the services."""
        return ["sglang.runtime.v1.SglangService"]

    def add_to_server(self, server: grpc.aio.Server) -> None:
        sglang_runtime_pb2_grpc.add_SglangServiceServicer_to_server(self, server)

    async def TextGenerate(
        self, request: pb.TextGenerateRequest, context: Context
    ) -> AsyncIterator[pb.TextGenerateResponse]:
        async for chunk, finished in self._run("TextGenerate", request, context):
            yield pb.TextGenerateResponse(
                text=chunk["text"], meta_info=_json_values(chunk["meta_info"]), finished=finished
            )

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        async for chunk, finished in self._run("Generate", request, context):
            yield pb.GenerateResponse(
                output_ids=chunk["output_ids"],
                meta_info=_json_values(chunk["meta_info"]),
                finished=finished,
            )

    async def _run(
        self, rpc: str, request: pb.TextGenerateRequest | pb.GenerateRequest, context: Context
    ) -> AsyncGenerator[tuple[_Chunk, bool], None]:
        params = _params(request)
        chunks = partial(self._chunks, params)
        async for chunk, finished in self._generated(rpc, request, params["rid"], chunks, context):
            yield chunk, finished

    async def _chunks(
        self, params: Params, answer: Answer | None, running: Running
    ) -> AsyncGenerator[tuple[_Chunk, bool], None]:
        """The chunks of a request, each with whether it is the last."""
        try:
            prompt = prompt_of(params)
            sampling = sampling_of(params, None if answer is None else answer.written())
        except ValueError as error:  # SGLang's server does not distinguish them from its failures
            raise Rejected(str(error), grpc.StatusCode.INTERNAL) from None
        cached = self._admit(prompt)
        choices = [Choice(params, prompt, index, cached) for index in range(count_of(params))]
        unfinished = len(choices)
        async for index, pieces in self._sequences(prompt, sampling, running, count=unfinished):
            choice = choices[index]
            if not pieces:
                raise Rejected(f"Request aborted: {params['rid']}", grpc.StatusCode.CANCELLED)
            choice.take(pieces)
            if choice.reason is not None and answer is not None and answer.finish_reason:
                choice.reason["type"] = answer.finish_reason
            unfinished -= choice.reason is not None
            if params["stream"]:
                yield choice.chunk(incremental=self.incremental), not unfinished
        if not params["stream"]:
            for number, choice in enumerate(choices, start=1):
                yield choice.chunk(incremental=False), number == len(choices)

    async def TextEmbed(
        self, request: pb.TextEmbedRequest, context: Context
    ) -> pb.TextEmbedResponse:
        await self._receive_unary("TextEmbed", request, context)
        tokens = self.model.tokenizer.encode(request.text)
        return pb.TextEmbedResponse(
            embedding=self.model.embed(tokens), meta_info={"prompt_tokens": str(len(tokens))}
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        await self._receive_unary("Embed", request, context)
        tokens = request.input_ids
        return pb.EmbedResponse(
            embedding=self.model.embed(tokens), meta_info={"prompt_tokens": str(len(tokens))}
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        await self._receive_unary("Tokenize", request, context)
        tokens = self.model.tokenizer.encode(request.text)
        return pb.TokenizeResponse(
            tokens=tokens,
            count=len(tokens),
            max_model_len=self.model.context_length,
            input_text=request.text,
        )

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        await self._receive_unary("Detokenize", request, context)
        return pb.DetokenizeResponse(text=self.model.tokenizer.decode(request.tokens))

    async def HealthCheck(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        await self._receive_unary("HealthCheck", request, context)
        return pb.HealthCheckResponse(healthy=self.healthy)

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.GetModelInfoResponse:
        await self._receive_unary("GetModelInfo", request, context)
        info = {"model_path": self.name, "served_model_name": self.name, "is_generation": True}
        return pb.GetModelInfoResponse(model_path=self.name, json_info=json.dumps(info))

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        await self._receive_unary("GetServerInfo", request, context)
        info = {
            "version": "0.5.23",
            "max_running_requests": MAX_RUNNING,
            "page_size": BLOCK_SIZE,
            "incremental_streaming_output": self.incremental,
        }
        return pb.GetServerInfoResponse(json_info=json.dumps(info))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        await self._receive_unary("ListModels", request, context)
        maximum = self.model.context_length
        card = pb.ModelCard(id=self.name, root=self.name, max_model_len=maximum)
        return pb.ListModelsResponse(models=[card])

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.GetLoadResponse:
        await self._receive_unary("GetLoad", request, context)
        load = self._meter.load()
        info = {
            "dp_rank": 0,
            "num_running_reqs": load.running_requests,
            "num_waiting_reqs": 0,
            "num_used_tokens": load.num_used_tokens,
            "max_total_num_tokens": load.max_total_num_tokens,
            "token_usage": load.token_usage,
            "gen_throughput": load.gen_throughput,
        }
        return pb.GetLoadResponse(json_info=json.dumps([info]))

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        await self._receive_unary("Abort", request, context)
        if not request.rid and not request.abort_all:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Abort requires a non-empty rid unless abort_all is true",
            )
        running = [one.request_id for one in self._meter.running]
        self._abort(*(running if request.abort_all else [request.rid]))
        return pb.AbortResponse(success=True)

    async def FlushCache(
        self, request: pb.FlushCacheRequest, context: Context
    ) -> pb.FlushCacheResponse:
        await self._receive_unary("FlushCache", request, context)
        self._cache.clear()
        return pb.FlushCacheResponse(success=True, message="Cache flushed.")


def _params(request: pb.TextGenerateRequest | pb.GenerateRequest) -> Params:
    """The request with the names of SGLang's runtime, as its server passes it to the runtime."""
    # MessageToDict writes 64-bit numbers as strings; `seed` is the only one here.
    params: Params = MessageToDict(request, preserving_proto_field_name=True)
    if isinstance(request, pb.GenerateRequest):
        params["input_ids"] = list(request.input_ids)
    else:
        params["text"] = request.text
    sampling: Params = params.get("sampling_params", {})
    if "seed" in sampling:
        sampling["sampling_seed"] = int(sampling.pop("seed"))
    guided: Params = sampling.pop("guided_decoding", {})
    if values := guided.pop("choice", {}).get("values"):
        guided["regex"] = f"(?:{'|'.join(_literal(value) for value in values)})"
    sampling |= guided
    params["stream"] = request.stream
    params["rid"] = request.rid or str(uuid.uuid4())
    return params


def _literal(text: str) -> str:
    return "".join(f"\\{letter}" if letter in r"\.^$|()[]{}*+?" else letter for letter in text)


def _json_values(meta: dict[str, Any]) -> dict[str, str]:
    """Each value as JSON."""
    return {key: json.dumps(value) for key, value in meta.items()}
