"""Chat with asyncio, reasoning included: python stream_chat.py [TARGET]"""

import asyncio
import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc


async def main(target: str) -> None:
    request = smg_pb2.ChatRequest(
        model="demo-model",
        messages=[smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content="What is a stream?")],
        reasoning_effort="low",
    )
    async with grpc.aio.insecure_channel(target) as channel:
        thinking = False
        async for event in smg_pb2_grpc.ChatServiceStub(channel).StreamChat(request):
            if event.delta.reasoning_content:
                print(event.delta.reasoning_content, end="", flush=True)
                thinking = True
            if event.delta.content:
                print("\n---\n" if thinking else "", end="")
                print(event.delta.content, end="", flush=True)
                thinking = False
            if event.HasField("end"):
                print(f"\n{event.end.usage.total_tokens} tokens")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"))
