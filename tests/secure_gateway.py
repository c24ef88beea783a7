"""A FakeGateway behind TLS, for clients that are to use it as they would use a front door."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
from certificates import Authority

from smg_proto._serving.address import Address
from smg_proto._serving.loop import LoopThread
from smg_proto._serving.server import Server
from smg_proto.testing import FakeGateway


@contextmanager
def secure_gateway(folder: Path) -> Generator[tuple[str, FakeGateway], None, None]:
    """Its address, and itself. The certificate of its authority is ca.pem in the folder."""
    authority, fake = Authority(), FakeGateway()
    identity = authority.issue("server")
    (folder / "ca.pem").write_bytes(authority.certificate)
    credentials = grpc.ssl_server_credentials([(identity.key, identity.certificate)])

    async def start() -> Server:
        server = Server(Address("127.0.0.1"), fake.services, credentials=credentials)
        fake.add_to_server(server.grpc)
        await server.start()
        return server

    thread = LoopThread("secure-gateway")
    try:
        server = thread.run(start())
        yield str(server.address), fake
        thread.run(server.stop(None))
    finally:
        thread.close()
