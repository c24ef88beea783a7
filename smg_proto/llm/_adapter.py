"""LLMGRPCAdapter: a complete server of LLMService."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import grpc

from smg_proto import llm_pb2_grpc
from smg_proto._serving.address import Address
from smg_proto._serving.loop import LoopThread
from smg_proto._serving.process import serve_until_shutdown, shutdown_by_signal
from smg_proto._serving.server import Server
from smg_proto.llm._service import LLMService, Source

log: logging.Logger = logging.getLogger("smg_proto.llm")

SERVICE = "entity.grpc.LLMService"


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of an adapter."""

    backend: Source | None = None
    """An async function that yields text, or a Backend. Default: echo the prompt."""
    host: str = "127.0.0.1"
    """The host to listen on, or "unix:PATH". "0.0.0.0" or "[::]" admits other machines."""
    port: int = 50051
    """The port to listen on. 0 selects a free port."""
    allow_empty_prompt: bool = False
    """Whether to accept requests without a prompt."""
    grace: float = 5.0
    """Seconds that calls in flight have to finish when the server stops."""
    max_request: int = 4 << 20
    """Maximum size of a request, in bytes."""
    credentials: grpc.ServerCredentials | None = None
    """The server's certificate. Default: plaintext."""


class LLMGRPCAdapter:
    """A server of LLMService, with health and reflection, in its own thread.

        with LLMGRPCAdapter({"port": 0}) as adapter:
            print(adapter.address)

    `serve()` returns when the server accepts calls. `wait()` blocks until the server has stopped.
    """

    def __init__(self, config: AdapterConfig | Mapping[str, Any] | None = None) -> None:
        self.config: AdapterConfig = (
            config if isinstance(config, AdapterConfig) else _config(config or {})
        )
        self._address = _address(self.config)
        self._service = LLMService(
            self.config.backend, allow_empty_prompt=self.config.allow_empty_prompt
        )
        self._server: Server | None = None
        self._loop: LoopThread | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """The address as a client's target, with the actual port once it serves."""
        return str(self._address)

    @property
    def port(self) -> int:
        return self._address.port

    def serve(self) -> "LLMGRPCAdapter":
        """Start serving. OSError if the address is not available."""
        if self._server is not None:
            raise RuntimeError("adapter already started: create a new one")
        self._loop = LoopThread("smg-proto-llm")
        try:
            self._loop.run(self._start())
        except BaseException:
            self._loop.close()
            raise
        return self

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, in the main thread. A second signal stops the drain."""
        if self._server is not None:
            raise RuntimeError("adapter already started: create a new one")
        asyncio.run(self._run())

    def shutdown(self) -> None:
        """Accept no new calls, let those in flight finish within the grace, then cancel them."""
        with self._lock:
            if self._loop is None or self._server is None or self._stopped.is_set():
                return
            try:
                self._loop.run(self._stop())
            finally:
                self._loop.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the server has stopped. False on timeout."""
        return self._stopped.wait(timeout)

    def __enter__(self) -> "LLMGRPCAdapter":
        return self.serve()

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def _run(self) -> None:
        async with shutdown_by_signal() as shutdown:
            await serve_until_shutdown(
                self._start,
                self._stop,
                shutdown,
                started=lambda: print(f"LLMService on {self.address}", flush=True),
                stopping=lambda: log.info("stopping drain=%gs", self.config.grace),
            )

    async def _start(self) -> None:
        server = Server(
            self._address,
            [SERVICE],
            credentials=self.config.credentials,
            options={"grpc.max_receive_message_length": self.config.max_request},
        )
        llm_pb2_grpc.add_LLMServiceServicer_to_server(self._service, server.grpc)
        await server.start()
        self._server, self._address = server, server.address

    async def _stop(self, grace: float | None = None) -> None:
        assert self._server
        try:
            await self._server.stop(self.config.grace if grace is None else grace)
        finally:
            await self._service.aclose()
            self._stopped.set()


def _config(settings: Mapping[str, Any]) -> AdapterConfig:
    known = {field.name for field in fields(AdapterConfig)}
    if unknown := settings.keys() - known:
        names = ", ".join(sorted(known))
        raise ValueError(f"unknown setting {min(unknown)!r}; choose from {names}")
    return AdapterConfig(**settings)


def _address(config: AdapterConfig) -> Address:
    host = config.host
    if host.startswith("unix:"):
        return Address.parse(host)
    bare = ":" in host and not host.startswith("[")
    return Address.parse(f"[{host}]:{config.port}" if bare else f"{host}:{config.port}")
