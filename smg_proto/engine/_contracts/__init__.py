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
    """The first one generates, and the last one describes the server."""

    @property
    def probe(self) -> str:
        """An RPC that only reads, takes an empty request, and that every server of it has."""
        return f"/{self.services[-1]}/GetModelInfo"


# Newest first, by the release that published each: the services of a contract.
_SERVICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("vllm", "vllm"): ("Inference", "Control"),
    ("openengine.v1", "openengine"): ("Inference", "Control"),
    ("sglang.runtime.v1", "sglang_runtime"): ("SglangService",),
    ("tokenspeed.grpc.scheduler", "tokenspeed"): ("TokenSpeedScheduler",),
    ("mlx.grpc.engine", "mlx"): ("MlxEngine",),
    ("trtllm", "trtllm"): ("TrtllmService",),
    ("vllm.grpc.engine", "vllm_engine"): ("VllmEngine",),
    ("sglang.grpc.scheduler", "sglang_scheduler"): ("SglangScheduler",),
}
CONTRACTS: dict[str, Entry] = {
    name: Entry(name, module, tuple(f"{name}.{service}" for service in services))
    for (name, module), services in _SERVICES.items()
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
