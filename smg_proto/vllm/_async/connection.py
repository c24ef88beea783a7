"""The server that a client and all its copies talk to, over one channel."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from smg_proto import vllm_engine_pb2_grpc
from smg_proto.vllm._config import Address
from smg_proto.vllm._errors import VLLMGrpcClosedError, VLLMGrpcError
from smg_proto.vllm._telemetry import telemetry_of
from smg_proto.vllm._types import ModelInfo
from smg_proto.vllm._wait import AsyncHome, AsyncReplies, AsyncSingle

_CLOSED = "the client has been closed; make a new one"


class Closable(Protocol):
    def close(self, why: str = ...) -> None: ...


class AsyncConnection:
    """Opened by the first call, since a channel may belong to an event loop."""

    def __init__(self, address: Address, given: grpc.aio.Channel | None, telemetry: bool) -> None:
        self.address = address
        self.given = given  # a channel of the caller's, which is not ours to close
        self.closed = False
        self.calls: set[Closable] = set()  # that may still run
        self.model: ModelInfo | None = None
        self.nameless = False  # the model's name has been waited for in vain
        self.telemetry = telemetry_of(address.target, telemetry)
        self.channel: grpc.aio.Channel | None = given
        self._stub: Any = None
        self._home: AsyncHome | None = None
        self._opening = threading.Lock()

    def check(self) -> None:
        if self.closed:
            raise VLLMGrpcClosedError(_CLOSED)

    @property
    def home(self) -> AsyncHome:
        """Where it belongs. Opens the channel if need be."""
        self.check()
        home = self._home or self._open()
        if not home.is_here():
            raise VLLMGrpcError("the client belongs to another event loop; make one for each")
        return home

    def _open(self) -> AsyncHome:
        with self._opening:  # several threads may make their first call at once
            if self._home is None:
                if self.channel is None:
                    self.channel = self.address.async_channel()
                self._stub = vllm_engine_pb2_grpc.VllmEngineStub(self.channel)
                self._home = AsyncHome()
            return self._home

    def stream(self, rpc: str) -> Callable[..., AsyncReplies]:
        """The method of a stub for an RPC that streams."""
        assert self.home
        method: Callable[..., AsyncReplies] = getattr(self._stub, rpc)
        return method

    def unary(self, rpc: str) -> Callable[..., AsyncReplies]:
        """The same for one that does not."""
        assert self.home
        return AsyncSingle.of(getattr(self._stub, rpc))

    async def close(self) -> None:
        """End all calls, and the channel if it is ours."""
        if self.closed:
            return
        self.closed = True
        for call in list(self.calls):
            call.close(_CLOSED)
        if self.channel is not None and self.given is None:
            await self.channel.close()
