"""FakeVllmEngine: a `vllm.grpc.engine` server over the built-in model."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

import grpc

from smg_proto import common_pb2, vllm_engine_pb2_grpc
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing._engine.base import Context, FakeEngine
from smg_proto.testing._engine.load import MAX_RUNNING, Running
from smg_proto.testing._engine.replies import Choice, input_logprobs, model_info, server_info
from smg_proto.testing._engine.requests import MAX_LOGPROBS, prompt_of, sampling_of
from smg_proto.testing._scripting import Answer, interrupted
from smg_proto.testing._tokenizer import CHUNK_SIZE

_HEARTBEAT = 1.0
_RETRY = 0.01  # seconds between two attempts to flush
_IN_FLIGHT = "KV prefix cache reset refused; requests may be in flight"
_NO_TRACE = "OK; a fake engine writes no trace"


class FakeVllmEngine(FakeEngine, vllm_engine_pb2_grpc.VllmEngineServicer):
    """All RPCs of `VllmEngine`, with the behavior of the published vLLM server.

    Use run_vllm_engine(), or add it to your own grpc.aio server with `add_to_server`. `script` sets
    answers and faults, and `record` has the requests and the counters. `healthy` is HealthCheck's
    result, `token_delay` the seconds between two tokens, `tokens_per_chunk` the maximum number of
    tokens in a chunk, `kv_events` whether SubscribeKvEvents is supported, `profiler` whether the
    server was started with a profiler, and `max_logprobs` its --max-logprobs.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        token_delay: float = 0.0,
        tokens_per_chunk: int = 1,
        kv_events: bool = True,
        profiler: bool = False,
        max_logprobs: int = MAX_LOGPROBS,
    ) -> None:
        super().__init__(name=name, token_delay=token_delay, tokens_per_chunk=tokens_per_chunk)
        self.kv_events = kv_events
        self.profiler = profiler
        self.max_logprobs = max_logprobs
        self.profiling: bool = False

    @property
    def services(self) -> list[str]:
        """Full names of the services."""
        return ["vllm.grpc.engine.VllmEngine"]

    def add_to_server(self, server: grpc.aio.Server) -> None:
        vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(self, server)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        messages = partial(self._messages, request)
        async for message in self._generated(
            "Generate", request, request.request_id, messages, context
        ):
            yield message

    async def _messages(
        self, request: pb.GenerateRequest, answer: Answer | None, running: Running
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        prompt = prompt_of(request, self.model)
        sampling = sampling_of(
            request,
            None if answer is None else answer.written(),
            self.model.tokenizer.vocab_size,
            self.max_logprobs,
        )
        cached = self._admit(prompt)
        params = request.sampling_params
        inputs = input_logprobs(self.model, prompt, params)
        choices = [
            Choice(
                index=index,
                prompt_tokens=len(prompt),
                cached_tokens=cached,
                logprobs=sampling.logprobs,
                inputs=inputs,
                finish_override=answer.finish_reason if answer is not None else "",
                kv_params=request.kv_transfer_params_json,
            )
            for index in range(max(params.n, 1))
        ]
        chunk = None if request.stream else 1
        pieces = self._sequences(prompt, sampling, running, count=len(choices), chunk=chunk)
        async for index, made in pieces:
            choice = choices[index]
            for piece in made:
                choice.take(piece)
            if not made:
                choice.abort()
            if request.stream:
                for message in choice.messages(stream=True):
                    yield message
        if not request.stream:
            for choice in choices:
                for message in choice.messages(stream=False):
                    yield message

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        await self._receive_unary("Embed", request, context)
        tokens = request.tokenized.input_ids
        if not tokens:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "tokenized input is required")
        vector = self.model.embed(tokens)
        return pb.EmbedResponse(
            embedding=vector, prompt_tokens=len(tokens), embedding_dim=len(vector)
        )

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        await self._receive_unary("Abort", request, context)
        self._abort(*filter(None, request.request_ids))
        return pb.AbortResponse()

    async def HealthCheck(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        await self._receive_unary("HealthCheck", request, context)
        message = "Health" if self.healthy else "Engine is not alive"
        return pb.HealthCheckResponse(healthy=self.healthy, message=message)

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.GetModelInfoResponse:
        await self._receive_unary("GetModelInfo", request, context)
        return model_info(self.model, self.name)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        await self._receive_unary("GetServerInfo", request, context)
        return server_info(MAX_RUNNING)

    async def GetLoads(self, request: pb.GetLoadsRequest, context: Context) -> pb.GetLoadsResponse:
        await self._receive_unary("GetLoads", request, context)
        return self._meter.loads()

    async def GetTokenizer(
        self, request: common_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        fault = self._receive("GetTokenizer", request, context)
        async with self._status(context):
            async for chunk in interrupted(self._tokenizer_chunks(), fault):
                yield chunk

    async def _tokenizer_chunks(self) -> AsyncGenerator[common_pb2.GetTokenizerChunk, None]:
        bundle = self.model.tokenizer.bundle
        for start in range(0, len(bundle), CHUNK_SIZE):
            last = start + CHUNK_SIZE >= len(bundle)
            yield common_pb2.GetTokenizerChunk(
                data=bundle[start : start + CHUNK_SIZE],
                sha256=self.model.tokenizer.bundle_sha256 if last else "",
            )

    async def SubscribeKvEvents(
        self, request: common_pb2.SubscribeKvEventsRequest, context: Context
    ) -> AsyncIterator[common_pb2.KvEventBatch]:
        fault = self._receive("SubscribeKvEvents", request, context)
        if not self.kv_events:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "KV events are switched off")
        if request.start_sequence_number:
            message = "past events are not stored; start from 0"
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, message)
        # Otherwise grpc.aio holds back the headers until the first event, and the gateway gives up.
        await context.send_initial_metadata(())
        async with self._status(context):
            async for batch in interrupted(self._batches(), fault):
                yield batch

    async def _batches(self) -> AsyncGenerator[common_pb2.KvEventBatch, None]:
        # The published server ignores load_records_before_first_batch, and sends nothing before
        # the first event.
        may_send_load = False
        samples = 0
        queue = self._cache.listen()
        try:
            while True:
                try:
                    batch = await asyncio.wait_for(queue.get(), _HEARTBEAT)
                    may_send_load = True
                except asyncio.TimeoutError:
                    if not may_send_load:
                        continue
                    batch = common_pb2.KvEventBatch(
                        sequence_number=self._cache.sequence, timestamp=time.time(), dp_rank=0
                    )
                samples += 1
                load = self._meter.load(sample=samples)
                load.load_only = not batch.events
                sent = common_pb2.KvEventBatch(load=load)
                sent.MergeFrom(batch)
                yield sent
        finally:
            self._cache.unlisten(queue)

    async def FlushCache(
        self, request: common_pb2.FlushCacheRequest, context: Context
    ) -> common_pb2.FlushCacheResponse:
        await self._receive_unary("FlushCache", request, context)
        if not request.timeout_s >= 0:  # also rejects NaN
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "timeout_s must be at least 0")
        ends = time.monotonic() + request.timeout_s
        while self._meter.running:
            if not request.timeout_s:
                return common_pb2.FlushCacheResponse(success=False, message=_IN_FLIGHT)
            if time.monotonic() >= ends:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, _IN_FLIGHT)
            await asyncio.sleep(_RETRY)
        self._cache.clear()
        return common_pb2.FlushCacheResponse(success=True, message="Cache flushed")

    async def StartProfile(
        self, request: common_pb2.StartProfileRequest, context: Context
    ) -> common_pb2.ProfileResponse:
        await self._receive_unary("StartProfile", request, context)
        if request.ListFields():
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "profiler options are accepted only at launch"
            )
        await self._require_profiler(context)
        self.profiling = True
        return common_pb2.ProfileResponse(success=True, message=_NO_TRACE)

    async def StopProfile(
        self, request: common_pb2.StopProfileRequest, context: Context
    ) -> common_pb2.ProfileResponse:
        await self._receive_unary("StopProfile", request, context)
        await self._require_profiler(context)
        self.profiling = False
        return common_pb2.ProfileResponse(success=True, message=_NO_TRACE)

    async def _require_profiler(self, context: Context) -> None:
        if not self.profiler:
            await context.abort(grpc.StatusCode.INTERNAL, "profiling is not enabled at launch")
