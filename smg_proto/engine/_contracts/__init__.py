"""The contracts that engines serve, one module each, which is loaded when it is needed."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from smg_proto.engine._contracts.base import Contract


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a contract before its module is loaded."""

    name: str
    module: str
    services: tuple[str, ...]
    """The first one generates."""
    probe: str
    """An RPC that only reads, takes an empty request, and that every server of it has."""


# Newest first, by the release that published each.
CONTRACTS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("vllm", "vllm", ("vllm.Inference", "vllm.Control"), "/vllm.Control/GetServerInfo"),
        Entry(
            "openengine.v1",
            "openengine",
            ("openengine.v1.Inference", "openengine.v1.Control"),
            "/openengine.v1.Control/GetServerInfo",
        ),
        Entry(
            "sglang.runtime.v1",
            "sglang_runtime",
            ("sglang.runtime.v1.SglangService",),
            "/sglang.runtime.v1.SglangService/GetModelInfo",
        ),
        Entry(
            "tokenspeed.grpc.scheduler",
            "tokenspeed",
            ("tokenspeed.grpc.scheduler.TokenSpeedScheduler",),
            "/tokenspeed.grpc.scheduler.TokenSpeedScheduler/GetModelInfo",
        ),
        Entry(
            "mlx.grpc.engine",
            "mlx",
            ("mlx.grpc.engine.MlxEngine",),
            "/mlx.grpc.engine.MlxEngine/GetModelInfo",
        ),
        Entry(
            "trtllm",
            "trtllm",
            ("trtllm.TrtllmService",),
            "/trtllm.TrtllmService/GetModelInfo",
        ),
        Entry(
            "vllm.grpc.engine",
            "vllm_engine",
            ("vllm.grpc.engine.VllmEngine",),
            "/vllm.grpc.engine.VllmEngine/GetModelInfo",
        ),
        Entry(
            "sglang.grpc.scheduler",
            "sglang_scheduler",
            ("sglang.grpc.scheduler.SglangScheduler",),
            "/sglang.grpc.scheduler.SglangScheduler/GetModelInfo",
        ),
    )
}


def served(services: Iterable[str]) -> tuple[str, ...]:
    """The contracts of which a server lists the service that generates, newest first."""
    there = set(services)
    return tuple(name for name, entry in CONTRACTS.items() if entry.services[0] in there)


def load(name: str) -> Contract:
    """A contract by its name."""
    module = import_module(f"smg_proto.engine._contracts.{CONTRACTS[name].module}")
    contract: Contract = module.CONTRACT
    return contract
