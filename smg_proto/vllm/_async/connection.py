"""The server that a client and all its copies talk to, over one channel."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from smg_proto import vllm_engine_pb2_grpc
from smg_proto.vllm._config import Address
from smg_proto.vllm._errors import VLLMGrpcClosedError, VLLMGrpcError
from smg_proto.vllm._inference import SHARED, methods, translated
from smg_proto.vllm._telemetry import Telemetry, telemetry_of
from smg_proto.vllm._types import ModelInfo
from smg_proto.vllm._wait import AsyncHome, AsyncReplies, AsyncSingle

_CLOSED = "the client has been closed; make a new one"
_STREAMS = frozenset({"Generate", "GetTokenizer", "SubscribeKvEvents"})


class Closable(Protocol):
    def close(self, why: str = ...) -> None: ...


class AsyncConnection:
    """Opened by the first call, since a channel may belong to an event loop."""

    def __init__(
        self, address: Address, given: grpc.aio.Channel | None, telemetry: bool, protocol: str
    ) -> None:
        self.address = address
        self.given = given  # a channel of the caller's, which is not ours to close
        self.closed: bool = False
        self.calls: set[Closable] = set()  # that may still run
        self.model: ModelInfo | None = None
        self.nameless = False  # the model's name has been waited for in vain
        self.inference: bool = protocol == "inference"
        """Whether the server is spoken to in vLLM's own protocol."""
        self.unsure: bool = protocol == "auto"
        """Whether the server may speak the other one."""
        self.telemetry: Telemetry | None = telemetry_of(address.target, telemetry)
        self.channel: grpc.aio.Channel | None = given
        self._methods: dict[str, Callable[..., Any]] = {}
        self._translated: dict[str, Callable[..., Any]] = {}
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
                stub = vllm_engine_pb2_grpc.VllmEngineStub(self.channel)
                for rpc, method in vars(stub).items():
                    self._methods[rpc] = method if rpc in _STREAMS else AsyncSingle.of(method)
                for rpc, (method, streams) in methods(self.channel).items():
                    self._translated[rpc] = method if streams else AsyncSingle.of(method)
                self._home = AsyncHome()
            return self._home

    def method(
        self, rpc: str, request: Any, inference: bool
    ) -> tuple[Callable[..., AsyncReplies], Any]:
        """What makes a call, and its request. inference: in vLLM's own protocol."""
        assert self.home
        if not inference:
            return self._methods[rpc], request
        name, request = translated(rpc, request)
        return self._translated[name], request

    def may_switch(self, rpc: str) -> bool:
        """Whether a call that the server does not know may be known in vLLM's own protocol."""
        return rpc in SHARED and (self.unsure or self.inference)

    def settle(self, inference: bool) -> None:
        """The server has replied in this protocol."""
        self.inference, self.unsure = inference, False

    async def close(self) -> None:
        """End all calls, and the channel if it is ours."""
        if self.closed:
            return
        self.closed = True
        for call in list(self.calls):
            call.close(_CLOSED)
        if self.channel is not None and self.given is None:
            await self.channel.close()
