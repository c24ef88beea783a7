"""Health follows the upstream, whatever the upstream says: it never freezes."""

import logging
from collections.abc import Callable

import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health_pb2
from support import async_eventually

from frontdoor.replay import Upstream, front_door

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Answer = Callable[[web.Request], web.Response]

ODD: dict[str, Answer] = {
    "a huge retry-after": lambda _: web.Response(
        status=503, headers={"retry-after": "99999999999999"}
    ),
    "a retry-after of 5000 digits": lambda _: web.Response(
        status=503, headers={"retry-after": "9" * 5000}
    ),
    "a deeply nested error": lambda _: web.Response(status=500, body=b"[" * 200_000),
    "a surrogate in the code": lambda _: web.Response(
        status=500, body=rb'{"error":{"message":"m","code":"\ud800"}}'
    ),
    "an odd header": lambda _: web.Response(status=503, headers={"x-request-id": "caf\xe9"}),
    "a redirect": lambda _: web.Response(status=302, headers={"location": "/readiness"}),
    "garbage in gzip": lambda _: web.Response(
        status=503, body=b"no gzip", headers={"content-encoding": "gzip"}
    ),
}


async def status(channel: grpc.aio.Channel, service: str = "") -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return int((await check(health_pb2.HealthCheckRequest(service=service))).status)


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
async def test_health_survives_an_invalid_response(upstream: Upstream, answer: Answer) -> None:
    async def odd(request: web.Request) -> web.StreamResponse:
        return answer(request)

    async with front_door(upstream, health_interval=0.02) as channel:

        async def serving() -> bool:
            return await status(channel) == SERVING

        async def not_serving() -> bool:
            return await status(channel) == NOT_SERVING

        for _ in range(2):
            await async_eventually(serving, "it is healthy")
            upstream.readiness = odd
            await async_eventually(not_serving, "it is no longer healthy")
            upstream.readiness = None
        await async_eventually(serving, "it is healthy again")


async def test_an_internal_error_of_the_check_is_not_serving_and_logged(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    private = "a private question"

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(private)

    async with front_door(upstream, health_interval=0.02) as channel:

        async def serving() -> bool:
            return await status(channel) == SERVING

        async def not_serving() -> bool:
            return await status(channel) == NOT_SERVING

        await async_eventually(serving, "it is healthy")
        with caplog.at_level(logging.DEBUG), monkeypatch.context() as broken_upstream:
            broken_upstream.setattr("smg_proto._http.upstream.Upstream.fetch", broken)
            await async_eventually(not_serving, "it is no longer healthy")
        assert "health check failed error=ZeroDivisionError" in caplog.text
        assert private not in caplog.text
        await async_eventually(serving, "it is healthy again")
