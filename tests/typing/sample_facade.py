"""smg.v1 through the facade smg_pb2, sync and asyncio, client and servicer. Runs as it is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

if TYPE_CHECKING:
    from smg_proto.smg_pb2_grpc import ChatServiceAsyncStub


def request() -> smg_pb2.ChatRequest:
    message = smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content="hello")
    form = smg_pb2.OutputFormat(json_schema=smg_pb2.JsonSchema(schema_json="{}"))
    made = smg_pb2.ChatRequest(model="m", messages=[message], temperature=0.0, output_format=form)
    made.stop.extend(["\n"])
    return made


def reply(text: str) -> smg_pb2.ChatResponse:
    role: smg_pb2.Role.ValueType = smg_pb2.ROLE_ASSISTANT
    message = smg_pb2.ChatMessage(role=role, content=text)
    choice = smg_pb2.ChatChoice(message=message, finish_reason="stop")
    return smg_pb2.ChatResponse(choices=[choice], usage=smg_pb2.Usage(prompt_tokens=1))


def delta(text: str) -> smg_pb2.ChatEvent:
    return smg_pb2.ChatEvent(delta=smg_pb2.ChatDelta(content=text))


class Echo(smg_pb2_grpc.ChatServiceServicer):
    def Chat(
        self, request: smg_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> smg_pb2.ChatResponse:
        return reply(request.messages[-1].content)

    def StreamChat(
        self, request: smg_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[smg_pb2.ChatEvent]:
        for letter in request.messages[-1].content:
            yield delta(letter)
        yield smg_pb2.ChatEvent(end=reply(""))


class AsyncEcho(smg_pb2_grpc.ChatServiceServicer):
    async def Chat(
        self, request: smg_pb2.ChatRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> smg_pb2.ChatResponse:
        return reply(request.messages[-1].content)

    async def StreamChat(
        self, request: smg_pb2.ChatRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[smg_pb2.ChatEvent]:
        for letter in request.messages[-1].content:
            yield delta(letter)
        yield smg_pb2.ChatEvent(end=reply(""))


def talk(channel: grpc.Channel) -> tuple[str, str]:
    stub = smg_pb2_grpc.ChatServiceStub(channel)
    whole = stub.Chat(request(), timeout=10).choices[0].message.content
    events = stub.StreamChat(request(), timeout=10)
    return whole, "".join(event.delta.content for event in events if event.HasField("delta"))


async def talk_async(channel: grpc.aio.Channel) -> tuple[str, str]:
    stub: ChatServiceAsyncStub = smg_pb2_grpc.ChatServiceStub(channel)
    whole = (await stub.Chat(request(), timeout=10)).choices[0].message.content
    events = [event async for event in stub.StreamChat(request(), timeout=10)]
    return whole, "".join(event.delta.content for event in events)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    smg_pb2_grpc.add_ChatServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert talk(channel) == ("hello", "hello")
    server.stop(None)


async def main_async() -> None:
    server = grpc.aio.server()
    smg_pb2_grpc.add_ChatServiceServicer_to_server(AsyncEcho(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await talk_async(channel) == ("hello", "hello")
    await server.stop(None)


if __name__ == "__main__":
    assert "ChatRequest" in smg_pb2.DESCRIPTOR.message_types_by_name
    main()
    asyncio.run(main_async())
