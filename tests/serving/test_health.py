"""grpc.health.v1 of our servers."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import async_eventually

from smg_proto._serving.address import Address
from smg_proto._serving.health import Health
from smg_proto._serving.server import Server
from smg_proto._standard import message_class

Request = health_pb2.HealthCheckRequest
State = health_pb2.HealthCheckResponse
SERVICE = "smg.v1.ChatService"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(Address("127.0.0.1"), [SERVICE]) as running:
        yield running


@pytest.fixture
async def stub(server: Server) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def status(stub: Any, name: str) -> int:
    return int((await stub.Check(Request(service=name), timeout=20)).status)


def test_a_server_is_not_ready_before_it_says_so() -> None:
    health = Health([SERVICE])
    assert {health.status(name) for name in ("", "readiness", SERVICE)} == {State.NOT_SERVING}


async def test_services_and_readiness_change_together_and_liveness_stays(
    server: Server, stub: Any
) -> None:
    names = ("", "readiness", SERVICE)
    assert [await status(stub, name) for name in names] == [State.SERVING] * 3
    server.health.set_ready(False)
    assert [await status(stub, name) for name in names] == [State.NOT_SERVING] * 3
    assert await status(stub, "liveness") == State.SERVING
    server.health.set_ready(True)
    assert await status(stub, SERVICE) == State.SERVING


async def test_an_unknown_service_is_not_found(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status(stub, "smg.v1.None")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(Request(service="smg.v1.None"), timeout=20)
    assert (await watch.read()).status == State.SERVICE_UNKNOWN
    watch.cancel()


async def test_a_watcher_gets_each_change_once(server: Server, stub: Any) -> None:
    watch = stub.Watch(Request(service=SERVICE), timeout=20)
    assert (await watch.read()).status == State.SERVING
    server.health.set_ready(True)  # no change
    server.health.set_ready(False)
    assert (await watch.read()).status == State.NOT_SERVING
    server.health.set_ready(True)
    assert (await watch.read()).status == State.SERVING
    watch.cancel()


async def test_a_drain_notifies_watchers_first_and_does_not_wait_for_them(
    server: Server, stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(asyncio.all_tasks())
    watch = stub.Watch(Request(service=SERVICE), timeout=20)
    reflect = stub_of_reflection(server)
    assert (await watch.read()).status == State.SERVING
    async with reflect as call:
        await call.write(message_class("grpc.reflection.v1.ServerReflectionRequest")())
        await call.read()  # open, and idle from now on
        stopping = asyncio.create_task(server.stop(60))
        assert (await watch.read()).status == State.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        server.health.set_ready(True)  # nothing takes it back
        assert server.health.status(SERVICE) == State.NOT_SERVING
        assert await call.read() is grpc.aio.EOF
    await asyncio.wait_for(stopping, 20)
    await async_eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")
    gc.collect()
    assert not caplog.records  # of tasks whose error nobody sees


async def test_a_finished_call_of_reflection_leaves_no_task(server: Server) -> None:
    before = len(asyncio.all_tasks())
    async with stub_of_reflection(server) as call:
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    await async_eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")


class stub_of_reflection:
    """A call of reflection that stays open."""

    def __init__(self, server: Server) -> None:
        self._channel = grpc.aio.insecure_channel(str(server.address))

    async def __aenter__(self) -> Any:
        stream: Any = self._channel.stream_stream
        return stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message_class(
                "grpc.reflection.v1.ServerReflectionResponse"
            ).FromString,
        )(timeout=30)

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
