"""The contracts of engines: one module each, loaded when it is needed."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from smg_proto.engine._contracts.base import Contract


@dataclass(frozen=True, slots=True)
class Entry:
    """A contract whose module may not be loaded yet."""

    name: str
    module: str
    services: tuple[str, ...]
    """The first generates, and the last describes the server."""

    @property
    def probe(self) -> str:
        """An RPC that only reads, accepts an empty request, and exists on every such server."""
        return f"/{self.services[-1]}/GetModelInfo"


# Contract and module to services; newest first, by the release that published each.
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
    """The contracts whose generating service a server lists, newest first."""
    listed = set(services)
    return tuple(name for name, entry in CONTRACTS.items() if entry.services[0] in listed)


def load(name: str) -> Contract:
    """Load a contract by its name."""
    module = import_module(f"smg_proto.engine._contracts.{CONTRACTS[name].module}")
    contract: Contract = module.CONTRACT
    return contract
