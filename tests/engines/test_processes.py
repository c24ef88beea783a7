"""Engines leave no process behind, however the test run ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, eventually

from engines.processes import program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups are of POSIX")

# Starts a process of its own, as vLLM does, and waits. Neither hears SIGTERM.
ENGINE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "worker"])
    print('{"event": "ready"}', flush=True)
time.sleep(600)
"""
RUN = """
import sys
from pathlib import Path
from engines.processes import program
with program([sys.executable, sys.argv[1]], Path(sys.argv[2])) as engine:
    engine.until_ready()
    print(engine.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "engine.py"
    path.write_text(ENGINE, encoding="utf-8")
    return path


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_killing_an_engine_ends_its_processes(engine: Path, tmp_path: Path) -> None:
    with program([sys.executable, engine], tmp_path / "log") as running:
        running.until_ready()
        assert not is_gone(running.process.pid)
        running.kill()
        eventually(lambda: is_gone(running.process.pid), "the group is gone")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_a_test_run_early_ends_its_engines(
    engine: Path, tmp_path: Path, how: signal.Signals
) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(engine), str(tmp_path / "log")],
        cwd=ROOT / "tests",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    with run:
        assert run.stdout
        group = int(run.stdout.readline())
        assert not is_gone(group)
        run.send_signal(how)
        eventually(lambda: is_gone(group), "nothing is left of the engine")
