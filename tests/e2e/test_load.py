"""A short form of the benchmark's load: nothing is lost, and memory stays flat."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

pytestmark = pytest.mark.e2e


def test_a_hundred_streams_without_a_pause() -> None:
    program = ROOT / "benchmarks" / "front_door.py"
    command: list[str | Path] = [
        sys.executable,
        program,
        "--only-load",
        "--load",
        "10",
        "--streams",
        "100",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
