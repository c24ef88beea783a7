"""The repository's own virtual environment: created once, updated when its requirements change."""

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
UV = [str(PYTHON), "-m", "uv"]
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
HEARTBEAT = 30  # seconds between messages while a command prints nothing

# For each purpose: what uv installs, a module that shows it is installed, and the size on Linux.
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
    """Create .venv with the package (editable) and its requirements, unless it is up to date."""
    what, module, size = _PURPOSES[purpose]
    stamp = VENV / f"ready-{purpose}"
    try:
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted():
            _check(module)
            return PYTHON
        if not PYTHON.exists():
            download, disk = size.split(", ")
            print(f"First run: creates {VENV}; downloads about {download}, takes {disk} of disk.")
            _run("create a virtual environment", [sys.executable, "-m", "venv", str(VENV)])
        # uv takes seconds where pip takes a minute.
        pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
        _run("install uv", [*pip, _pinned("uv")])
        uv = [*UV, "pip", "install", "--python", str(PYTHON)]
        _run("install the packages", [*uv, "-c", str(CONSTRAINTS), *what])
        stamp.write_text(wanted(), encoding="utf-8")
    except OSError as error:
        stop(f"could not write {VENV}: {error.strerror}; make it writable, or delete it")
    _check(module)
    return PYTHON


def wanted() -> str:
    """A digest of the requirements of .venv, which is updated when the digest changes."""
    parts = [str(ROOT).encode(), (ROOT / "pyproject.toml").read_bytes(), CONSTRAINTS.read_bytes()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def environment() -> dict[str, str]:
    """The environment of commands in .venv: its programs first, without the caller's Python."""
    # Compiled modules are kept: the tests start hundreds of programs, which import the same ones.
    others = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    clean = {k: v for k, v in os.environ.items() if k not in others}
    path = f"{VENV / 'bin'}{os.pathsep}{clean.get('PATH', '')}"
    # uv uses the certificates that pip and git trust here.
    return {"UV_SYSTEM_CERTS": "1"} | clean | {"PATH": path, "VIRTUAL_ENV": str(VENV)}


def enter() -> None:
    """Continue in .venv's Python if the script was started with another one."""
    if Path(sys.prefix).resolve() != VENV.resolve():
        words = [str(ensure("dev")), *sys.argv]
        sys.stdout.flush()
        os.execve(words[0], words, environment())


def watch(process: "subprocess.Popen[str]") -> tuple[str, int]:
    """Wait for a command, with a message now and then. Returns its output and exit status."""
    started = time.monotonic()
    while True:
        try:
            printed, _ = process.communicate(timeout=HEARTBEAT)
            return printed or "", process.returncode
        except subprocess.TimeoutExpired:
            print(f"  still running after {time.monotonic() - started:.0f} s", flush=True)


def _pinned(name: str) -> str:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def _check(module: str) -> None:
    """Stop if .venv cannot import the module."""
    probe = f"import sys, {module}; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(PYTHON), "-c", probe], env=environment(), capture_output=True, encoding="utf-8"
        )
    except OSError:
        done = None
    if done is None or done.returncode:
        stop(f"{VENV} is damaged: its Python cannot import {module}; delete it and run this again")
    current = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if done.stdout.strip() != current:
        print(f"{VENV} has Python {done.stdout.strip()}; delete it to use {current}", flush=True)


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
        stop(
            f"could not {what}: {words[0]} does not run ({error.strerror}); "
            f"delete {VENV} and run this again"
        )
    if status:
        stop(f"could not {what}: {_reason(printed)}; {_advice(printed)}")


def _reason(printed: str) -> str:
    """The reason in the output of a failed command: an error and, from uv, its innermost cause."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["no output"]
    errors = [line for line in lines if line.lower().startswith("error:")]
    causes = [line.removeprefix("cause: ") for line in lines if line.startswith("cause: ")]
    reasons = [(errors or lines)[-1], *causes[-1:]]
    return ": ".join(re.sub("^error: ", "", line, flags=re.IGNORECASE) for line in reasons)


# What to do, by a text in the output of a failed command.
_ADVICE = {
    "ensurepip": "install your system's package for it, such as python3-venv",
    "No space left": "free some disk space",
    "Permission denied": "make it writable",
    "Read-only file system": "make it writable",
    "directory": "make it a writable directory",
    "Connect": "check that a Python package index can be reached",
    "Failed to fetch": "check that a Python package index can be reached",
    "from versions: none": "check that a Python package index can be reached",
}


def _advice(printed: str) -> str:
    for sign, advice in _ADVICE.items():
        if sign in printed:
            return advice
    return f"run the command to see its full output, or delete {VENV} and run this again"
