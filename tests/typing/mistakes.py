"""Mistakes that users make. A type checker must flag every line marked `# wrong`, and no other."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

import smg_proto
from smg_grpc_proto import vllm_engine_pb2 as old_vllm_engine_pb2
from smg_proto import common_pb2, llm_pb2, llm_pb2_grpc, smg_pb2, smg_pb2_grpc
from smg_proto import openengine_pb2, openengine_pb2_grpc, vllm_inference_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_engine_pb2_grpc as pb_grpc
from smg_proto import vllm_engin_pb2  # wrong: no such module
from smg_proto.v1 import chat_pb2, token_pb2
from smg_proto.vllm import AsyncVLLMGrpcClient, VLLMGrpcClient

Context = grpc.ServicerContext


def messages() -> None:
    request = pb.GenerateRequest()
    pb.GenerateRequest(requestid="r")  # wrong: no such field
    pb.GenerateRequest(request_id=7)  # wrong: an integer for a string
    pb.GenerateRequest(tokenized=[1, 2])  # wrong: a list for a message
    pb.GenerateRequests()  # wrong: no such message
    request.request_id = b"r"  # wrong: bytes for a string
    request.stream = None  # wrong: None for a flag
    request.steam = True  # wrong: no such field
    request.tokenized = pb.TokenizedInput()  # wrong: a message field cannot be assigned
    request.tokenized.input_ids = [1]  # wrong: a repeated field cannot be assigned
    request.tokenized.input_ids.append("a")  # wrong: a string for a token id
    request.sampling_params.logit_bias["7"] = 1.0  # wrong: a string for an integer key
    request.sampling_params.stop.extend([1])  # wrong: integers for strings
    request.HasField("stream")  # wrong: a field without presence
    request.HasField("tokenised")  # wrong: no such field
    request.ClearField("tokens")  # wrong: no such field
    request.WhichOneof("output")  # wrong: no such oneof
    request.CopyFrom(pb.GenerateResponse())  # wrong: another message
    pb.TensorData(inline="text")  # wrong: a string for bytes
    pb.MediaRef(modality="IMAGE")  # wrong: a name for an enum value
    pb.MediaRef(modality=1)  # wrong: a number for an enum value
    common_pb2.Modality.Values()  # wrong: no such method
    print(common_pb2.IMAGES)  # wrong: no such enum value
    ids: list[str] = list(request.tokenized.input_ids)  # wrong: they are integers
    print(ids)
    llm_pb2.GenerateRequest(max_tokens="16")  # wrong: a string for a number
    smg_pb2.ChatReply()  # wrong: the facade has no such message
    smg_pb2.ChatMessage(role=smg_pb2.ROLE_ROBOT)  # wrong: no such enum value
    chat_pb2.ChatRequest(messages=["hello"])  # wrong: strings for messages
    chat_pb2.TokenIds()  # wrong: it is in another module
    token_pb2.TokenLogprob(logprob="x")  # wrong: a string for a number
    old_vllm_engine_pb2.GenerateRequest(text=1)  # wrong: an integer, by the old path too
    smg_proto.descriptor_set().files  # wrong: no such field
    smg_proto.proto_path().decode()  # wrong: a Path is no bytes


def calls(channel: grpc.Channel) -> None:
    stub = pb_grpc.VllmEngineStub(channel)
    stub.Generat(pb.GenerateRequest())  # wrong: no such RPC
    stub.Generate(pb.AbortRequest())  # wrong: another RPC's request
    stub.Generate(pb.GenerateRequest()).chunk  # wrong: a stream is no message
    stub.HealthCheck(pb.HealthCheckRequest(), timeout="1 s")  # wrong: a string for seconds
    for part in stub.HealthCheck(pb.HealthCheckRequest()):  # wrong: a message is no stream
        del part
    for response in stub.Generate(pb.GenerateRequest()):
        print(response.chunk.text)  # wrong: no such field
    pb_grpc.VllmEngineStub("127.0.0.1:50051")  # wrong: an address is no channel
    llm_pb2_grpc.LLMServiceStub(channel).Generate(pb.GenerateRequest())  # wrong: another service's


async def async_calls(channel: grpc.aio.Channel) -> None:
    stub = pb_grpc.VllmEngineStub(channel)
    print(stub.HealthCheck(pb.HealthCheckRequest()).healthy)  # wrong: not awaited
    for part in stub.Generate(pb.GenerateRequest()):  # wrong: not an async for
        del part
    await stub.Generate(pb.GenerateRequest())  # wrong: a stream cannot be awaited
    print((await stub.HealthCheck(pb.HealthCheckRequest())).health)  # wrong: no such field


def engines_of_their_own(channel: grpc.Channel) -> None:
    vllm_inference_pb2.GenerateRequest(token_ids=[1, 2])  # wrong: a list for a message
    vllm_inference_pb2.GenerateRequest(temperature="0")  # wrong: a string for a number
    vllm_inference_pb2.GetServerInfoRequest()  # wrong: in the other module
    openengine_pb2.GenerateRequest(input="x")  # wrong: a oneof is no field
    openengine_pb2_grpc.ControlStub(channel).Generate  # wrong: in the other service
    openengine_pb2_grpc.InferenceStub(channel).Generate(pb.GenerateRequest())  # wrong: vLLM's


class WrongResponse(pb_grpc.VllmEngineServicer):
    def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> bool:  # wrong
        return True


class WrongRequest(pb_grpc.VllmEngineServicer):
    def Abort(self, request: pb.EmbedRequest, context: Context) -> pb.AbortResponse:  # wrong
        return pb.AbortResponse()


class WrongKind(pb_grpc.VllmEngineServicer):
    def Generate(self, request: Any, context: Context) -> pb.GenerateResponse:  # wrong: no stream
        return pb.GenerateResponse()


class WrongStream(smg_pb2_grpc.ChatServiceServicer):
    def StreamChat(self, request: Any, context: Any) -> Iterator[smg_pb2.ChatDelta]:  # wrong
        yield smg_pb2.ChatDelta()


class WrongAsyncStream(llm_pb2_grpc.LLMServiceServicer):
    async def Generate(self, request: Any, context: Any) -> AsyncIterator[str]:  # wrong: strings
        yield "token"


def serve(server: grpc.Server) -> None:
    llm_pb2_grpc.add_LLMServiceServicer_to_server(WrongKind(), server)  # wrong: another service's
    pb_grpc.add_VllmEngineServicer_to_server(WrongKind(), "server")  # wrong: a string


def completions(client: VLLMGrpcClient) -> None:
    client.completions.create(prompt="x", best_of=2)  # wrong: no such parameter
    client.completions.create(prompt="x", max_tokens="9")  # wrong: a string for a number
    client.completions.create(prompt=7)  # wrong: a number is no prompt
    client.completions.create()  # wrong: no prompt
    print(client.completions.create(prompt="x").choices[0].txt)  # wrong: no such field
    print(client.completions.create(prompt="x", stream=True).choices)  # wrong: a stream
    client.with_options(retries=1)  # wrong: no such option
    client.health.check(timeout="soon")  # wrong: a string for seconds


async def async_completions(client: AsyncVLLMGrpcClient) -> None:
    print(client.completions.create(prompt="x").choices)  # wrong: not awaited
    stream = await client.completions.create(prompt="x", stream=True)
    for chunk in stream:  # wrong: not an async for
        del chunk
