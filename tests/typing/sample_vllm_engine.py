"""VllmEngine, sync and asyncio, client and servicer, as a user writes them. Runs as it is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto import common_pb2, vllm_engine_pb2, vllm_engine_pb2_grpc

if TYPE_CHECKING:
    from smg_proto.vllm_engine_pb2_grpc import VllmEngineAsyncStub

PROMPT = [1, 2, 3]


def request() -> vllm_engine_pb2.GenerateRequest:
    params = vllm_engine_pb2.SamplingParams(temperature=0.0, max_tokens=16, stop=["\n"], n=1)
    params.logit_bias[7] = -1.5
    made = vllm_engine_pb2.GenerateRequest(
        request_id="r",
        tokenized=vllm_engine_pb2.TokenizedInput(input_ids=PROMPT),
        sampling_params=params,
        stream=True,
    )
    made.data_parallel_rank = 0
    return made


def read(response: vllm_engine_pb2.GenerateResponse) -> list[int]:
    if response.WhichOneof("response") == "chunk":
        return list(response.chunk.token_ids)
    assert response.complete.finish_reason == "stop"
    return []


def chunk(token: int) -> vllm_engine_pb2.GenerateResponse:
    made = vllm_engine_pb2.GenerateStreamChunk(token_ids=[token], prompt_tokens=len(PROMPT))
    return vllm_engine_pb2.GenerateResponse(chunk=made)


def complete() -> vllm_engine_pb2.GenerateResponse:
    made = vllm_engine_pb2.GenerateComplete(finish_reason="stop", matched_token_id=0)
    return vllm_engine_pb2.GenerateResponse(complete=made)


class Engine(vllm_engine_pb2_grpc.VllmEngineServicer):
    def HealthCheck(
        self, request: vllm_engine_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> vllm_engine_pb2.HealthCheckResponse:
        return vllm_engine_pb2.HealthCheckResponse(healthy=True)

    def Generate(
        self, request: vllm_engine_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[vllm_engine_pb2.GenerateResponse]:
        if not request.HasField("tokenized"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "token ids are wanted")
        for token in request.tokenized.input_ids:
            yield chunk(token)
        yield complete()


class AsyncEngine(vllm_engine_pb2_grpc.VllmEngineServicer):
    async def HealthCheck(
        self,
        request: vllm_engine_pb2.HealthCheckRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> vllm_engine_pb2.HealthCheckResponse:
        return vllm_engine_pb2.HealthCheckResponse(healthy=True)

    async def Generate(
        self,
        request: vllm_engine_pb2.GenerateRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[vllm_engine_pb2.GenerateResponse]:
        for token in request.tokenized.input_ids:
            yield chunk(token)
        yield complete()

    async def SubscribeKvEvents(
        self,
        request: common_pb2.SubscribeKvEventsRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[common_pb2.KvEventBatch]:
        yield common_pb2.KvEventBatch(sequence_number=1)


def talk(channel: grpc.Channel) -> list[int]:
    stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
    healthy: bool = stub.HealthCheck(vllm_engine_pb2.HealthCheckRequest(), timeout=10).healthy
    assert healthy
    return [token for response in stub.Generate(request(), timeout=10) for token in read(response)]


async def talk_async(channel: grpc.aio.Channel) -> list[int]:
    stub: VllmEngineAsyncStub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
    health = await stub.HealthCheck(vllm_engine_pb2.HealthCheckRequest(), timeout=10)
    assert health.healthy
    call = stub.Generate(request(), timeout=10)
    tokens = [token async for response in call for token in read(response)]
    async for batch in stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest()):
        assert batch.sequence_number == 1
    return tokens


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(Engine(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert talk(channel) == PROMPT
    server.stop(None)


async def main_async() -> None:
    server = grpc.aio.server()
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(AsyncEngine(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await talk_async(channel) == PROMPT
    await server.stop(None)


if __name__ == "__main__":
    main()
    asyncio.run(main_async())
