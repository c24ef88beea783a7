"""Servers and networks that fail, large and long answers, and nothing left behind."""

import asyncio
import gc
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import async_eventually, eventually
from vllm_kit import NEVER, Both, ScriptedEngine, chunk, complete

from smg_proto.testing import Address, FakeVllmEngine, Fault
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    Timeout,
    VLLMGrpcClient,
    VLLMGrpcConnectionError,
    VLLMGrpcTimeoutError,
)

SERVER = """
import sys
from smg_proto.testing import FakeVllmEngine, run_vllm_engine
with run_vllm_engine(FakeVllmEngine(token_delay=float(sys.argv[1]))) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(token_delay: float) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A fake engine that can be killed."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(token_delay)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdout is not None and server.stdin is not None
        try:
            yield server.stdout.readline().strip(), server
        finally:
            server.kill()


def test_a_server_that_is_killed_is_a_connection_error(both: Both) -> None:
    with process(token_delay=0.1) as (address, server):
        client = both.make(address, max_retries=0)
        running: Any = both.stream(client, prompt="x", max_tokens=2000)
        assert both.next(running)  # after the first chunk of this one
        waiting: Any = both.stream(
            both.make(address, max_retries=0), prompt="x", max_tokens=2000, timeout=20
        )  # before the first chunk of that one
        server.kill()
        server.wait()
        for stream in (running, waiting):
            with pytest.raises(VLLMGrpcConnectionError, match="check host, port") as caught:
                both.each(stream)
            assert caught.value.request_id == stream.request_id
        assert len(running.completion.choices[0].token_ids) >= 1
        with pytest.raises(VLLMGrpcConnectionError):  # before anything
            both.create(client, prompt="x")
        with pytest.raises(VLLMGrpcConnectionError):
            both.run(client.health.check())


class Proxy:
    """Passes bytes on to a server, and resets its connections when told to."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[socket.socket] = []
        self.connections = 0
        self.frozen = False
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(self._target)
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                self._start(self._pump, source, sink)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                while self.frozen:
                    time.sleep(0.01)
                sink.sendall(data)
        except OSError:
            pass

    def reset(self) -> None:
        """Close every connection with RST."""
        for end in self._pairs:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RD)  # wakes the pump
            end.close()
        self._pairs.clear()

    def close(self) -> None:
        self.frozen = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def proxy(address: Address[FakeVllmEngine]) -> Iterator[Proxy]:
    passing = Proxy(address)
    yield passing
    passing.close()


def test_a_reset_ends_a_stream_and_the_client_goes_on(
    both: Both, proxy: Proxy, engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    cancelled = engine.record.counters.cancelled
    client = both.make(proxy.address, initial_backoff=0.2)
    stream: Any = both.stream(client, prompt="x", max_tokens=2000)
    assert both.next(stream)
    proxy.reset()
    with pytest.raises(VLLMGrpcConnectionError) as caught:
        both.each(stream)
    assert not caught.value.retryable  # a message has come: repeated, its text would be there twice
    eventually(lambda: engine.record.counters.cancelled == cancelled + 1)
    engine.token_delay = 0.0
    assert both.create(client, prompt="x", max_tokens=2, wait_for_ready=True).choices
    assert proxy.connections >= 2


def test_a_network_that_swallows_everything_is_noticed(
    both: Both, proxy: Proxy, engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    client = both.make(proxy.address)
    stream: Any = both.stream(client, prompt="x", max_tokens=2000, timeout=Timeout(idle=0.3))
    assert both.next(stream)
    proxy.frozen = True
    with pytest.raises(VLLMGrpcTimeoutError):
        both.each(stream)


def test_an_answer_of_20_megabytes(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    big = "x" * 20_000_000
    end = complete(1, kv_transfer_params_json=f'{{"x":"{big}"}}')
    for messages, read in (([end], both.create), ([chunk(1), end], both.final)):
        scripted.messages = messages
        got = read(scripted_client, prompt="x").choices[0].kv_transfer_params
        assert got is not None and len(got["x"]) == len(big)


def test_a_stream_of_2000_chunks(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [*(chunk(i) for i in range(2000)), complete(1999)]
    final = both.final(scripted_client, prompt="x")
    assert final.choices[0].token_ids == [*range(2000)]
    assert final.usage is not None and final.usage.completion_tokens == 2000


def test_an_answer_that_stops_in_the_middle_of_an_unstreamed_call(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    """One of two choices has come when the deadline strikes: an error, and the engine is told."""
    scripted.messages = [complete(1), complete(2, index=1)]
    scripted.pause = lambda number: 100.0 * number
    with pytest.raises(VLLMGrpcTimeoutError):
        both.create(scripted_client, prompt="x", n=2, timeout=1.5)
    eventually(lambda: scripted.ended_early == 1)


async def test_cancelling_a_task_cancels_its_request(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    counters = engine.record.counters
    async with AsyncVLLMGrpcClient(target=address) as client:
        stream = await client.completions.create(prompt="x", max_tokens=2000, stream=True)
        for work in (
            stream.get_final_completion(),
            client.completions.create(prompt="x", max_tokens=2000),
        ):
            before, started = counters.cancelled, counters.started
            task: asyncio.Task[object] = asyncio.ensure_future(work)
            while counters.running == 0 or (counters.started == started and before):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while counters.cancelled == before:
                await asyncio.sleep(0.01)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.completions.create(prompt="x", max_tokens=2000), 0.2)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def sync_round(address: str) -> None:
    """Clients that are used in every way and closed, or dropped."""
    with VLLMGrpcClient(target=address) as client:
        client.completions.create(prompt="x", max_tokens=2)
        for number, _ in enumerate(client.completions.create(prompt="x", stream=True)):
            if number == 2:
                break
        stream = client.completions.create(prompt="x", max_tokens=5, stream=True)
        stream.get_final_completion()
        client.completions.create(prompt="x", stream=True)  # never read, never closed
        subscription = client.kv_events.subscribe(timeout=Timeout(idle=5))
        subscription.close()
        with pytest.raises(VLLMGrpcTimeoutError):
            client.completions.create(prompt="x", max_tokens=2000, timeout=0.05)


def test_sync_clients_leave_no_threads_and_no_connections(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.005
    sync_round(address)  # gRPC keeps some things of its first use
    gc.collect()
    eventually(lambda: TIMEOUTS not in threads())
    before = (threads(), descriptors())
    for _ in range(5):
        sync_round(address)
    gc.collect()
    eventually(lambda: threads() == before[0] and descriptors() <= before[1])
    eventually(lambda: engine.record.counters.running == 0)


TIMEOUTS = "smg_proto.vllm timeouts"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def test_async_clients_leave_no_tasks_and_no_connections(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.005

    async def use() -> None:
        async with AsyncVLLMGrpcClient(target=address) as client:
            await client.completions.create(prompt="x", max_tokens=2)
            stream = await client.completions.create(prompt="x", stream=True)
            count = 0
            async for _ in stream:
                count += 1
                if count == 3:
                    break
            full = await client.completions.create(prompt="x", max_tokens=5, stream=True)
            await full.get_final_completion()
            await client.completions.create(prompt="x", stream=True)  # never read
            subscription = await client.kv_events.subscribe(timeout=Timeout(idle=5))
            await subscription.close()
            with pytest.raises(VLLMGrpcTimeoutError):
                await client.completions.create(prompt="x", max_tokens=2000, timeout=0.05)

    def settled() -> bool:
        gc.collect()
        return len(asyncio.all_tasks()) == 1

    await use()
    await async_eventually(settled)
    before = descriptors()
    for _ in range(5):
        await use()
    await async_eventually(settled)
    await async_eventually(lambda: descriptors() <= before)
    await async_eventually(lambda: engine.record.counters.running == 0)


@pytest.mark.live
def test_200_streams_at_once_sync(address: Address[FakeVllmEngine]) -> None:
    with VLLMGrpcClient(target=address) as client:

        def one(number: int) -> list[int]:
            stream = client.completions.create(prompt=[20 + number], max_tokens=20, stream=True)
            return stream.get_final_completion().choices[0].token_ids

        with ThreadPoolExecutor(200) as pool:
            together = list(pool.map(one, range(200)))
        assert together[:10] == [one(number) for number in range(10)]
        assert {len(ids) for ids in together} <= set(range(1, 21))


@pytest.mark.live
async def test_200_streams_at_once_async(address: Address[FakeVllmEngine]) -> None:
    async with AsyncVLLMGrpcClient(target=address) as client:

        async def one(number: int) -> list[int]:
            stream = await client.completions.create(
                prompt=[20 + number], max_tokens=20, stream=True
            )
            return (await stream.get_final_completion()).choices[0].token_ids

        together = await asyncio.gather(*(one(number) for number in range(200)))
        assert together[:10] == [await one(number) for number in range(10)]


LEAVES = """
import sys
from smg_proto.vllm import VLLMGrpcClient
client = VLLMGrpcClient(target=sys.argv[1])
waits = client.completions.create(prompt=[1], stream=True)  # for the tokenizer, beside it
without = client.with_options(decoder=None)
several = without.completions.create(prompt=[[1], [2]], max_tokens=30, stream=True)
next(several)
print("leaves", flush=True)
"""


def test_a_program_that_closes_nothing_ends(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    """Its background threads wait for an engine that says nothing, and for readers that left."""
    engine.script.add(Fault(delay=NEVER), rpc="GetTokenizer", times=None)
    command = [sys.executable, "-c", LEAVES, str(address)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "leaves\n"), done.stderr
