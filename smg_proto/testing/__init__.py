"""Servers for tests and trials: no gateway, no GPU, one small deterministic model.

with run_vllm_engine() as address:
    stub = VllmEngineStub(grpc.insecure_channel(address))
"""

from smg_proto.testing.engine import FakeVllmEngine
from smg_proto.testing.scripting import Answer, Call, Counters, Fault, Received, Record, Script
from smg_proto.testing.server import Address, run_vllm_engine, serve_vllm_engine

__all__ = [
    "Address",
    "Answer",
    "Call",
    "Counters",
    "FakeVllmEngine",
    "Fault",
    "Received",
    "Record",
    "Script",
    "run_vllm_engine",
    "serve_vllm_engine",
]
