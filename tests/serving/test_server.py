"""A server's addresses, from startup to the end of its drain."""

import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smg_proto._serving import reflection
from smg_proto._serving.address import Address, check_free
from smg_proto._serving.server import Server

ANY = Address("127.0.0.1")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(ANY, [], probes=ANY) as running:
        yield running


def addresses(server: Server) -> list[Address]:
    assert server.probes
    return [server.address, server.probes]


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
async def test_the_ports_are_not_shared(server: Server) -> None:
    for address in addresses(server):
        with pytest.raises(OSError, match="address already in use"):
            await Server(address, []).start()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError):
                other.bind((address.host, address.port))


async def test_probes_get_the_health_and_nothing_else(server: Server) -> None:
    async with grpc.aio.insecure_channel(str(server.probes)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflect: Any = channel.stream_stream(f"/{reflection.SERVICES[0]}/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await reflect(timeout=20).read()


async def test_a_stopped_server_holds_no_port(server: Server) -> None:
    await server.stop(None)
    for address in addresses(server):
        check_free(address)


async def test_a_failed_start_holds_no_port(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ANY.at(free.getsockname()[1])
    other = Server(address, [], probes=server.probes)
    with pytest.raises(OSError, match=f"cannot listen on {server.probes}: address already in use"):
        await other.start()
    check_free(address)


async def test_an_address_that_cannot_be_shared_is_reported() -> None:
    with pytest.raises(OSError, match="in use or not an address of this machine"):
        await Server(Address("192.0.2.1", 0), [], reuse_port=True).start()
