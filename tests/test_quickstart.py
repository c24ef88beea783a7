"""scripts/quickstart in a fresh copy of the repository, as someone runs it who just came."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import checkout

pytestmark = pytest.mark.packaging


def test_quickstart_runs_a_completion_from_a_fresh_checkout(tmp_path: Path) -> None:
    checkout(tmp_path)
    command = [sys.executable, str(tmp_path / "scripts" / "quickstart")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "One contract serves many clients" in done.stdout
    assert (tmp_path / ".venv").is_dir()
