"""betterproto2 over its own messages: prints a reply, a stream, and the reason of an error."""

import asyncio
import sys

from acme.smg.v1 import CompletionRequest, CompletionServiceStub
from google.rpc.error_details_pb2 import ErrorInfo  # for grpclib to know the details by
from grpclib.client import Channel
from grpclib.exceptions import GRPCError


async def main(host: str, port: str) -> None:
    request = CompletionRequest(model="demo-model", prompt="One contract", max_tokens=8)
    async with Channel(host, int(port)) as channel:
        stub = CompletionServiceStub(channel)
        print((await stub.complete(request)).text)
        text = ""
        async for event in stub.stream_complete(request):
            text += event.delta.text if event.delta else ""
        print(text)
        try:
            await stub.complete(CompletionRequest(model="nope", prompt="x"))
        except GRPCError as error:
            (info,) = error.details
            assert isinstance(info, ErrorInfo)
            print(error.status.name, info.reason)


asyncio.run(main(*sys.argv[1].split(":")))
