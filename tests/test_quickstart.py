"""scripts/quickstart in a fresh copy of the repository, as someone runs it who just came."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, run

pytestmark = pytest.mark.packaging


def test_quickstart_goes_from_nothing_to_a_completion(tmp_path: Path) -> None:
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in files.splitlines():
        if (ROOT / name).is_file():
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    command = [sys.executable, str(tmp_path / "scripts" / "quickstart")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "One contract serves many clients" in done.stdout
    assert (tmp_path / ".venv").is_dir()
