"""LLMService, sync and asyncio, client and servicer, as a user writes them. Runs as it is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto import llm_pb2, llm_pb2_grpc

if TYPE_CHECKING:
    from smg_proto.llm_pb2_grpc import LLMServiceAsyncStub


def request() -> llm_pb2.GenerateRequest:
    return llm_pb2.GenerateRequest(prompt="one two", max_tokens=2, stop=["\n"], temperature=0.0)


def last(count: int) -> llm_pb2.GenerateResponse:
    return llm_pb2.GenerateResponse(finish_reason="stop", completion_tokens=count)


class Words(llm_pb2_grpc.LLMServiceServicer):
    def Generate(
        self, request: llm_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[llm_pb2.GenerateResponse]:
        words = request.prompt.split()
        for word in words[: request.max_tokens if request.HasField("max_tokens") else None]:
            yield llm_pb2.GenerateResponse(token=word)
        yield last(len(words))


class AsyncWords(llm_pb2_grpc.LLMServiceServicer):
    async def Generate(
        self, request: llm_pb2.GenerateRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        for word in request.prompt.split():
            yield llm_pb2.GenerateResponse(token=word)
        yield last(2)


def talk(channel: grpc.Channel) -> str:
    stub = llm_pb2_grpc.LLMServiceStub(channel)
    return " ".join(part.token for part in stub.Generate(request(), timeout=10) if part.token)


async def talk_async(channel: grpc.aio.Channel) -> str:
    stub: LLMServiceAsyncStub = llm_pb2_grpc.LLMServiceStub(channel)
    parts = [part async for part in stub.Generate(request(), timeout=10)]
    assert parts[-1].completion_tokens == 2
    return " ".join(part.token for part in parts if part.token)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    llm_pb2_grpc.add_LLMServiceServicer_to_server(Words(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert talk(channel) == "one two"
    server.stop(None)


async def main_async() -> None:
    server = grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(AsyncWords(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await talk_async(channel) == "one two"
    await server.stop(None)


if __name__ == "__main__":
    main()
    asyncio.run(main_async())
