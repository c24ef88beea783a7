"""grpc.health.v1: the status of each name, and calls that watch it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from smg_proto._standard import message_class

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# The process itself: SERVING while it replies, whatever it depends on.
LIVENESS = "liveness"

_Request = message_class("grpc.health.v1.HealthCheckRequest")
_Response = message_class("grpc.health.v1.HealthCheckResponse")


class Health:
    """The status of a server. "", "readiness" and its services share one status."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = frozenset(["", "readiness", *services])
        self._ready = False
        self._draining = False
        self._changed = asyncio.Event()

    def set_ready(self, ready: bool) -> None:
        if not self._draining and ready != self._ready:
            self._ready = ready
            self._notify()

    def drain(self) -> None:
        """Report NOT_SERVING from now on, also to calls of Watch, and end those calls."""
        self._ready, self._draining = False, True
        self._notify()

    def status(self, name: str) -> int:
        if name == LIVENESS:
            return SERVING
        if name not in self._names:
            return SERVICE_UNKNOWN
        return SERVING if self._ready else NOT_SERVING

    def add_to_server(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler,
            "Watch": grpc.unary_stream_rpc_method_handler,
        }
        for name, make in handlers.items():
            handlers[name] = make(
                getattr(self, f"_{name.lower()}"),
                request_deserializer=_Request.FromString,
                response_serializer=_Response.SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, request: Any, context: Any) -> Any:
        status = self.status(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=status)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        last = None
        while True:
            changed, status = self._changed, self.status(request.service)
            if status != last:
                yield _Response(status=status)
                last = status
            if self._draining:
                return
            await changed.wait()
