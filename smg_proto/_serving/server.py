"""A grpc.aio server with health and reflection, from startup to the end of its drain."""

from collections.abc import Mapping, Sequence
from types import TracebackType

import grpc

from smg_proto._serving import health, reflection
from smg_proto._serving.address import Address, check_free, unavailable


class Server:
    """Create it in a running event loop, add servicers to `grpc`, then call `start()`.

    It binds no port before `start()`, so a failed start leaves none bound. `reuse_port` lets other
    processes listen on the same port; without it, a second server is an error. `probes` is a second
    address that serves only health, in plaintext: probes of orchestrators do not support TLS.
    """

    def __init__(
        self,
        address: Address,
        services: Sequence[str],
        *,
        credentials: grpc.ServerCredentials | None = None,
        probes: Address | None = None,
        reuse_port: bool = False,
        options: Mapping[str, int] | None = None,
    ) -> None:
        self.address: Address = address
        self.probes: Address | None = probes
        self._credentials, self._reuse_port = credentials, reuse_port
        shared = {"grpc.so_reuseport": int(reuse_port)}
        self.grpc: grpc.aio.Server = grpc.aio.server(options=_pairs(shared, options))
        self.health: health.Health = health.Health(services)
        self._reflection = reflection.Reflection([*services, health.SERVICE])
        self.health.add_to_server(self.grpc)
        self._reflection.add_to_server(self.grpc)
        self._probes: grpc.aio.Server | None = None
        if probes:
            self._probes = grpc.aio.server(options=_pairs(shared))
            self.health.add_to_server(self._probes)

    async def start(self, *, ready: bool = True) -> None:
        """Listen and serve. Sets the port of `address`. OSError if an address is not available."""
        self.health.set_ready(ready)
        self.address = await self._listen(self.grpc, self.address, self._credentials)
        try:
            if self._probes and self.probes:
                self.probes = await self._listen(self._probes, self.probes, None)
        except BaseException:
            await self.grpc.stop(None)
            raise

    async def stop(self, grace: float | None) -> None:
        """Report NOT_SERVING, let RPCs in flight finish within the grace, then cancel them."""
        self.health.drain()
        self._reflection.drain()
        await self.grpc.stop(grace)
        if self._probes:
            await self._probes.stop(None)

    async def _listen(
        self,
        server: grpc.aio.Server,
        address: Address,
        credentials: grpc.ServerCredentials | None,
    ) -> Address:
        if not self._reuse_port:
            check_free(address)
        try:
            if credentials:
                port = server.add_secure_port(str(address), credentials)
            else:
                port = server.add_insecure_port(str(address))
        except RuntimeError:
            raise unavailable(address, "in use or not an address of this machine") from None
        await server.start()
        return address.at(port)

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


def _pairs(*options: Mapping[str, int] | None) -> list[tuple[str, int]]:
    return [pair for each in options for pair in (each or {}).items()]
