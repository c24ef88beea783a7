"""Uses the installed smg_proto on whatever runtimes are installed beside it.

Imports every module, runs a unary and a streaming RPC through sync and async stubs, uses what the
base install has beside the stubs, and sends the messages of standard input through the parser (the
format of `peers.reserialize`). Prints one line of JSON. Run with warnings as errors.
"""

import asyncio
import json
import pkgutil
import sys
from collections.abc import Iterator
from concurrent import futures
from importlib import import_module
from importlib.metadata import version

import grpc
from google.protobuf.internal import api_implementation

import smg_grpc_proto
import smg_proto
from peers.reserialize import answer
from smg_proto import compat, errors, smg_pb2, smg_pb2_grpc, vllm_engine_pb2, vllm_engine_pb2_grpc
from smg_proto.testing import run_gateway


class Engine(vllm_engine_pb2_grpc.VllmEngineServicer):
    def HealthCheck(
        self, request: vllm_engine_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> vllm_engine_pb2.HealthCheckResponse:
        return vllm_engine_pb2.HealthCheckResponse(healthy=True, message="fine")

    def Generate(
        self, request: vllm_engine_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[vllm_engine_pb2.GenerateResponse]:
        for token in request.tokenized.input_ids:
            chunk = vllm_engine_pb2.GenerateStreamChunk(token_ids=[token])
            yield vllm_engine_pb2.GenerateResponse(chunk=chunk)


class Models(smg_pb2_grpc.ModelServiceServicer):
    def ListModels(
        self, request: smg_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> smg_pb2.ListModelsResponse:
        return smg_pb2.ListModelsResponse(models=[smg_pb2.Model(id="m")])


REQUEST = vllm_engine_pb2.GenerateRequest(
    tokenized=vllm_engine_pb2.TokenizedInput(input_ids=[1, 2, 3])
)
CHECK = vllm_engine_pb2.HealthCheckRequest()


def import_all() -> int:
    """Every module of the package and of its old import path: how many."""
    names = [
        module.name
        for package in (smg_proto, smg_grpc_proto)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if "_pb2" in module.name
    ]
    for name in names:
        import_module(name)
    return len(names)


def call(address: str) -> list[object]:
    with grpc.insecure_channel(address) as channel:
        engine = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        tokens = [part.chunk.token_ids[0] for part in engine.Generate(REQUEST, timeout=10)]
        models = smg_pb2_grpc.ModelServiceStub(channel)
        listed = models.ListModels(smg_pb2.ListModelsRequest(), timeout=10).models[0].id
        return [engine.HealthCheck(CHECK, timeout=10).message, tokens, listed]


async def call_async(address: str) -> list[object]:
    async with grpc.aio.insecure_channel(address) as channel:
        engine = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        tokens = [part.chunk.token_ids[0] async for part in engine.Generate(REQUEST, timeout=10)]
        models = smg_pb2_grpc.ModelServiceStub(channel)
        listed = (await models.ListModels(smg_pb2.ListModelsRequest(), timeout=10)).models[0].id
        return [(await engine.HealthCheck(CHECK, timeout=10)).message, tokens, listed]


def helpers() -> list[object]:
    """An answer of the embedded gateway, a refusal as a typed error, a comparison of contracts."""
    with run_gateway() as address, grpc.insecure_channel(address) as channel:
        stub = smg_pb2_grpc.CompletionServiceStub(channel)
        request = smg_pb2.CompletionRequest(model="demo-model", prompt="One contract", max_tokens=2)
        answer = stub.Complete(request, timeout=10).text
        request.max_tokens = 0
        try:
            raise AssertionError(stub.Complete(request, timeout=10))
        except grpc.RpcError as error:
            refused = errors.from_rpc_error(error)
    fields = [violation.field for violation in refused.field_violations]
    now = compat.load("self")
    return [answer, refused.reason, fields, len(compat.diff(now, now).findings)]


def main() -> None:
    modules = import_all()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(Engine(), server)
    smg_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    output = {
        "sync": call(address),
        "async": asyncio.run(call_async(address)),
        "helpers": helpers(),
        "versions": [version("protobuf"), version("grpcio"), version("smg-grpc-proto")],
        "implementation": api_implementation.Type(),
        "modules": modules,
        "installed": "site-packages" in str(smg_proto.__file__),
        "messages": answer(sys.stdin.readline()),
    }
    server.stop(None).wait()
    print(json.dumps(output))


if __name__ == "__main__":
    main()
