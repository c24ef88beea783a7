"""A grpc.aio server with health and reflection, from its start to the end of its drain."""

from collections.abc import Mapping, Sequence
from types import TracebackType

import grpc

from smg_proto._serving import health, reflection
from smg_proto._serving.address import Address, check_free, unavailable


class Server:
    """Make it in a running event loop, add servicers to `grpc`, then `start()`.

    It binds no port before it starts, so a start that fails holds none. `reuse_port` lets other
    processes listen on the same port; without it a second server there is an error.
    """

    def __init__(
        self,
        address: Address,
        services: Sequence[str],
        *,
        credentials: grpc.ServerCredentials | None = None,
        reuse_port: bool = False,
        options: Mapping[str, int] | None = None,
    ) -> None:
        self.address: Address = address
        self._credentials, self._reuse_port = credentials, reuse_port
        settings = {"grpc.so_reuseport": int(reuse_port), **(options or {})}
        self.grpc: grpc.aio.Server = grpc.aio.server(options=list(settings.items()))
        self.health: health.Health = health.Health(services)
        self._reflection = reflection.Reflection([*services, health.SERVICE])
        self.health.add_to_server(self.grpc)
        self._reflection.add_to_server(self.grpc)

    async def start(self, *, ready: bool = True) -> None:
        """Listen and serve; OSError if the address cannot be had. `address` has the port then."""
        if not self._reuse_port:
            check_free(self.address)
        try:
            if self._credentials:
                port = self.grpc.add_secure_port(str(self.address), self._credentials)
            else:
                port = self.grpc.add_insecure_port(str(self.address))
        except RuntimeError:
            raise unavailable(self.address, "in use, or not an address of this machine") from None
        self.address = self.address.at(port)
        self.health.set_ready(ready)
        await self.grpc.start()

    async def stop(self, grace: float | None) -> None:
        """Health says NOT_SERVING; RPCs in flight may end within the grace, then are cancelled."""
        self.health.drain()
        self._reflection.drain()
        await self.grpc.stop(grace)

    async def __aenter__(self) -> "Server":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(None)
