"""grpclib over code of its own plugin: prints a reply, a stream, and the reason of an error."""

import asyncio
import sys

from google.rpc.error_details_pb2 import ErrorInfo
from grpclib.client import Channel
from grpclib.exceptions import GRPCError
from smg.v1.completion_grpc import CompletionServiceStub
from smg.v1.completion_pb2 import CompletionRequest


async def main(host: str, port: str) -> None:
    request = CompletionRequest(model="demo-model", prompt="One contract", max_tokens=8)
    async with Channel(host, int(port)) as channel:
        stub = CompletionServiceStub(channel)
        print((await stub.Complete(request)).text)
        print("".join(event.delta.text for event in await stub.StreamComplete(request)))
        try:
            await stub.Complete(CompletionRequest(model="nope", prompt="x"))
        except GRPCError as error:
            (info,) = error.details
            assert isinstance(info, ErrorInfo)
            print(error.status.name, info.reason)


asyncio.run(main(*sys.argv[1].split(":")))
