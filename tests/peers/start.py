"""Starts the peers: environments for them, and processes that end with the test."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, make_environment

PUBLISHED = "smg-grpc-proto==0.4.28"
SERVICER = ["smg-grpc-servicer==0.14.1", "msgspec>=0.18"]  # of its vllm extra, all but vLLM


@dataclass(frozen=True)
class Servicer:
    """A running published servicer."""

    address: str
    proto_version: str
    model: Path
    _events: Path

    def events(self) -> list[dict[str, Any]]:
        """What its engine was asked so far, and how each request ended."""
        lines = (
            self._events.read_text(encoding="utf-8").splitlines() if self._events.exists() else []
        )
        return [json.loads(line) for line in lines]


def servicer_environment(home: Path, proto: str | Path = PUBLISHED) -> Path:
    """The Python of an environment with the published servicer and this smg-grpc-proto."""
    return make_environment(home, [*SERVICER, proto])


@contextmanager
def published_servicer(
    python: Path, folder: Path, *, delta: int = 2, interval: float = 0.0
) -> Iterator[Servicer]:
    """Run `peers.published_servicer` with this Python; folder takes its files."""
    folder.mkdir(parents=True, exist_ok=True)
    events, model, log = folder / "events.jsonl", folder / "model", folder / "servicer.log"
    command = [str(python), "-m", "peers.published_servicer", str(model), "--events", str(events)]
    command += ["--delta", str(delta), "--interval", str(interval)]
    pipe = subprocess.PIPE
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT / "tests", stdin=pipe, stdout=pipe, stderr=stderr, text=True
        )
    with process:
        assert process.stdin and process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                pytest.fail(
                    f"the published servicer did not start\n{log.read_text(encoding='utf-8')}"
                )
            ready = json.loads(line)
            yield Servicer(f"127.0.0.1:{ready['port']}", ready["smg_grpc_proto"], model, events)
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
