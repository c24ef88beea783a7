"""grpc.health.v1 of the front door: what the upstream's readiness is, under every name."""

from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer  # pyright: ignore[reportMissingTypeStubs]
from grpc_reflection.v1alpha import reflection

from smg_proto.frontdoor._operations import SERVICES

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Names: "", "readiness" and each service follow the upstream; "liveness" is always SERVING."""

    def __init__(self) -> None:
        self._servicer = cast(Any, HealthServicer())

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it, and reflection beside it."""
        await self._servicer.set("liveness", _SERVING)
        await self.set_ready(False)
        cast(Any, health_pb2_grpc).add_HealthServicer_to_server(self._servicer, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def set_ready(self, ready: bool) -> None:
        for name in ("", "readiness", *SERVICES):
            await self._servicer.set(name, _SERVING if ready else _NOT_SERVING)

    async def stop(self) -> None:
        """NOT_SERVING from now on, whatever the upstream says."""
        await self._servicer.enter_graceful_shutdown()
