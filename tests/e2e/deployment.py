"""Starts the pieces: workers, the real gateway over them, and the front door before it."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import eventually, free_port

from e2e.http_worker import MODEL, HttpWorker, http_worker
from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.testing import Answer, FakeVllmEngine

# The gateway and what it loads must find everything here: the hub is a closed door.
CLOSED = {
    "HF_HUB_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


@dataclass
class Http:
    """The gateway's own API, asked directly."""

    url: str

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON, whatever the status."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        for name, value in {"content-type": "application/json", **headers}.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, _json(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())

    def post(self, path: str, **body: object) -> Any:
        status, data = self.ask("POST", path, body)
        assert status == 200, data
        return data

    def events(self, path: str, **body: object) -> list[Any]:
        """The JSON of each event of a stream."""
        data = json.dumps({**body, "stream": True}).encode()
        request = urllib.request.Request(self.url + path, data)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as reply:
            lines = [line[6:] for line in reply.read().splitlines() if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    def alive(self) -> bool:
        return self._says_yes("/liveness")

    def ready(self) -> bool:
        return self._says_yes("/readiness")

    def _says_yes(self, path: str) -> bool:
        try:
            return self.ask("GET", path)[0] == 200
        except OSError:
            return False


@dataclass
class Gateway:
    """The real gateway, as a process."""

    python: Path
    folder: Path
    workers: Sequence[str]
    flags: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def http(self) -> Http:
        return Http(f"http://127.0.0.1:{self.port}")

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(self.python.with_name("smg")), "launch", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--prometheus-host", "127.0.0.1"]
        command += ["--prometheus-port", str(free_port()), "--log-level", "warn", *self.flags]
        if self.workers:
            urls = (one if "://" in one else f"grpc://{one}" for one in self.workers)
            command += ["--worker-urls", *urls]
        with (self.folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | CLOSED, start_new_session=True
            )
        if self.workers:
            eventually(self.http.ready, f"the gateway is ready; see {self.folder}/gateway.log")

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def gateway(
    python: Path, folder: Path, *workers: str, flags: Sequence[str] = ()
) -> Iterator[Gateway]:
    running = Gateway(python, folder, workers, flags)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@dataclass
class Door:
    """The front door, as a process, and a channel to it."""

    process: "subprocess.Popen[str]"
    banner: str
    address: str
    log: Path
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self.completions = rpc.CompletionServiceStub(self.channel)
        self.chats = rpc.ChatServiceStub(self.channel)
        self.messages = rpc.MessageServiceStub(self.channel)
        self.responses = rpc.ResponseServiceStub(self.channel)
        self.embeddings = rpc.EmbeddingServiceStub(self.channel)
        self.tokenizer = rpc.TokenizerServiceStub(self.channel)
        self.parsers = rpc.ParserServiceStub(self.channel)
        self.models = rpc.ModelServiceStub(self.channel)
        self.workers = rpc.WorkerServiceStub(self.channel)
        self.gateway = rpc.GatewayServiceStub(self.channel)


@contextmanager
def front_door(upstream: str, folder: Path, *flags: str) -> Iterator[Door]:
    """`smg-proto serve`, as a person starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "front_door.log"
    command = [sys.executable, "-m", "smg_proto", "serve", "--upstream", upstream]
    command += ["--listen", "127.0.0.1:0", *flags]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    with process:
        assert process.stdout
        banner = process.stdout.readline()
        if " on 127.0.0.1:" not in banner:
            process.kill()
            pytest.fail(f"the front door did not start\n{log.read_text(encoding='utf-8')}")
        address = banner.partition(" on ")[2].partition(",")[0]
        try:
            with grpc.insecure_channel(address) as channel:
                yield Door(process, banner.strip(), address, log, channel)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass
class Deployment:
    """A gateway over one worker, with the front door before it."""

    http: Http
    door: Door
    model: str
    engine: FakeVllmEngine | None = None
    worker: HttpWorker | None = None

    @contextmanager
    def saying(self, text: str) -> Iterator[None]:
        """The model says this, whatever it is asked. A worker that echoes does so by itself."""
        if self.engine:
            self.engine.script.add(Answer(text=text), rpc="Generate", times=None)
        try:
            yield
        finally:
            if self.engine:
                self.engine.script.clear()


@contextmanager
def over_http(python: Path, folder: Path) -> Iterator[Deployment]:
    """A gateway over a worker that speaks HTTP, which a client has added and seen become ready."""
    with ExitStack() as stack:
        worker = stack.enter_context(http_worker())
        real = stack.enter_context(gateway(python, folder))
        eventually(real.http.alive, f"the gateway answers; see {folder}/gateway.log")
        door = stack.enter_context(front_door(real.http.url, folder))
        watch = door.workers.WatchWorkers(smg.WatchWorkersRequest(), timeout=60)
        assert next(watch).HasField("ready"), "there is no worker yet"
        spec = smg.WorkerSpec(url=worker.url, labels={"realtime": "true"})
        made = door.workers.CreateWorker(smg.CreateWorkerRequest(spec=spec))
        states = (event.worker.state for event in watch if event.worker.id == made.id)
        assert smg.WORKER_STATE_READY in states
        watch.cancel()
        yield Deployment(real.http, door, MODEL, worker=worker)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode()
