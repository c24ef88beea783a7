"""The vLLM client against a plain loop over the stub, in one run.

    python benchmarks/vllm_client.py [--chunks N] [--calls N] [--rounds N]

A server in a process of its own sends ready-made messages as fast as it can. Each line compares the
client with a loop over the stub that does the same: chunks of a stream (aim: at least 0.9 of the
loop's pace), unstreamed calls (aim: at most 1.08 times the loop's time, 1.15 with asyncio), and 100
prompts in one call against 100 calls of the stub at once (aim: at least 0.9 of their pace). With
`text` the client also decodes; the loop does not.

Ratios are printed of the time by the clock, and of the processor time of client and server
together, which other work on the machine changes less: for calls one after the other it is what the
clock says on an idle machine. Runs are interleaved; figures are medians.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_engine_pb2_grpc
from smg_proto.testing import FakeVllmEngine, run_vllm_engine
from smg_proto.vllm import AsyncVLLMGrpcClient, VLLMGrpcClient

PROMPT = [20, 21, 22]
PROMPTS = 100
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


@dataclass(frozen=True)
class Case:
    """What the client is compared with, and the bound of the ratio."""

    name: str
    base: Run
    client: Run
    aim: float
    """Above 1: the client's time over the loop's, at most. Else its pace, at least; 0: no aim."""


def cases(target: str, chunks: int, calls: int) -> tuple[list[Case], Callable[[], Awaitable[None]]]:
    """What is timed; each run returns the number of tokens or answers it has seen."""
    channel, aio_channel = grpc.insecure_channel(target), grpc.aio.insecure_channel(target)
    stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
    aio_stub: Any = vllm_engine_pb2_grpc.VllmEngineStub(aio_channel)
    client, aio_client = VLLMGrpcClient(target=target), AsyncVLLMGrpcClient(target=target)

    def stub_stream(size: int) -> Run:
        async def run() -> int:
            answer = stub.Generate(request(chunks, size, True))
            return sum(len(message.chunk.token_ids) for message in answer)

        return run

    def client_stream(size: int, **more: Any) -> Run:
        async def run() -> int:
            stream = client.completions.create(
                prompt=PROMPT, max_tokens=chunks * size, seed=size, stream=True, **more
            )
            return sum(len(chunk.choices[0].token_ids) for chunk in stream)

        return run

    def aio_stub_stream(size: int) -> Run:
        async def run() -> int:
            seen = 0
            async for message in aio_stub.Generate(request(chunks, size, True)):
                seen += len(message.chunk.token_ids)
            return seen

        return run

    def aio_client_stream(size: int, **more: Any) -> Run:
        async def run() -> int:
            seen = 0
            stream = await aio_client.completions.create(
                prompt=PROMPT, max_tokens=chunks * size, seed=size, stream=True, **more
            )
            async for chunk in stream:
                seen += len(chunk.choices[0].token_ids)
            return seen

        return run

    def read(answer: Any) -> None:
        for message in answer:
            _ = list(message.complete.output_ids), message.complete.finish_reason

    async def aio_read(answer: Any) -> None:
        async for message in answer:
            _ = list(message.complete.output_ids), message.complete.finish_reason

    async def stub_unary() -> int:
        for _ in range(calls):
            read(stub.Generate(request(1, 1, False), timeout=60))
        return calls

    async def aio_stub_unary() -> int:
        for _ in range(calls):
            await aio_read(aio_stub.Generate(request(1, 1, False), timeout=60))
        return calls

    def client_unary(**more: Any) -> Run:
        async def run() -> int:
            for _ in range(calls):
                client.completions.create(prompt=PROMPT, max_tokens=1, seed=1, **more)
            return calls

        return run

    def aio_client_unary(**more: Any) -> Run:
        async def run() -> int:
            for _ in range(calls):
                await aio_client.completions.create(prompt=PROMPT, max_tokens=1, seed=1, **more)
            return calls

        return run

    async def stub_prompts() -> int:
        for answer in [stub.Generate(request(1, 1, False), timeout=60) for _ in range(PROMPTS)]:
            read(answer)
        return PROMPTS

    async def client_prompts() -> int:
        several = [PROMPT] * PROMPTS
        found = client.completions.create(prompt=several, max_tokens=1, seed=1, decoder=None)
        return len(found.choices)

    async def aio_stub_prompts() -> int:
        answers = [aio_stub.Generate(request(1, 1, False), timeout=60) for _ in range(PROMPTS)]
        await asyncio.gather(*map(aio_read, answers))
        return PROMPTS

    async def aio_client_prompts() -> int:
        several = [PROMPT] * PROMPTS
        found = await aio_client.completions.create(
            prompt=several, max_tokens=1, seed=1, decoder=None
        )
        return len(found.choices)

    async def close() -> None:
        client.close()
        channel.close()
        await aio_client.close()
        await aio_channel.close()

    none: Any = {"decoder": None}
    made: list[Case] = []
    for size in (1, 16):
        made += [
            Case(
                f"stream, sync, {size} a chunk", stub_stream(size), client_stream(size, **none), 0.9
            ),
            Case(f"stream, sync, {size} a chunk, text", stub_stream(size), client_stream(size), 0),
            Case(
                f"stream, async, {size} a chunk",
                aio_stub_stream(size),
                aio_client_stream(size, **none),
                0.9,
            ),
            Case(
                f"stream, async, {size} a chunk, text",
                aio_stub_stream(size),
                aio_client_stream(size),
                0,
            ),
        ]
    made += [
        Case("unary, sync", stub_unary, client_unary(**none), 1.08),
        Case("unary, sync, text", stub_unary, client_unary(), 0),
        Case("unary, async", aio_stub_unary, aio_client_unary(**none), 1.15),
        Case("unary, async, text", aio_stub_unary, aio_client_unary(), 0),
        Case(f"{PROMPTS} prompts, sync", stub_prompts, client_prompts, 0.9),
        Case(f"{PROMPTS} prompts, async", aio_stub_prompts, aio_client_prompts, 0.9),
    ]
    return made, close


def processor_time(process: int) -> float:
    """Seconds of processor time that another process has used; 0 where the system does not say."""
    file = Path(f"/proc/{process}/stat")
    if not file.exists():
        return 0.0
    fields = file.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def timed(run: Run, server: int) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    clock, process = time.perf_counter(), time.process_time() + processor_time(server)
    assert await run() > 0
    return (
        time.perf_counter() - clock,
        time.process_time() + processor_time(server) - process,
    )


async def compare(
    target: str, server: int, chunks: int, calls: int, rounds: int, only: str
) -> None:
    print(f"{'':34}{'clock':>8}{'cpu':>8}   aim")
    found, close = cases(target, chunks, calls)
    for case in found:
        if only not in case.name:
            continue
        ratios: list[tuple[float, float]] = []
        for number in range(rounds + 1):
            base, client = await timed(case.base, server), await timed(case.client, server)
            pair = [mine / its for mine, its in zip(client, base, strict=True)]
            if number:  # the first is not counted
                ratios.append((pair[0], pair[1]))
        clock, process = (statistics.median(column) for column in zip(*ratios, strict=True))
        if case.name.startswith("unary"):
            aim = f"at most {case.aim}" if case.aim else ""
        else:
            clock, process = 1 / clock, 1 / process
            aim = f"at least {case.aim}" if case.aim else ""
        print(f"{case.name:34}{clock:8.2f}{process:8.2f}   {aim}", flush=True)
    await close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=2000, help="chunks of a stream")
    parser.add_argument("--calls", type=int, default=200, help="unary calls of a run")
    parser.add_argument("--rounds", type=int, default=9, help="runs that are counted")
    parser.add_argument("--only", default="", help="cases whose name contains this")
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
            asyncio.run(
                compare(target, server.pid, args.chunks, args.calls, args.rounds, args.only)
            )
        finally:
            server.stdin.close()


if __name__ == "__main__":
    main()
