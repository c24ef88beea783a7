"""LLMService over an OpenAI-compatible URL."""

import asyncio
from typing import Any

import grpc
import pytest
from aiohttp import web
from frontdoor.replay import EXCHANGES, Upstream, sse, upstream
from support import async_eventually

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.llm import LLMService, OpenAIBackend


async def generate(output: Upstream, **fields: object) -> list[llm_pb2.GenerateResponse]:
    service = LLMService(OpenAIBackend(f"{output.url}/v1", model="m", api_key="k"))
    server = grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = llm_pb2.GenerateRequest(prompt="a", **fields)  # type: ignore[arg-type]
            return [r async for r in llm_pb2_grpc.LLMServiceStub(channel).Generate(request)]
    finally:
        await server.stop(None)
        await service.aclose()


async def test_text_and_counts_come_from_the_server() -> None:
    async with upstream() as output:
        output.replay("completion_stream_usage")
        replies = await generate(output, max_tokens=20, temperature=0.5, stop=["x"], seed=3)
        assert "".join(r.token for r in replies).startswith("one two three")
        end = replies[-1]
        assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", 12, 11)
        (sent,) = output.sent
        assert sent.headers["Authorization"] == "Bearer k"
        assert sent.body | {"prompt": "a", "model": "m", "max_tokens": 20} == sent.body
        assert (sent.body["stream"], sent.body["stream_options"]) == (True, {"include_usage": True})
        assert (sent.body["temperature"], sent.body["stop"], sent.body["seed"]) == (
            0.5,
            ["x"],
            3,
        )


async def failure(output: Upstream) -> SmgError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(output)
    return from_rpc_error(caught.value)


async def test_errors_are_typed_and_do_not_quote_the_server() -> None:
    async with upstream() as output:
        output.answer(404, {"error": {"message": "sesame", "code": "model_not_found"}})
        error = await failure(output)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert "sesame" not in str(error)


async def test_a_stream_that_ends_early_is_an_error() -> None:
    async with upstream() as output:
        output.stream(sse(EXCHANGES["completion_stream_usage"]["response"]["events"][0]))
        error = await failure(output)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_TRUNCATED")


def stream_of(output: Upstream) -> list[Any]:
    """Have the server reply to each request with a stream; the transport of each request."""
    connections: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        connections.append(request.transport)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in EXCHANGES["completion_stream_usage"]["response"]["events"]:
            await response.write(sse(event))
        await asyncio.sleep(0.01)  # the end of the answer comes behind its last event
        return response

    output.say(handler)
    return connections


async def test_a_connection_is_reused() -> None:
    async with upstream() as output:
        connections = stream_of(output)
        backend: Any = OpenAIBackend(output.url, model="m")
        for _ in range(12):
            async for _piece in backend.generate(llm_pb2.GenerateRequest(prompt="a")):
                pass
        await backend.aclose()
        assert not backend._upstream._resource  # nor waits for its connections to grow old
        await async_eventually(lambda: all(each.is_closing() for each in connections))
        # Not always the same: its end may still be on the way when the next request begins.
        assert len(connections) == 12 > len({*connections})


async def test_first_requests_at_the_same_time_are_all_served() -> None:
    async with upstream() as output:
        connections = stream_of(output)
        backend = OpenAIBackend(output.url, model="m")

        async def text() -> str:
            pieces = backend.generate(llm_pb2.GenerateRequest(prompt="a"))
            return "".join([piece.text async for piece in pieces])

        texts = await asyncio.gather(*(text() for _ in range(5)))
        await backend.aclose()
        assert len(connections) == 5 and len({*texts}) == 1 and texts[0]
        assert await text() == texts[0]  # a closed backend opens again
        await backend.aclose()


async def test_a_caller_that_cancels_ends_the_request() -> None:
    async with upstream() as output:
        event = EXCHANGES["completion_stream_usage"]["response"]["events"][0]
        output.stream(sse(event), 60.0)
        backend = OpenAIBackend(output.url, model="m")
        pieces = backend.generate(llm_pb2.GenerateRequest(prompt="a"))
        async for _piece in pieces:
            break
        await pieces.aclose()
        await async_eventually(lambda: output.dropped == 1, "the request is closed")
        await backend.aclose()
