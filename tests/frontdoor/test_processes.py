"""`smg-proto serve --processes N`: one port, one /metrics, nobody lost."""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from support import async_eventually

from frontdoor.calls import STREAMS, call, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from frontdoor.test_serve import MODELS, SERVING, Refused, health, port_of, refused, serve
from smg_proto.frontdoor._exposition import Merged

__all__ = ["refused"]  # a fixture

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT on this system"
)
FLAGS = ("--listen", "127.0.0.1:0", "--processes", "2", "--metrics", "127.0.0.1:0")
PATIENCE = 60


@asynccontextmanager
async def channels(line: str, number: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Channels that do not share a connection, so that the system spreads them."""
    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        made = [
            grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}", options=options)
            for _ in range(number)
        ]
        for channel in made:
            await stack.enter_async_context(channel)
        yield made


async def metrics(line: str) -> dict[str, float]:
    url = f"http://127.0.0.1:{line.rpartition(' ')[2]}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        lines = (await reply.text()).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {series: float(value) for series, _, value in pairs}


def workers_of(process: Process) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not listed.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(pid) for pid in listed.read_text(encoding="utf-8").split()]


def sockets(pid: int) -> int:
    links = (each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir())
    return sum(str(link).startswith("socket:") for link in links)


def alive(pid: int) -> bool:
    """Whether it runs; one that nobody waits for any more does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


CALLS = 'smg_proto_requests_total{method="ChatService.Chat",code="OK"}'


async def test_processes_share_the_port_and_their_metrics_are_summed(upstream: Upstream) -> None:
    upstream.answer(200, MODELS)
    async with serve(upstream.url, *FLAGS) as (process, line):
        assert "; 2 processes; metrics on port " in line
        assert len(workers_of(process)) == 2
        upstream.forget()
        upstream.replay("chat")
        idle = {pid: sockets(pid) for pid in workers_of(process)}
        async with channels(line, 24) as opened:
            for channel in opened:
                await call(channel, "ChatService.Chat")
                assert await health(channel, "smg.v1.ChatService") == SERVING
            result = await metrics(line)
            assert result[CALLS] == 24
            assert result["smg_proto_workers"] == 2
            # All 24 connections to one of two: that happens once in 8 million runs.
            assert all(sockets(pid) > before for pid, before in idle.items())
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_a_worker_that_dies_is_restarted_and_no_counter_decreases(
    upstream: Upstream,
) -> None:
    upstream.answer(200, MODELS)
    async with serve(upstream.url, *FLAGS) as (process, line):
        upstream.forget()
        upstream.replay("chat")
        async with channels(line, 8) as opened:
            for channel in opened:
                await call(channel, "ChatService.Chat")
        before = await metrics(line)
        killed, other = workers_of(process)
        os.kill(killed, signal.SIGKILL)
        await async_eventually(
            lambda: len({*workers_of(process)} - {killed}) == 2, "a new worker", PATIENCE
        )
        (new,) = {*workers_of(process)} - {other}
        assert new != killed

        async def restarted() -> dict[str, float]:
            while (result := await metrics(line))["smg_proto_worker_restarts_total"] < 1:
                await asyncio.sleep(0.05)
            return result

        result = await asyncio.wait_for(restarted(), PATIENCE)
        assert result[CALLS] == before[CALLS] == 8
        async with channels(line, 8) as opened:
            for channel in opened:
                await call(channel, "ChatService.Chat")
        assert (await metrics(line))[CALLS] == 16


async def test_sigterm_drains_all_processes(upstream: Upstream) -> None:
    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    upstream.answer(200, MODELS)
    go_on = asyncio.Event()
    async with (
        serve(upstream.url, *FLAGS) as (process, line),
        channels(line, 12) as opened,
    ):
        pids = workers_of(process)
        upstream.forget()
        upstream.stream(events[0], go_on, *events[1:])
        sent = [
            stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
            for channel in opened
        ]
        for each in sent:
            await each.read()
        process.send_signal(signal.SIGTERM)

        async def refuses() -> None:
            while True:
                async with channels(line, 1) as (late,):
                    try:
                        await asyncio.wait_for(health(late, ""), 5)
                    except (grpc.aio.AioRpcError, asyncio.TimeoutError):
                        return

        await asyncio.wait_for(refuses(), PATIENCE)
        go_on.set()
        for each in sent:
            last: Any = None
            while (event := await each.read()) is not grpc.aio.EOF:
                last = event
            assert last.HasField("end")
            assert await each.code() is grpc.StatusCode.OK
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        assert not any(map(alive, pids))


async def test_one_worker_can_be_drained_and_is_replaced(upstream: Upstream) -> None:
    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    upstream.answer(200, MODELS)
    go_on = asyncio.Event()
    async with (
        serve(upstream.url, *FLAGS) as (process, line),
        channels(line, 12) as opened,
    ):
        upstream.forget()
        upstream.stream(events[0], go_on, *events[1:])
        sent = [
            stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
            for channel in opened
        ]
        for each in sent:
            await each.read()
        drained, other = workers_of(process)
        os.kill(drained, signal.SIGTERM)
        go_on.set()
        for each in sent:
            while await each.read() is not grpc.aio.EOF:
                pass
            assert await each.code() is grpc.StatusCode.OK
        assert process.stderr
        while b"worker started" not in (output := await process.stderr.readline()):
            assert output
        assert drained not in workers_of(process) and other in workers_of(process)


async def test_workers_end_when_their_supervisor_dies(upstream: Upstream) -> None:
    upstream.answer(200, MODELS)
    async with serve(upstream.url, *FLAGS, "--drain", "1") as (process, line):
        assert line
        pids = workers_of(process)
        process.kill()
        await process.wait()
        await async_eventually(lambda: not any(map(alive, pids)), "no worker is left", PATIENCE)


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", "", "99999999999"])
async def test_an_invalid_number_of_processes_is_one_line(
    number: str, upstream: Upstream, refused: Refused
) -> None:
    upstream.answer(200, MODELS)
    assert f'invalid --processes "{number}": must be auto or a whole number' in await refused(
        upstream.url, f"--processes={number}"
    )


async def test_a_startup_error_of_processes_is_one_line(
    upstream: Upstream, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answer(404, "no")
    two = ("--processes", "2")
    assert "is not OpenAI-compatible" in await refused(upstream.url, *two)
    path = f"unix:{tmp_path}/x.sock"
    assert "processes cannot share a Unix socket" in await refused(
        upstream.url, *two, "--listen", path
    )
    upstream.forget()
    upstream.answer(200, MODELS)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag in ("--listen", "--metrics"):
            assert "already in use" in await refused(upstream.url, *two, flag, address)
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    assert "use --processes 1" in await refused(upstream.url, *two)


async def test_auto_is_one_process_for_each_core(upstream: Upstream) -> None:
    upstream.answer(200, MODELS)
    cores = len(os.sched_getaffinity(0))
    flags = ("--listen", "127.0.0.1:0", "--processes", "auto")
    async with serve(upstream.url, *flags) as (process, line):
        assert len(workers_of(process)) == (0 if cores == 1 else cores)
        assert (f"; {cores} processes" in line) == (cores > 1)


def test_metrics_of_processes_are_summed_per_series() -> None:
    one = (
        "# HELP a_total Things.\n# TYPE a_total counter\n"
        'a_total{x="1"} 2\na_total{x="a b"} 1\n'
        "# HELP b Now.\n# TYPE b gauge\nb 3\n"
        "# HELP c_seconds Time.\n# TYPE c_seconds histogram\n"
        'c_seconds_bucket{le="+Inf"} 2\nc_seconds_sum 0.250000\nc_seconds_count 2\n'
    )
    merged = Merged([one])
    merged.add(one.replace('x="1"', 'x="2"'), gauges=False)
    assert merged.text() == (
        "# HELP a_total Things.\n# TYPE a_total counter\n"
        'a_total{x="1"} 2\na_total{x="a b"} 2\na_total{x="2"} 2\n'
        "# HELP b Now.\n# TYPE b gauge\nb 3\n"
        "# HELP c_seconds Time.\n# TYPE c_seconds histogram\n"
        'c_seconds_bucket{le="+Inf"} 4\nc_seconds_sum 0.500000\nc_seconds_count 4\n'
    )
