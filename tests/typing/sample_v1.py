"""smg.v1 module by module, sync and asyncio, client and servicer. Runs as it is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto import smg_pb2
from smg_proto.v1 import completion_pb2, completion_pb2_grpc, token_pb2

if TYPE_CHECKING:
    from smg_proto.v1.completion_pb2_grpc import CompletionServiceAsyncStub


def request() -> completion_pb2.CompletionRequest:
    ids = token_pb2.TokenIds(ids=[1, 2])
    return completion_pb2.CompletionRequest(model="m", prompt_token_ids=ids, max_tokens=2)


def answer(request: completion_pb2.CompletionRequest) -> completion_pb2.CompletionResponse:
    count = len(request.prompt_token_ids.ids)
    stop = token_pb2.MatchedStop(token_id=0)
    made = completion_pb2.CompletionResponse(
        text="a" * count, completion_tokens=count, matched_stop=stop
    )
    made.create_time.FromSeconds(1)
    return made


class Letters(completion_pb2_grpc.CompletionServiceServicer):
    def Complete(
        self, request: completion_pb2.CompletionRequest, context: grpc.ServicerContext
    ) -> completion_pb2.CompletionResponse:
        return answer(request)

    def StreamComplete(
        self, request: completion_pb2.CompletionRequest, context: grpc.ServicerContext
    ) -> Iterator[completion_pb2.CompletionEvent]:
        for letter in answer(request).text:
            delta = completion_pb2.CompletionDelta(text=letter)
            yield completion_pb2.CompletionEvent(delta=delta)


class AsyncLetters(completion_pb2_grpc.CompletionServiceServicer):
    async def Complete(
        self,
        request: completion_pb2.CompletionRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> completion_pb2.CompletionResponse:
        return answer(request)

    async def StreamComplete(
        self,
        request: completion_pb2.CompletionRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> AsyncIterator[completion_pb2.CompletionEvent]:
        for letter in answer(request).text:
            delta = completion_pb2.CompletionDelta(text=letter)
            yield completion_pb2.CompletionEvent(delta=delta)


def talk(channel: grpc.Channel) -> list[str]:
    stub = completion_pb2_grpc.CompletionServiceStub(channel)
    whole: smg_pb2.CompletionResponse = stub.Complete(request(), timeout=10)  # the same class
    assert whole.matched_stop.WhichOneof("stop") == "token_id"
    return [whole.text, *(part.delta.text for part in stub.StreamComplete(request(), timeout=10))]


async def talk_async(channel: grpc.aio.Channel) -> list[str]:
    stub: CompletionServiceAsyncStub = completion_pb2_grpc.CompletionServiceStub(channel)
    whole = await stub.Complete(request(), timeout=10)
    parts = [part.delta.text async for part in stub.StreamComplete(request(), timeout=10)]
    return [whole.text, *parts]


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    completion_pb2_grpc.add_CompletionServiceServicer_to_server(Letters(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert talk(channel) == ["aa", "a", "a"]
    server.stop(None)


async def main_async() -> None:
    server = grpc.aio.server()
    completion_pb2_grpc.add_CompletionServiceServicer_to_server(AsyncLetters(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await talk_async(channel) == ["aa", "a", "a"]
    await server.stop(None)


if __name__ == "__main__":
    main()
    asyncio.run(main_async())
