"""The repository's own virtual environment: made once, renewed when what it installs changes."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import _require_python  # noqa: F401  # pyright: ignore[reportUnusedImport]

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
HEARTBEAT = 30  # seconds between two signs of life of a command that prints nothing

# For each purpose: what uv installs, a module that shows it is there, and the size on Linux.
_PURPOSES = {
    "dev": (
        ["-e", str(ROOT), "-r", "pyproject.toml", "--all-extras", "--group", "dev"],
        "pytest",
        "160 MB, 550 MB",
    ),
    "base": (["-e", str(ROOT)], "grpc", "30 MB, 110 MB"),
}


def stop(problem: str) -> NoReturn:
    """End the script with one line and status 2: what is wrong, and what to do."""
    print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr, flush=True)
    sys.exit(2)


def ensure(purpose: str) -> Path:
    """Make .venv with the package (editable) and what the purpose needs, unless it is there."""
    what, module, size = _PURPOSES[purpose]
    stamp = VENV / f"ready-{purpose}"
    try:
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted():
            _assert_whole(module)
            return PYTHON
        if not PYTHON.exists():
            download, disk = size.split(", ")
            print(f"First run: makes {VENV}; downloads about {download}, takes {disk} of disk.")
            _run("make a virtual environment", [sys.executable, "-m", "venv", str(VENV)])
        # uv installs in seconds what takes pip a minute.
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
        _run("install uv", [*pip, _pinned("uv")])
        uv = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON)]
        _run("install the packages", [*uv, "-c", str(CONSTRAINTS), *what])
        stamp.write_text(wanted(), encoding="utf-8")
    except OSError as error:
        stop(f"cannot write {VENV}: {error.strerror}; make it writable, or delete it")
    _assert_whole(module)
    return PYTHON


def wanted() -> str:
    """What .venv is made from, as a digest: it is made anew when this changes."""
    parts = [str(ROOT).encode(), (ROOT / "pyproject.toml").read_bytes(), CONSTRAINTS.read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


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


def watch(process: "subprocess.Popen[str]") -> tuple[str, int]:
    """Wait for a command and show that time passes: what it printed, and its status."""
    started = time.monotonic()
    while True:
        try:
            printed, _ = process.communicate(timeout=HEARTBEAT)
            return printed or "", process.returncode
        except subprocess.TimeoutExpired:
            print(f"  still at it after {time.monotonic() - started:.0f} s", flush=True)


def _pinned(name: str) -> str:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def _assert_whole(module: str) -> None:
    probe = f"import sys, {module}; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(PYTHON), "-c", probe], env=environment(), capture_output=True, encoding="utf-8"
        )
    except OSError:
        done = None
    if done is None or done.returncode:
        stop(f"{VENV} is damaged: its Python cannot import {module}; delete it and run again")
    asked = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if done.stdout.strip() != asked:
        print(f"{VENV} has Python {done.stdout.strip()}; delete it to use {asked}", flush=True)


def _run(what: str, words: Sequence[str]) -> None:
    print("+", " ".join(words), flush=True)
    try:
        with subprocess.Popen(
            words,
            env=environment(),
            cwd=ROOT,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            printed, status = watch(process)
    except OSError as error:
        stop(f"cannot {what}: {words[0]} does not run ({error.strerror}); delete {VENV}, run again")
    if status:
        stop(f"cannot {what}: {_reason(printed)}; {_advice(printed)}")


def _reason(printed: str) -> str:
    """What a failed command gives as its reason: an error and, from uv, its innermost cause."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["no output"]
    errors = [line for line in lines if line.lower().startswith("error:")]
    causes = [line.removeprefix("cause: ") for line in lines if line.startswith("cause: ")]
    said = [(errors or lines)[-1], *causes[-1:]]
    return ": ".join(re.sub("^error: ", "", line, flags=re.IGNORECASE) for line in said)


# What to do, by what a failed command printed.
_ADVICE = {
    "ensurepip": "install your system's package for it, such as python3-venv",
    "No space left": "make room there",
    "Permission denied": "make that place writable",
    "Read-only file system": "make that place writable",
    "directory": "make that place a writable directory",
    "Connect": "is a Python package index within reach?",
    "Failed to fetch": "is a Python package index within reach?",
    "from versions: none": "is a Python package index within reach?",
}


def _advice(printed: str) -> str:
    for sign, advice in _ADVICE.items():
        if sign in printed:
            return advice
    return f"run the command for its full output; if it helps, delete {VENV} and start over"
