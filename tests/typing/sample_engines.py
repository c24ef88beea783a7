"""The contracts that engines publish themselves, clients and servicers. Runs as it is."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto import (
    openengine_pb2,
    openengine_pb2_grpc,
    sglang_runtime_pb2,
    sglang_runtime_pb2_grpc,
    vllm_control_pb2,
    vllm_control_pb2_grpc,
    vllm_inference_pb2,
    vllm_inference_pb2_grpc,
)

if TYPE_CHECKING:
    from smg_proto.openengine_pb2_grpc import ControlAsyncStub
    from smg_proto.sglang_runtime_pb2_grpc import SglangServiceAsyncStub

PROMPT = [1, 2, 3]


class Inference(vllm_inference_pb2_grpc.InferenceServicer):
    def GenerateStream(
        self, request: vllm_inference_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[vllm_inference_pb2.GenerateResponse]:
        ids = request.token_ids.ids
        info = vllm_inference_pb2.PromptInfo(num_prompt_tokens=len(ids))
        yield vllm_inference_pb2.GenerateResponse(prompt_info=info)
        for token in ids:
            output = vllm_inference_pb2.SequenceOutput(token_ids=[token], num_tokens=1)
            yield vllm_inference_pb2.GenerateResponse(outputs=output)
        end = vllm_inference_pb2.FinishInfo(
            finish_reason=vllm_inference_pb2.FinishInfo.STOP, stop_token_id=0
        )
        last = vllm_inference_pb2.SequenceOutput(finish_info=end)
        yield vllm_inference_pb2.GenerateResponse(outputs=last)


class Control(vllm_control_pb2_grpc.ControlServicer):
    def GetServerInfo(
        self, request: vllm_control_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> vllm_control_pb2.ServerInfo:
        parallelism = vllm_control_pb2.ParallelismInfo(tensor_parallel_size=1)
        return vllm_control_pb2.ServerInfo(proto_version="0.6.0", parallelism=parallelism)


class Sglang(sglang_runtime_pb2_grpc.SglangServiceServicer):
    async def Generate(
        self,
        request: sglang_runtime_pb2.GenerateRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[sglang_runtime_pb2.GenerateResponse]:
        ids = request.input_ids
        for count in range(1, len(ids) + 1):
            meta = {"id": json.dumps(request.rid), "completion_tokens": json.dumps(count)}
            yield sglang_runtime_pb2.GenerateResponse(
                output_ids=ids[:count], meta_info=meta, finished=count == len(ids)
            )


class Engine(openengine_pb2_grpc.ControlServicer):
    async def Health(
        self,
        request: openengine_pb2.HealthRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> openengine_pb2.HealthResponse:
        state: openengine_pb2.HealthState.ValueType = openengine_pb2.HEALTH_STATE_READY
        return openengine_pb2.HealthResponse(state=state)


def talk_to_vllm(channel: grpc.Channel) -> list[int]:
    control = vllm_control_pb2_grpc.ControlStub(channel)
    info = control.GetServerInfo(vllm_control_pb2.GetServerInfoRequest(), timeout=10)
    version: str = info.proto_version
    assert version == "0.6.0"
    request = vllm_inference_pb2.GenerateRequest(
        token_ids=vllm_inference_pb2.TokenIds(ids=PROMPT),
        temperature=0.0,
        sampling=vllm_inference_pb2.RandomSampling(top_k=0),
        stopping=vllm_inference_pb2.StoppingCriteria(max_new_tokens=16),
    )
    request.kv.kv_transfer_params.update({"remote": True})
    tokens: list[int] = []
    stub = vllm_inference_pb2_grpc.InferenceStub(channel)
    for part in stub.GenerateStream(request, timeout=10):
        tokens.extend(part.outputs.token_ids)
        if part.outputs.HasField("finish_info"):
            assert part.outputs.finish_info.WhichOneof("stop_reason") == "stop_token_id"
    return tokens


async def talk_to_sglang(channel: grpc.aio.Channel) -> list[int]:
    stub: SglangServiceAsyncStub = sglang_runtime_pb2_grpc.SglangServiceStub(channel)
    request = sglang_runtime_pb2.GenerateRequest(input_ids=PROMPT, rid="r", stream=True)
    request.sampling_params.guided_decoding.regex = "a+"
    tokens: list[int] = []
    async for part in stub.Generate(request, timeout=10):
        tokens = list(part.output_ids)
        assert json.loads(part.meta_info["completion_tokens"]) == len(tokens)
    return tokens


async def talk_to_openengine(channel: grpc.aio.Channel) -> bool:
    stub: ControlAsyncStub = openengine_pb2_grpc.ControlStub(channel)
    reply = await stub.Health(openengine_pb2.HealthRequest(), timeout=10)
    return reply.state == openengine_pb2.HEALTH_STATE_READY


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    vllm_inference_pb2_grpc.add_InferenceServicer_to_server(Inference(), server)
    vllm_control_pb2_grpc.add_ControlServicer_to_server(Control(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert talk_to_vllm(channel) == PROMPT
    server.stop(None)


async def main_async() -> None:
    server = grpc.aio.server()
    sglang_runtime_pb2_grpc.add_SglangServiceServicer_to_server(Sglang(), server)
    openengine_pb2_grpc.add_ControlServicer_to_server(Engine(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await talk_to_sglang(channel) == PROMPT
        assert await talk_to_openengine(channel)
    await server.stop(None)


if __name__ == "__main__":
    assert "GenerateRequest" in openengine_pb2.DESCRIPTOR.message_types_by_name
    main()
    asyncio.run(main_async())
