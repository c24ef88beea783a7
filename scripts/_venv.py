"""The repository's own virtual environment: made once, renewed when pyproject.toml changes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


def ensure(extras: str) -> Path:
    """Make .venv with the package (editable) and these extras, unless it is there: its Python."""
    key = f"{extras} {ROOT}".encode() + (ROOT / "pyproject.toml").read_bytes()
    wanted = hashlib.sha256(key).hexdigest()
    stamp = VENV / f"ready-{extras}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return PYTHON
    if not PYTHON.exists():
        _run(sys.executable, "-m", "venv", VENV)
    # uv installs in seconds what takes pip a minute; it comes from the package index as all else.
    _run(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv>=0.5")
    uv: list[str | Path] = [PYTHON, "-m", "uv", "pip", "install", "-q", "--python", PYTHON]
    _run(*uv, "--editable", f"{ROOT}[{extras}]" if extras else ROOT)
    stamp.write_text(wanted)
    return PYTHON


def environment() -> dict[str, str]:
    """For commands in .venv: its programs first, nothing of the caller's own Python set-up."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    path = f"{VENV / 'bin'}{os.pathsep}{clean.get('PATH', '')}"
    # The certificates that pip and git trust here, for uv too.
    return {"UV_SYSTEM_CERTS": "1"} | clean | {"PATH": path, "VIRTUAL_ENV": str(VENV)}


def enter() -> None:
    """Go on in .venv's Python, if the script was started with another."""
    if Path(sys.prefix).resolve() != VENV.resolve():
        words = [str(ensure("dev")), *sys.argv]
        sys.stdout.flush()
        os.execve(words[0], words, environment())


def _run(*command: str | Path) -> None:
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    if subprocess.run(words, env=environment(), cwd=ROOT).returncode:
        sys.exit(f"set-up failed: {' '.join(words)}\nIs a Python package index within reach?")
