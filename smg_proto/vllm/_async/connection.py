"""The connection of a client and its copies to a server."""

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
from smg_proto.vllm._wait import AsyncOwner, AsyncReplies, AsyncSingle

_CLOSED = "the client is closed; create a new one"
_STREAMS = frozenset({"Generate", "GetTokenizer", "SubscribeKvEvents"})


class Closable(Protocol):
    def close(self, why: str = ...) -> None: ...


class AsyncConnection:
    """A channel, opened by the first call, since it belongs to an event loop if it is async."""

    def __init__(
        self, address: Address, given: grpc.aio.Channel | None, telemetry: bool, protocol: str
    ) -> None:
        self.address = address
        self.given = given  # the caller's channel, which stays open
        self.closed: bool = False
        self.calls: set[Closable] = set()  # that may be running
        self.model: ModelInfo | None = None
        self.nameless = False  # the server did not return the model's name
        self.inference: bool = protocol == "inference"
        """Whether calls are made in vLLM's own protocol."""
        self.unsure: bool = protocol == "auto"
        """Whether the server's protocol is still unknown."""
        self.telemetry: Telemetry | None = telemetry_of(address.target, telemetry)
        self.channel: grpc.aio.Channel | None = given
        self._methods: dict[str, Callable[..., Any]] = {}
        self._translated: dict[str, Callable[..., Any]] = {}
        self._owner: AsyncOwner | None = None
        self._opening = threading.Lock()

    def check(self) -> None:
        if self.closed:
            raise VLLMGrpcClosedError(_CLOSED)

    @property
    def owner(self) -> AsyncOwner:
        """The event loop that the channel belongs to. Opens the channel if necessary."""
        self.check()
        owner = self._owner or self._open()
        if not owner.is_current():
            raise VLLMGrpcError("the client belongs to another event loop; create one for each")
        return owner

    def _open(self) -> AsyncOwner:
        with self._opening:  # the first calls may come from several threads
            if self._owner is None:
                if self.channel is None:
                    self.channel = self.address.async_channel()
                stub = vllm_engine_pb2_grpc.VllmEngineStub(self.channel)
                for rpc, method in vars(stub).items():
                    self._methods[rpc] = method if rpc in _STREAMS else AsyncSingle.of(method)
                for rpc, (method, streams) in methods(self.channel).items():
                    self._translated[rpc] = method if streams else AsyncSingle.of(method)
                self._owner = AsyncOwner()
            return self._owner

    def method(
        self, rpc: str, request: Any, inference: bool
    ) -> tuple[Callable[..., AsyncReplies], Any]:
        """The method of a stub, and its request. inference: in vLLM's own protocol."""
        assert self.owner
        if not inference:
            return self._methods[rpc], request
        name, request = translated(rpc, request)
        return self._translated[name], request

    def may_switch(self, rpc: str) -> bool:
        """Whether a call that is UNIMPLEMENTED may exist in vLLM's own protocol."""
        return rpc in SHARED and (self.unsure or self.inference)

    def settle(self, inference: bool) -> None:
        """Record the protocol in which the server has replied."""
        self.inference, self.unsure = inference, False

    async def close(self) -> None:
        """End all calls, and close the channel unless it is the caller's."""
        if self.closed:
            return
        self.closed = True
        for call in list(self.calls):
            call.close(_CLOSED)
        if self.channel is not None and self.given is None:
            await self.channel.close()
