"""Whatever breaks, each call ends with a status, and the engine stops working for nobody."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import ROOT, eventually

from e2e.deployment import Door, Gateway, front_door, gateway
from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc
from smg_proto.errors import from_rpc_error
from smg_proto.testing import Address, Answer, FakeVllmEngine, Fault, run_vllm_engine

pytestmark = pytest.mark.e2e

HELLO = smg.ChatMessage(role=smg.ROLE_USER, content="Hello.")
SECRET = "sesame-0451"


def chat(model: str, tokens: int = 200) -> smg.ChatRequest:
    sampling = smg.SamplingParams(ignore_eos=True)
    return smg.ChatRequest(model=model, messages=[HELLO], max_tokens=tokens, sampling=sampling)


@contextmanager
def worker(name: str, delay: float) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "e2e.worker", name, str(delay)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT / "tests", stdin=pipe, stdout=pipe, text=True)
    with process:
        assert process.stdin and process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def slow_worker() -> Iterator[Address[FakeVllmEngine]]:
    """A worker that takes its time: 10 ms a token."""
    with run_vllm_engine(FakeVllmEngine(name="slow", token_delay=0.01)) as address:
        yield address


@pytest.fixture
def slow(slow_worker: Address[FakeVllmEngine]) -> FakeVllmEngine:
    """Its engine, with nothing scripted."""
    slow_worker.servicer.script.clear()
    return slow_worker.servicer


@pytest.fixture(scope="module")
def real(
    slow_worker: str, gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    # What the worker does wrong here is not to be held against it in the next test.
    flags = ["--disable-circuit-breaker", "--disable-worker-overload-protection"]
    home = tmp_path_factory.mktemp("faults")
    with gateway(gateway_python, home, slow_worker, flags=flags) as running:
        yield running


@pytest.fixture(scope="module")
def door(real: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    with front_door(real.http.url, folder, "--metrics", "127.0.0.1:0") as running:
        yield running


def idle(engine: FakeVllmEngine) -> bool:
    return engine.record.counters.running == 0


def test_cancelling_stops_the_engine(slow: FakeVllmEngine, door: Door) -> None:
    before = slow.record.counters.finished
    events = door.chats.StreamChat(chat("slow", 2000))
    assert next(iter(events)).HasField("start")
    events.cancel()
    eventually(lambda: idle(slow), "the engine is idle")
    waiting = door.chats.Chat.future(chat("slow", 2000))
    eventually(lambda: not idle(slow), "the engine is at work")
    waiting.cancel()
    eventually(lambda: idle(slow), "the engine is idle")
    assert slow.record.counters.finished == before


def test_a_deadline_stops_the_engine(slow: FakeVllmEngine, door: Door) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(door.chats.StreamChat(chat("slow", 2000), timeout=0.5))
    assert from_rpc_error(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: idle(slow), "the engine is idle")


def test_a_client_that_disconnects_stops_the_engine(slow: FakeVllmEngine, door: Door) -> None:
    with grpc.insecure_channel(door.address) as channel:
        events = smg_pb2_grpc.ChatServiceStub(channel).StreamChat(chat("slow", 2000))
        next(iter(events))
        assert not idle(slow)
    eventually(lambda: idle(slow), "the engine is idle")


def test_an_engine_that_fails_in_the_middle_fails_the_stream(
    slow: FakeVllmEngine, door: Door
) -> None:
    streams: dict[str, Callable[[], Iterable[Any]]] = {
        "chat": lambda: door.chats.StreamChat(chat("slow")),
        "completion": lambda: door.completions.StreamComplete(
            smg.CompletionRequest(model="slow", prompt="a", max_tokens=200)
        ),
        "tokens": lambda: door.completions.StreamComplete(
            smg.CompletionRequest(
                model="slow", prompt_token_ids=smg.TokenIds(ids=[70]), max_tokens=200
            )
        ),
        "message": lambda: door.messages.StreamMessage(
            smg.CreateMessageRequest(
                model="slow",
                max_tokens=200,
                turns=[smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text="a")])],
            )
        ),
        "response": lambda: door.responses.StreamResponse(
            smg.CreateResponseRequest(model="slow", input="a", max_tokens=200)
        ),
    }
    for name, start in streams.items():
        slow.script.add(Fault(grpc.StatusCode.INTERNAL, after=4), rpc="Generate")
        seen: list[object] = []
        with pytest.raises(grpc.RpcError) as caught:
            seen.extend(start())
        failure = from_rpc_error(caught.value)
        assert failure.code is grpc.StatusCode.INTERNAL, name
        assert failure.reason == "WORKER_ERROR", name
        if name == "response":
            assert failure.metadata["response_id"].startswith("resp_")


@pytest.mark.parametrize(
    "status, code, reason",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DEADLINE_EXCEEDED, "WORKER_TIMEOUT"),
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL, "WORKER_ERROR"),
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED_BY_BACKEND"),
    ],
)
def test_a_rejection_by_the_worker_is_reported(
    slow: FakeVllmEngine,
    door: Door,
    status: grpc.StatusCode,
    code: grpc.StatusCode,
    reason: str,
) -> None:
    slow.script.add(Fault(status), rpc="Generate", times=None)
    with pytest.raises(grpc.RpcError) as caught:
        door.chats.Chat(chat("slow"))
    failure = from_rpc_error(caught.value)
    assert (failure.code, failure.reason) == (code, reason)
    with pytest.raises(grpc.RpcError) as caught:
        list(door.chats.StreamChat(chat("slow")))
    assert from_rpc_error(caught.value).reason == reason


def test_a_slow_reader_loses_nothing(slow: FakeVllmEngine, door: Door) -> None:
    text = "word " * 400
    slow.script.add(Answer(text=text), rpc="Generate")
    slow.token_delay = 0
    try:
        pieces: list[str] = []
        for event in door.chats.StreamChat(chat("slow", 4000)):
            if len(pieces) < 20:
                time.sleep(0.02)
            pieces.append(event.delta.content)
    finally:
        slow.token_delay = 0.01
    assert "".join(pieces) == text


def test_a_killed_worker_fails_its_streams(door: Door) -> None:
    with worker("doomed", 0.02) as (process, address):
        workers = door.workers
        spec = smg.WorkerSpec(url=f"grpc://{address}")
        workers.CreateWorker(smg.CreateWorkerRequest(spec=spec))
        eventually(lambda: answers(door, "doomed"), "the new worker answers")
        events = door.chats.StreamChat(chat("doomed", 1000))
        for _, _event in zip(range(5), events, strict=False):
            pass
        process.kill()
        with pytest.raises(grpc.RpcError) as caught:
            list(events)
        failure = from_rpc_error(caught.value)
        assert failure.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
        assert failure.reason in ("WORKER_ERROR", "STREAM_TRUNCATED")


def answers(door: Door, model: str) -> bool:
    try:
        return bool(door.chats.Chat(chat(model, 1)).id)
    except grpc.RpcError:
        return False


def test_every_call_of_many_is_accounted_for(slow: FakeVllmEngine, door: Door) -> None:
    """60 streams at once: some end, some are cancelled, some run out of time, some fail."""
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    for _ in range(10):
        slow.script.add(Fault(grpc.StatusCode.INTERNAL, after=3), rpc="Generate")

    def one(number: int) -> None:
        events = door.chats.StreamChat(chat("slow", 20), timeout=0.1 if number % 4 == 0 else 60)
        code = "OK"
        try:
            for count, _ in enumerate(events):
                if number % 4 == 1 and count == 3:
                    events.cancel()
        except grpc.RpcError as error:
            code = from_rpc_error(error).code.name
        with lock:
            ends[code] += 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    slow.script.clear()
    assert sum(ends.values()) == 60
    assert set(ends) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL"}, ends
    assert ends["OK"] and ends["CANCELLED"]
    eventually(lambda: idle(slow), "the engine is idle")

    def counted() -> bool:
        series = metrics(door)
        started = sum(v for k, v in series.items() if k.startswith("smg_proto_requests_started"))
        ended = sum(v for k, v in series.items() if k.startswith("smg_proto_requests_total"))
        active = sum(v for k, v in series.items() if k.startswith("smg_proto_active"))
        return started == ended and active == 0

    eventually(counted, "each call that was begun has ended in the metrics")


def metrics(door: Door) -> dict[str, float]:
    port = door.banner.rpartition(" ")[2]
    with urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_health_follows_a_killed_and_restarted_gateway(real: Gateway, door: Door) -> None:
    health: Any = health_pb2_grpc.HealthStub(door.channel)

    def serving() -> bool:
        request = health_pb2.HealthCheckRequest(service="smg.v1.ChatService")
        return bool(health.Check(request).status == health_pb2.HealthCheckResponse.SERVING)

    eventually(serving, "the front door is healthy")
    events = door.chats.StreamChat(chat("slow", 1000))
    next(iter(events))
    real.kill()
    with pytest.raises(grpc.RpcError) as caught:
        list(events)
    assert from_rpc_error(caught.value).reason == "STREAM_TRUNCATED"
    with pytest.raises(grpc.RpcError) as caught:
        door.chats.Chat(chat("slow", 3))
    failure = from_rpc_error(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "GATEWAY_UNAVAILABLE",
    )
    eventually(lambda: not serving(), "the front door is no longer healthy")
    real.start()
    eventually(serving, "the front door is healthy again")
    assert door.chats.Chat(chat("slow", 3)).usage.completion_tokens == 3


def test_keys_pass_through_and_stay_out_of_the_log(
    gateway_python: Path, slow_worker: str, tmp_path: Path
) -> None:
    flags = ["--api-key", SECRET]
    with (
        gateway(gateway_python, tmp_path, slow_worker, flags=flags) as guarded,
        front_door(guarded.http.url, tmp_path, "--log-level", "debug") as door,
    ):
        request = chat("slow", 3)
        with pytest.raises(grpc.RpcError) as caught:
            door.chats.Chat(request)
        failure = from_rpc_error(caught.value)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
        with pytest.raises(grpc.RpcError):
            door.chats.Chat(request, metadata=(("authorization", "Bearer wrong-" + SECRET),))
        key = (("authorization", f"Bearer {SECRET}"),)
        reply = door.chats.Chat(request, metadata=key)
        assert reply.usage.completion_tokens == 3
        list(door.chats.StreamChat(request, metadata=key))
        log = door.log.read_text(encoding="utf-8")
    assert "method=ChatService.Chat code=OK" in log
    for private in (SECRET, "Hello.", reply.choices[0].message.content.strip()):
        assert private not in log
