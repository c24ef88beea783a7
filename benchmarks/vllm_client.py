"""The vLLM client against a plain loop over the stub, in one run.

    python benchmarks/vllm_client.py [--chunks N] [--calls N] [--rounds N]

A server in a process of its own sends ready-made messages as fast as it can. Streams: chunks per
second of the client, with and without a decoder, over those of the loop (aim without decoder: at
least 0.8). Unary: time of a completion over that of the loop (aim: at most 1.15). Runs are
interleaved, figures are medians; the ratios are what counts.
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

from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_engine_pb2_grpc
from smg_proto.testing import FakeVllmEngine, run_vllm_engine
from smg_proto.vllm import AsyncVLLMGrpcClient, TokenDecoder, VLLMGrpcClient

PROMPT = [20, 21, 22]
Run = Callable[[], Awaitable[int]]


class Pump(FakeVllmEngine):
    """Sends `max_tokens` tokens, `seed` per chunk; the real answer's shape without its work."""

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        size = request.sampling_params.seed
        ids = [20 + number for number in range(size)]
        chunk = pb.GenerateStreamChunk(token_ids=ids, prompt_tokens=3, completion_tokens=size)
        if request.stream:
            message = pb.GenerateResponse(chunk=chunk)
            for _ in range(request.sampling_params.max_tokens // size):
                yield message
        end = pb.GenerateComplete(
            output_ids=ids, finish_reason="stop", prompt_tokens=3, completion_tokens=size
        )
        yield pb.GenerateResponse(complete=end)


def serve() -> None:
    with run_vllm_engine(Pump()) as address:
        print(address, flush=True)
        sys.stdin.read()


def request(chunks: int, size: int, stream: bool) -> pb.GenerateRequest:
    """As the client sends it."""
    return pb.GenerateRequest(
        request_id="bench",
        tokenized=pb.TokenizedInput(input_ids=PROMPT),
        sampling_params=pb.SamplingParams(max_tokens=chunks * size, seed=size, top_p=1.0, n=1),
        stream=stream,
    )


def cases(
    target: str, chunks: int, size: int, calls: int
) -> tuple[dict[str, Run], Callable[[], Awaitable[None]]]:
    """What is timed, by name; each returns the number of tokens or answers it has seen."""
    channel, aio_channel = grpc.insecure_channel(target), grpc.aio.insecure_channel(target)
    stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
    aio_stub: Any = vllm_engine_pb2_grpc.VllmEngineStub(aio_channel)
    client, aio_client = VLLMGrpcClient(target=target), AsyncVLLMGrpcClient(target=target)
    decoder = TokenDecoder.from_client(client)
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": chunks * size, "seed": size}

    async def stub_sync() -> int:
        answer = stub.Generate(request(chunks, size, True))
        return sum(len(message.chunk.token_ids) for message in answer)

    async def client_sync(**more: Any) -> int:
        stream = client.completions.create(stream=True, **asked, **more)
        return sum(len(chunk.choices[0].token_ids) for chunk in stream)

    async def stub_aio() -> int:
        seen = 0
        async for message in aio_stub.Generate(request(chunks, size, True)):
            seen += len(message.chunk.token_ids)
        return seen

    async def client_aio(**more: Any) -> int:
        seen = 0
        async for chunk in await aio_client.completions.create(stream=True, **asked, **more):
            seen += len(chunk.choices[0].token_ids)
        return seen

    async def stub_unary() -> int:
        for _ in range(calls):
            for message in stub.Generate(request(1, 1, False), timeout=60):
                _ = list(message.complete.output_ids), message.complete.finish_reason
        return calls

    async def client_unary() -> int:
        for _ in range(calls):
            client.completions.create(prompt=PROMPT, max_tokens=1, seed=1)
        return calls

    async def stub_unary_aio() -> int:
        for _ in range(calls):
            async for message in aio_stub.Generate(request(1, 1, False), timeout=60):
                _ = list(message.complete.output_ids), message.complete.finish_reason
        return calls

    async def client_unary_aio() -> int:
        for _ in range(calls):
            await aio_client.completions.create(prompt=PROMPT, max_tokens=1, seed=1)
        return calls

    async def close() -> None:
        client.close()
        channel.close()
        await aio_client.close()
        await aio_channel.close()

    runs: dict[str, Run] = {
        "sync stub": stub_sync,
        "sync client": client_sync,
        "sync client + decoder": lambda: client_sync(decoder=decoder),
        "async stub": stub_aio,
        "async client": client_aio,
        "async client + decoder": lambda: client_aio(decoder=decoder),
        "sync unary stub": stub_unary,
        "sync unary client": client_unary,
        "async unary stub": stub_unary_aio,
        "async unary client": client_unary_aio,
    }
    if size > 1:
        runs = {name: run for name, run in runs.items() if "unary" not in name}
    return runs, close


async def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            assert await run() > 0
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


async def compare(target: str, chunks: int, calls: int, rounds: int) -> None:
    print(f"{'':26}{'tokens/chunk':>14}{'per second':>12}{'ratio':>8}   aim")
    for size in (1, 16):
        runs, close = cases(target, chunks, size, calls)
        took = await measure(runs, rounds)
        for name, seconds in took.items():
            unary = "unary" in name
            base = took[name.partition(" client")[0].removesuffix(" stub") + " stub"]
            ratio = seconds / base if unary else base / seconds
            aim = ""
            if name.endswith("client"):
                aim = "at most 1.15" if unary else "at least 0.8"
            rate = (calls if unary else chunks) / seconds
            print(f"{name:26}{'' if unary else size:>14}{rate:12.0f}{ratio:8.2f}   {aim}")
        await close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=3000, help="chunks of a stream")
    parser.add_argument("--calls", type=int, default=300, help="unary calls of a run")
    parser.add_argument("--rounds", type=int, default=7, help="runs that are counted")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    command = [sys.executable, __file__, "--serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin and server.stdout
        target = server.stdout.readline().strip()
        try:
            asyncio.run(compare(target, args.chunks, args.calls, args.rounds))
        finally:
            server.stdin.close()


if __name__ == "__main__":
    main()
