#!/usr/bin/env python3
"""smg_proto.engine against a plain loop over the stub, for each contract, in one run.

    python benchmarks/engine_client.py [--chunks N] [--rounds N]

A server in a process of its own sends ready-made messages as fast as it can, one token each. The
loop reads of each message what a program would: token ids or text. CPU time per chunk of the client
over that of the loop in the same round: at most 1.15. Figures are medians.
Exit: 0 the bar is kept everywhere, 1 it is missed.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from smg_proto import mlx_engine_pb2 as mlx
from smg_proto import openengine_pb2 as openengine
from smg_proto import sglang_runtime_pb2 as runtime
from smg_proto import sglang_scheduler_pb2 as scheduler
from smg_proto import tokenspeed_scheduler_pb2 as tokenspeed
from smg_proto import trtllm_service_pb2 as trtllm
from smg_proto import vllm_engine_pb2 as engine
from smg_proto import vllm_inference_pb2 as vllm
from smg_proto.engine import connect

BAR = 1.15
ASKED: dict[str, Any] = {"token_ids": [20, 21, 22], "max_tokens": 8}
Messages = Callable[[int], Iterator[Any]]
Run = Callable[[], Awaitable[int]]


def chunks(pb: Any, index: str, output: str) -> Messages:
    """Of the gateway's kind."""

    def messages(count: int) -> Iterator[Any]:
        one = pb.GenerateResponse(
            chunk=pb.GenerateStreamChunk(token_ids=[300], prompt_tokens=3, completion_tokens=1)
        )
        setattr(one.chunk, index, 0)
        data = one.SerializeToString()
        yield from (data for _ in range(count))
        last = pb.GenerateComplete(finish_reason="stop", prompt_tokens=3)
        getattr(last, output).append(300)
        yield pb.GenerateResponse(complete=last).SerializeToString()

    return messages


def of_vllm(count: int) -> Iterator[bytes]:
    one = vllm.SequenceOutput(text="word ", num_tokens=1, token_ids=[300])
    data = vllm.GenerateResponse(outputs=one).SerializeToString()
    yield from (data for _ in range(count))
    one.finish_info.finish_reason = vllm.FinishInfo.STOP
    yield vllm.GenerateResponse(outputs=one).SerializeToString()


def of_openengine(count: int) -> Iterator[bytes]:
    token = openengine.TokenInfo(token_id=300, token="word ")
    new = openengine.TokenOutput(output_index=0, tokens=[token], text="word ")
    data = openengine.GenerateResponse(request_id="r", token=new).SerializeToString()
    yield from (data for _ in range(count))
    end = openengine.GenerationFinished(output_index=0, reason=openengine.FINISH_REASON_STOP)
    yield openengine.GenerateResponse(request_id="r", finished=end).SerializeToString()


def of_runtime(count: int) -> Iterator[bytes]:
    facts = {"id": '"r"', "prompt_tokens": "3", "cached_tokens": "0", "finish_reason": "null"}
    for number in range(1, count + 1):
        facts["completion_tokens"] = str(number)
        one = runtime.GenerateResponse(output_ids=[300], meta_info=facts)
        yield one.SerializeToString()
    facts["finish_reason"] = '{"type": "length", "length": 1}'
    yield runtime.GenerateResponse(output_ids=[], meta_info=facts).SerializeToString()


def ids_of_chunk(message: Any) -> int:
    return len(message.chunk.token_ids) if message.WhichOneof("response") == "chunk" else 0


# Contract to the path, the messages, their class, and what the loop reads of one.
CASES: dict[str, tuple[str, Messages, Any, Callable[[Any], int]]] = {
    "vllm.grpc.engine": (
        "vllm.grpc.engine.VllmEngine/Generate",
        chunks(engine, "index", "output_ids"),
        engine,
        ids_of_chunk,
    ),
    "sglang.grpc.scheduler": (
        "sglang.grpc.scheduler.SglangScheduler/Generate",
        chunks(scheduler, "index", "output_ids"),
        scheduler,
        ids_of_chunk,
    ),
    "tokenspeed.grpc.scheduler": (
        "tokenspeed.grpc.scheduler.TokenSpeedScheduler/Generate",
        chunks(tokenspeed, "index", "output_ids"),
        tokenspeed,
        ids_of_chunk,
    ),
    "trtllm": (
        "trtllm.TrtllmService/Generate",
        chunks(trtllm, "sequence_index", "output_token_ids"),
        trtllm,
        ids_of_chunk,
    ),
    "mlx.grpc.engine": (
        "mlx.grpc.engine.MlxEngine/Generate",
        chunks(mlx, "index", "output_ids"),
        mlx,
        ids_of_chunk,
    ),
    "vllm": (
        "vllm.Inference/GenerateStream",
        of_vllm,
        vllm,
        lambda message: len(message.outputs.text) and len(message.outputs.token_ids),
    ),
    "openengine.v1": (
        "openengine.v1.Inference/Generate",
        of_openengine,
        openengine,
        lambda message: len(message.token.text) and len(message.token.tokens),
    ),
    "sglang.runtime.v1": (
        "sglang.runtime.v1.SglangService/Generate",
        of_runtime,
        runtime,
        lambda message: message.meta_info["finish_reason"] != "" and len(message.output_ids),
    ),
}


class Pump(grpc.GenericRpcHandler):
    """Sends the messages of each contract, ready-made."""

    def __init__(self, count: int) -> None:
        self._ready = {f"/{path}": [*make(count)] for path, make, *_ in CASES.values()}
        info = runtime.GetServerInfoResponse(json_info='{"incremental_streaming_output": true}')
        result = [info.SerializeToString()]
        self._ready["/sglang.runtime.v1.SglangService/GetServerInfo"] = result

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        ready = self._ready[str(details.method)]
        return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(ready))


def serve(count: int) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Pump(count),))
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


async def measure(target: str, contract: str, rounds: int) -> tuple[float, float]:
    """Median of client over loop: sync, asyncio."""
    path, _, pb, read = CASES[contract]
    with connect(target, contract=contract) as client, grpc.insecure_channel(target) as channel:
        async with (
            connect(target, contract=contract) as aio_client,
            grpc.aio.insecure_channel(target) as aio_channel,
        ):
            kinds: Any = channel, aio_channel
            stub, aio_stub = (
                kind.unary_stream(f"/{path}", response_deserializer=pb.GenerateResponse.FromString)
                for kind in kinds
            )

            async def sync_loop() -> int:
                return sum(read(message) for message in stub(b"", timeout=600))

            async def sync_client() -> int:
                return sum(len(piece.token_ids) for piece in client.generate(**ASKED, timeout=600))

            async def aio_loop() -> int:
                seen = 0
                async for message in aio_stub(b"", timeout=600):
                    seen += read(message)
                return seen

            async def aio_engine() -> int:
                seen = 0
                async for piece in aio_client.generate(**ASKED, timeout=600):
                    seen += len(piece.token_ids)
                return seen

            runs: list[Run] = [sync_loop, sync_client, aio_loop, aio_engine]
            times: list[list[float]] = [[], [], [], []]
            for number in range(rounds + 1):  # the first is not counted
                for run, took in zip(runs, times, strict=True):
                    began = time.process_time()
                    assert await run() > 0
                    if number:
                        took.append(time.process_time() - began)
            loop, ours, aio_base, aio_ours = times
            return _ratio(ours, loop), _ratio(aio_ours, aio_base)


def _ratio(ours: list[float], base: list[float]) -> float:
    """Of the same round each, the median."""
    return statistics.median([one / other for one, other in zip(ours, base, strict=True)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=1500, help="chunks of a stream")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that are counted")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.chunks)
        return 0
    command = [sys.executable, __file__, "--serve", f"--chunks={args.chunks}"]
    pipe = subprocess.PIPE
    missed = False
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin and server.stdout
        target = server.stdout.readline().strip()
        try:
            print(f"{'time per chunk over a loop over the stub':42}{'sync':>8}{'asyncio':>9}   bar")
            for contract in CASES:
                ratios = asyncio.run(measure(target, contract, args.rounds))
                missed |= max(ratios) > BAR
                print(f"{contract:42}{ratios[0]:8.2f}{ratios[1]:9.2f}   at most {BAR}", flush=True)
        finally:
            server.stdin.close()
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
