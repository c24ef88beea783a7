"""LLMGRPCAdapter: LLMService as a whole server, from a configuration."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import grpc

from smg_proto import llm_pb2_grpc
from smg_proto.llm._service import AsyncLLMService, Source

log: logging.Logger = logging.getLogger("smg_proto.llm")


@dataclass(frozen=True)
class AdapterConfig:
    """How an adapter serves."""

    # An async function, or a Backend; none echoes.
    backend: Source | None = None
    host: str = "[::]"
    # 0 takes a free one.
    port: int = 50051
    allow_empty_prompt: bool = False
    # Seconds that calls at work have when the server is told to stop.
    grace: float = 5.0
    # Largest request, in bytes.
    max_request: int = 4 << 20
    credentials: grpc.ServerCredentials | None = None


class LLMGRPCAdapter:
    """A server of LLMService.

        with LLMGRPCAdapter({"port": 0}) as adapter:
            print(adapter.address)

    `serve()` returns when calls can be made, so nobody has to sleep; `wait()` blocks until the
    server has stopped.
    """

    def __init__(self, config: AdapterConfig | Mapping[str, Any] | None = None) -> None:
        self.config: AdapterConfig = (
            config if isinstance(config, AdapterConfig) else _config(config or {})
        )
        self.port: int = 0
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"{self.config.host}:{self.port}"

    def serve(self) -> "LLMGRPCAdapter":
        """Start serving; OSError if the address cannot be had."""
        if self._thread is not None:
            raise RuntimeError("serve() was called already")
        ready: list[BaseException | None] = []
        begun = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(ready, begun)), name="smg-proto-llm", daemon=True
        )
        self._thread.start()
        begun.wait()
        if ready[0] is not None:
            self._thread.join()
            raise ready[0]
        return self

    def shutdown(self) -> None:
        """Take no new calls, let those at work end within the grace, then cancel them."""
        if self._loop is not None and self._stop is not None and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the server has stopped; False if it has not within the timeout."""
        return self._stopped.wait(timeout)

    def __enter__(self) -> "LLMGRPCAdapter":
        return self.serve()

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    async def _run(self, ready: list[BaseException | None], begun: threading.Event) -> None:
        config = self.config
        service = AsyncLLMService(config.backend, allow_empty_prompt=config.allow_empty_prompt)
        try:
            server = grpc.aio.server(
                options=[
                    ("grpc.so_reuseport", 0),
                    ("grpc.max_receive_message_length", config.max_request),
                ]
            )
            llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
            self.port = self._bind(server)
            await server.start()
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        except BaseException as error:
            ready.append(error)
            begun.set()
            return
        ready.append(None)
        begun.set()
        try:
            await self._stop.wait()
            await server.stop(config.grace)
            await service.aclose()
        finally:
            self._stopped.set()

    def _bind(self, server: grpc.aio.Server) -> int:
        address = f"{self.config.host}:{self.config.port}"
        try:
            if self.config.credentials:
                return server.add_secure_port(address, self.config.credentials)
            return server.add_insecure_port(address)
        except RuntimeError:
            raise OSError(f"cannot listen on {address}: in use, or no address here") from None


def _config(given: Mapping[str, Any]) -> AdapterConfig:
    known = {field.name for field in fields(AdapterConfig)}
    if unknown := given.keys() - known:
        names = ", ".join(sorted(known))
        raise ValueError(f"unknown setting {min(unknown)!r}; there are {names}")
    return AdapterConfig(**given)
