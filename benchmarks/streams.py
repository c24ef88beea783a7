"""smg_proto.streams and smg_proto.connect against a plain loop over the stub, in one run.

    python benchmarks/streams.py [--events N] [--rounds N]

A server in a process of its own sends ready-made events as fast as it can. Time of a stream read
with Stream, reply included, over that of a loop that joins the text by hand (aim: at most 1.1).
Runs
are interleaved, figures are medians; the ratios are what counts.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from smg_proto import connect, connect_aio, smg_pb2, smg_pb2_grpc
from smg_proto.streams import AsyncStream, Stream


class Pump(smg_pb2_grpc.ChatServiceServicer):
    """Sends `max_tokens` deltas."""

    async def StreamChat(
        self, request: smg_pb2.ChatRequest, context: Any
    ) -> AsyncIterator[smg_pb2.ChatEvent]:
        yield smg_pb2.ChatEvent(start=smg_pb2.ChatResponse(id="x", model="m"))
        delta = smg_pb2.ChatEvent(delta=smg_pb2.ChatDelta(content=" word"))
        for _ in range(request.max_tokens):
            yield delta
        choices = [smg_pb2.ChatChoice(finish_reason="stop")]
        yield smg_pb2.ChatEvent(end=smg_pb2.ChatResponse(choices=choices))


async def serve() -> None:
    server = grpc.aio.server()
    smg_pb2_grpc.add_ChatServiceServicer_to_server(Pump(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


async def compare(target: str, events: int, rounds: int) -> None:
    request = smg_pb2.ChatRequest(model="m", max_tokens=events)
    plain, helped = grpc.insecure_channel(target), connect(target, key="k")
    plain_aio, helped_aio = grpc.aio.insecure_channel(target), connect_aio(target, key="k")

    async def stub() -> str:
        stub = smg_pb2_grpc.ChatServiceStub(plain)
        return "".join([event.delta.content for event in stub.StreamChat(request)])

    async def stream() -> str:
        found = Stream(smg_pb2_grpc.ChatServiceStub(helped).StreamChat(request))
        for _ in found.text_deltas:
            pass
        return found.reply.choices[0].message.content

    async def stub_aio() -> str:
        stub: Any = smg_pb2_grpc.ChatServiceStub(plain_aio)
        return "".join([event.delta.content async for event in stub.StreamChat(request)])

    async def stream_aio() -> str:
        stub: Any = smg_pb2_grpc.ChatServiceStub(helped_aio)
        found: Any = AsyncStream(stub.StreamChat(request))
        async for _ in found.text_deltas:
            pass
        return str(found.reply.choices[0].message.content)

    pairs: dict[str, tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[str]]]] = {
        "Stream": (stub, stream),
        "AsyncStream": (stub_aio, stream_aio),
    }
    for name, pair in pairs.items():
        ratios: list[float] = []
        each = 0.0
        for number in range(rounds + 1):
            took: list[float] = []
            for run in pair:
                began = time.perf_counter()
                assert await run() == " word" * events
                took.append(time.perf_counter() - began)
            if number:  # the first round is not counted
                ratios.append(took[1] / took[0])
                each = took[0] / events * 1e6
        print(f"{name:12} {statistics.median(ratios):.2f} of the stub's {each:.0f} µs an event")
    plain.close()
    helped.close()
    await plain_aio.close()
    await helped_aio.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=5000, help="events of a stream")
    parser.add_argument("--rounds", type=int, default=9, help="runs that are counted")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve())
        return
    pipe = subprocess.PIPE
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin and server.stdout
        target = server.stdout.readline().strip()
        try:
            asyncio.run(compare(target, args.events, args.rounds))
        finally:
            server.stdin.close()


if __name__ == "__main__":
    main()
