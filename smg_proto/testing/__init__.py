"""Servers for tests and trials, without a gateway or a GPU: fakes over a small deterministic model.

with run_vllm_engine() as address:
    stub = VllmEngineStub(grpc.insecure_channel(address))
"""

from smg_proto.testing._engine.openengine import FakeOpenEngine
from smg_proto.testing._engine.servicer import FakeVllmEngine
from smg_proto.testing._engine.sglang import FakeSglang
from smg_proto.testing._engine.vllm import FakeVllm
from smg_proto.testing._gateway import FakeGateway
from smg_proto.testing._scripting import Answer, Call, Counters, Fault, Received, Record, Script
from smg_proto.testing._server import (
    Address,
    run_engine,
    run_gateway,
    run_vllm_engine,
    serve_engine,
    serve_gateway,
    serve_vllm_engine,
)

__all__ = [
    "Address",
    "Answer",
    "Call",
    "Counters",
    "FakeGateway",
    "FakeOpenEngine",
    "FakeSglang",
    "FakeVllm",
    "FakeVllmEngine",
    "Fault",
    "Received",
    "Record",
    "Script",
    "run_engine",
    "run_gateway",
    "run_vllm_engine",
    "serve_engine",
    "serve_gateway",
    "serve_vllm_engine",
]
