#!/usr/bin/env python3
"""What the front door costs over the gateway's own HTTP API, in one run on loopback.

    python benchmarks/front_door.py                 latency, throughput, memory, bytes
    python benchmarks/front_door.py --load 60       and 500 concurrent streams for a minute
    python benchmarks/front_door.py --beside ../old another checkout's front door in every round

The baseline is the same request over HTTP to the same gateway (PyPI `smg`), over the same fake
vLLM worker; `serve --processes 2` is measured in the same rounds. Runs are interleaved; figures are
medians of their ratios. Needs uv and the package index for the gateway's environment, which is kept
in .cache/.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc

from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc as rpc

ROOT = Path(__file__).resolve().parents[1]
SMG = "smg==1.13.0"
TOKENS = 64
MODEL = "demo-model"
WORKER = """
import sys
from smg_proto.testing import FakeVllmEngine, run_vllm_engine
with run_vllm_engine(FakeVllmEngine(token_delay=float(sys.argv[1]))) as address:
    print(address, flush=True)
    sys.stdin.read()
"""
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_completion_tokens": TOKENS,
    "ignore_eos": True,
}
REQUEST = smg.ChatRequest(
    model=MODEL,
    messages=[smg.ChatMessage(role=smg.ROLE_USER, content="Tell me a story.")],
    max_tokens=TOKENS,
    sampling=smg.SamplingParams(ignore_eos=True),
)

Ask = Callable[[], Awaitable[int]]


@dataclass(frozen=True)
class Door:
    """A front door to measure: its checkout, and what the command gets beside the rest."""

    checkout: Path = ROOT
    options: tuple[str, ...] = ()


OURS: Mapping[str, Door] = {"front door": Door()}
BOTH = {**OURS, "front door of 2 processes": Door(options=("--processes", "2"))}
# A process of several gets whole connections, so every rate is measured over this many.
CONNECTIONS = 8


# --- The pieces ---


def gateway_program() -> Path:
    home = ROOT / ".cache" / "benchmarks" / SMG
    if not (home / "bin" / "smg").exists():
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, home], check=True)
        install: list[str | Path] = [
            "uv",
            "pip",
            "install",
            "-q",
            "--python",
            home / "bin" / "python",
            SMG,
        ]
        subprocess.run(install, check=True)
    return home / "bin" / "smg"


@contextmanager
def process(
    *command: str | Path, line: bool = True, source: Path = ROOT
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        [str(word) for word in command],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=source,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    try:
        assert running.stdout
        yield running, running.stdout.readline().strip() if line else ""
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Deployment:
    """Where everything listens, and which process it is."""

    url: str
    # Of each front door its address.
    doors: dict[str, str]
    pids: dict[str, int]


@asynccontextmanager
async def deployment(pace: float, doors: Mapping[str, Door] = OURS) -> AsyncIterator[Deployment]:
    """Worker, gateway, and some front doors."""
    port = free_port()
    with ExitStack() as stack:
        running, worker = stack.enter_context(process(sys.executable, "-c", WORKER, str(pace)))
        command: list[str | Path] = [
            gateway_program(),
            "launch",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        command += ["--worker-urls", f"grpc://{worker}", "--log-level", "error"]
        command += ["--disable-worker-overload-protection", "--max-concurrent-requests", "-1"]
        url = f"http://127.0.0.1:{port}"
        gateway, _ = stack.enter_context(process(*command, line=False))
        found = Deployment(url, {}, {"worker": running.pid, "gateway": gateway.pid})
        await ready(url)
        serve = [sys.executable, "-m", "smg_proto", "serve", "--upstream", url]
        serve += ["--listen", "127.0.0.1:0", "--log-level", "error", "--wait", "60"]
        for name, door in doors.items():
            command = [*serve, *door.options]
            running, banner = stack.enter_context(process(*command, source=door.checkout))
            if not banner:
                raise SystemExit(f"{name} does not start")
            found.doors[name] = banner.partition(" on ")[2].partition(",")[0]
            found.pids[name] = running.pid
        yield found


async def ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(400):
            try:
                async with session.get(f"{url}/readiness") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise SystemExit("the gateway did not become ready")


# --- The two ways to ask ---


def http_ways(session: aiohttp.ClientSession, url: str) -> tuple[Ask, Ask]:
    """As lean as a Python client over HTTP can be: the JSON of each event is read, no more."""
    path = f"{url}/v1/chat/completions"

    async def unary() -> int:
        async with session.post(path, json=BODY) as reply:
            reply.raise_for_status()
            return int(json.loads(await reply.read())["usage"]["completion_tokens"])

    async def stream() -> int:
        usage = 0
        body = BODY | {"stream": True, "stream_options": {"include_usage": True}}
        async with session.post(path, json=body) as reply:
            reply.raise_for_status()
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if event.get("usage"):
                        usage = int(event["usage"]["completion_tokens"])
        return usage

    return unary, stream


def grpc_ways(channel: grpc.aio.Channel) -> tuple[Ask, Ask]:
    stub: rpc.ChatServiceAsyncStub = rpc.ChatServiceStub(channel)

    async def unary() -> int:
        return (await stub.Chat(REQUEST)).usage.completion_tokens

    async def stream() -> int:
        usage = 0
        async for event in stub.StreamChat(REQUEST):
            usage = event.end.usage.completion_tokens
        return usage

    return unary, stream


def in_turn(asks: Sequence[Ask]) -> Ask:
    """Each time the next of them."""
    turns = itertools.cycle(asks)
    return lambda: next(turns)()


# --- What is measured ---


async def latencies(ask: Ask, times: int) -> list[float]:
    found: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        assert await ask() == TOKENS
        found.append(time.perf_counter() - began)
    return sorted(found)


async def rate(ask: Ask, streams: int, each: int) -> float:
    """Tokens per second of so many streams at once."""

    async def one() -> int:
        return sum([await ask() for _ in range(each)])

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one() for _ in range(streams))))
    assert tokens == streams * each * TOKENS
    return tokens / (time.perf_counter() - began)


async def compare_latency(what: str, http: Ask, door: Ask, rounds: int, times: int) -> None:
    await latencies(http, 2), await latencies(door, 2)
    p50: list[float] = []
    p99: list[float] = []
    base: list[float] = []
    for _ in range(rounds):
        theirs, ours = await latencies(http, times), await latencies(door, times)
        base.append(statistics.median(theirs))
        p50.append(statistics.median(ours) / statistics.median(theirs))
        p99.append(ours[int(times * 0.99)] / theirs[int(times * 0.99)])
    result = f"{statistics.median(base) * 1000:.1f} ms over HTTP"
    print(
        f"{what}: p50 {statistics.median(p50):.2f}x, p99 {statistics.median(p99):.2f}x ({result})"
    )


@dataclass
class Cost:
    """What a round of many streams took."""

    rate: float  # tokens per second
    cpu: dict[str, float]  # microseconds of processor time a token, by process


def processor_time(pid: int) -> float:
    """Of a process and of those that it started."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return own + sum(processor_time(int(child)) for child in children)


async def cost(ask: Ask, streams: int, each: int, pids: Mapping[str, int]) -> Cost:
    pids = {**pids, "client": os.getpid()}
    before = {name: processor_time(pid) for name, pid in pids.items()}
    found = await rate(ask, streams, each)
    tokens = streams * each * TOKENS
    spent = {name: processor_time(pid) - before[name] for name, pid in pids.items()}
    return Cost(found, {name: seconds / tokens * 1e6 for name, seconds in spent.items()})


async def compare_rate(
    what: str, http: Ask, doors: dict[str, Ask], at: Deployment, rounds: int
) -> None:
    ways = {"HTTP": http, **doors}
    shared = {name: at.pids[name] for name in ("worker", "gateway")}
    pids = {name: {**shared, **({name: at.pids[name]} if name in doors else {})} for name in ways}
    for ask in ways.values():
        await rate(ask, 100, 1)
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, ask in ways.items():
            found[name].append(await cost(ask, 100, 2, pids[name]))
    for name, costs in found.items():
        pairs = zip(costs, found["HTTP"], strict=True)
        ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)
        spent = {
            process: statistics.median(each.cpu[process] for each in costs)
            for process in costs[0].cpu
        }
        result = ", ".join(f"{process} {time:.0f}" for process, time in spent.items())
        print(f"{what}, {name}: {ratio:.2f}x; µs of processor a token: {result}")


async def measure(pace: float, rounds: int, doors: Mapping[str, Door]) -> None:
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(deployment(pace, doors))
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        http_unary, http_stream = http_ways(session, at.url)
        name = f"{pace * 1000:g} ms a token"
        times = 10 if pace else 100
        streams: dict[str, Ask] = {}
        for door, address in at.doors.items():
            own = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
            ways = [
                grpc_ways(
                    await stack.enter_async_context(grpc.aio.insecure_channel(address, options=own))
                )
                for _ in range(CONNECTIONS)
            ]
            unary, stream = ways[0]
            streams[door] = in_turn([stream for _, stream in ways])
            await compare_latency(f"unary, {name}, {door}", http_unary, unary, rounds, times)
            await compare_latency(f"streamed, {name}, {door}", http_stream, stream, rounds, times)
        await compare_rate(f"100 streams, {name}", http_stream, streams, at, rounds)


async def bytes_on_the_wire() -> None:
    async with deployment(0) as at:
        targets = (("HTTP", at.url.removeprefix("http://")), ("gRPC", at.doors["front door"]))
        for name, target in targets:
            async with counting_proxy(target) as (proxy, counted):
                if name == "HTTP":
                    async with aiohttp.ClientSession() as session:
                        await http_ways(session, f"http://{proxy}")[1]()
                        first = counted()
                        await http_ways(session, f"http://{proxy}")[1]()
                else:
                    async with grpc.aio.insecure_channel(proxy) as channel:
                        await grpc_ways(channel)[1]()
                        first = counted()
                        await grpc_ways(channel)[1]()
                print(f"bytes of a streamed chat of {TOKENS} tokens, {name}: {counted() - first}")


@asynccontextmanager
async def counting_proxy(target: str) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    count = 0
    host, _, port = target.rpartition(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while piece := await reader.read(1 << 16):
            count += len(piece)
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    bound = server.sockets[0].getsockname()
    try:
        yield f"127.0.0.1:{bound[1]}", lambda: count
    finally:
        server.close()


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


async def idle_memory(streams: int = 200) -> None:
    async with deployment(60) as at, grpc.aio.insecure_channel(at.doors["front door"]) as channel:
        pid = at.pids["front door"]
        stub: rpc.ChatServiceAsyncStub = rpc.ChatServiceStub(channel)

        async def hold(number: int) -> None:
            before = resident(pid)
            calls = [stub.StreamChat(REQUEST) for _ in range(number)]
            await asyncio.sleep(3)
            if number == streams:
                each = (resident(pid) - before) / number / 1024
                print(f"memory of an idle stream: {each:.0f} KiB")
            for call in calls:
                call.cancel()
            await asyncio.sleep(1)

        await hold(20)  # what the first streams cost once and for all
        await hold(streams)


async def load(seconds: float, streams: int) -> bool:
    """Streams without a pause; nothing may be lost, and memory may not grow."""
    async with deployment(0.05) as at, grpc.aio.insecure_channel(at.doors["front door"]) as channel:
        pid = at.pids["front door"]
        _, stream = grpc_ways(channel)
        until = time.monotonic() + seconds
        ended = 0
        failed: list[str] = []

        async def one() -> None:
            nonlocal ended
            while time.monotonic() < until:
                try:
                    assert await stream() == TOKENS
                    ended += 1
                except grpc.aio.AioRpcError as error:
                    failed.append(f"{error.code().name} {error.details()}")

        async def watch() -> list[int]:
            seen: list[int] = []
            while time.monotonic() < until:
                await asyncio.sleep(seconds / 12)
                seen.append(resident(pid))
            return seen

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(one() for _ in range(streams)))
        seen = await watcher
        early, late = statistics.median(seen[2:6]), statistics.median(seen[-4:])
        growth = late / early - 1
        print(
            f"{streams} concurrent streams for {seconds:.0f} s: {ended} ended, {len(failed)} "
            f"failed {sorted(set(failed))[:3]}, memory {late / 2**20:.0f} MiB ({growth:+.1%})"
        )
        return not failed and growth < 0.1


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved runs (default: 5)")
    parser.add_argument("--load", type=float, default=0, metavar="S", help="seconds of load")
    parser.add_argument("--streams", type=int, default=500, help="streams of the load")
    parser.add_argument("--only-load", action="store_true", help="the load and nothing else")
    parser.add_argument(
        "--beside", type=Path, metavar="DIR", help="another checkout, for comparison"
    )
    args = parser.parse_args()
    if not args.only_load:
        for pace in (0.02, 0.0):
            beside = {"front door of --beside": Door(args.beside.resolve())} if args.beside else {}
            await measure(pace, args.rounds, {**beside, **BOTH})
        await bytes_on_the_wire()
        await idle_memory()
    return 0 if not args.load or await load(args.load, args.streams) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
