"""Engines as processes: what they tell of themselves on stdout, and how they end with the test."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, eventually

# Ends the engine and all that it has started, when the test run that holds the pipe has gone.
GUARD = """
import os, signal, sys
sys.stdin.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
"""
SLOW_START = 180.0  # seconds for a real engine to come up on a machine with much else to do


@dataclass
class Process:
    """A program that tells events, and takes orders if it is a stand-in."""

    process: "subprocess.Popen[str]"
    log: Path
    counts: Counter[str] = field(default_factory=Counter[str])
    ready: dict[str, Any] = field(default_factory=dict[str, Any])
    running: set[str] = field(default_factory=set[str])

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if not line.startswith('{"event"'):
                continue
            result = json.loads(line)
            event = result["event"]
            if event == "ready":
                self.ready = result
            elif event == "start":
                self.running.add(result["id"])
            else:
                self.running.discard(result["id"])
            self.counts[event] += 1

    def until_ready(self, seconds: float = SLOW_START) -> dict[str, Any]:
        def come() -> bool:
            if self.process.poll() is not None:
                self.fail(f"ended with status {self.process.returncode}")
            return bool(self.counts["ready"])

        eventually(come, f"the engine is ready; see {self.log}", seconds)
        return self.ready

    def fail(self, how: str) -> None:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        pytest.fail(f"{self.process.args!r} {how}\n{text[-4000:]}")

    def aborts(self) -> int:
        return self.counts["abort"]

    def at_work(self) -> int:
        return len(self.running)

    def pace(self, seconds: float) -> None:
        assert self.process.stdin
        before = self.counts["paced"]
        print(json.dumps({"delay": seconds}), file=self.process.stdin, flush=True)
        eventually(lambda: self.counts["paced"] > before, "the engine keeps the pace")

    def kill(self) -> None:
        """End it at once, with the processes that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def program(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A running program of this project's or another's, in a process group of its own, of which
    nothing is left at the end, nor when the test run is killed.
    """
    words = [str(word) for word in command]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            words,
            cwd=ROOT / "tests",
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    guard = subprocess.Popen(
        [sys.executable, "-c", GUARD, str(process.pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    running = Process(process, log)
    listener = threading.Thread(target=running.listen, daemon=True)
    with guard, process:
        listener.start()
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            running.kill()
            listener.join(timeout=10)
