"""What several tests need: fresh environments, built wheels, clear skips, patience."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IN_CI = os.environ.get("CI", "") not in ("", "false", "0")


MARKED = pytest.StashKey[set[tuple[str, Path]]]()  # the markers that were found, with their files
PATIENCE = 30.0  # seconds for anything to come about, on a slow machine with much else to do


def eventually(
    condition: Callable[[], object], what: str = "it holds", seconds: float = PATIENCE
) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)


@contextmanager
def unhandled_signals_fail() -> Iterator[None]:
    """A test that does not handle SIGINT or SIGTERM fails, instead of ending all tests."""

    def fail(number: int, _: object) -> None:
        raise AssertionError(f"unhandled {signal.Signals(number).name}")

    previous = {number: signal.signal(number, fail) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A port that is free now at all addresses, for a program that has to be given one."""
    dual = socket.has_dualstack_ipv6()
    with socket.socket(socket.AF_INET6 if dual else socket.AF_INET) as found:
        if dual:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether a server on this machine accepts connections at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def async_eventually(
    condition: Callable[[], object | Awaitable[object]],
    what: str = "it holds",
    seconds: float = PATIENCE,
) -> None:
    """The same, while the event loop goes on; the condition may be a coroutine function."""
    ends = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        if time.monotonic() > ends:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.01)


def missing(reason: str) -> None:
    """Skip for want of something on this machine; in CI, where everything must be there, fail."""
    if IN_CI:
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)


def need(program: str) -> str:
    """The path of a program that the test cannot do without."""
    found = shutil.which(program)
    if found is None:
        missing(f"{program} is not on PATH")
    assert found is not None
    return found


def run(*command: str | Path, cwd: Path | None = None, check: bool = True, **env: str) -> str:
    """Run a command; its standard output. A failure shows all that it printed."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # uv, ruff and the like are found also where the environment is not activated.
    clean["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", "")])
    clean["PYTHONIOENCODING"] = "utf-8"  # whatever the locale
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=clean | env, capture_output=True, encoding="utf-8", errors="replace"
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def make_environment(
    home: Path, requirements: Sequence[str | Path], *, python: str | None = None
) -> Path:
    """A fresh virtual environment with these requirements and no others: its Python."""
    run("uv", "venv", "-q", "--no-python-downloads", "--python", python or sys.executable, home)
    interpreter = home / "bin" / "python"
    words = [str(requirement) for requirement in requirements]
    if words:
        run("uv", "pip", "install", "-q", "--python", interpreter, *words)
    return interpreter


def need_checkout() -> None:
    """Skip in a source distribution, which lacks git and the files of CI."""
    if not (ROOT / ".git").exists():
        pytest.skip("checks a git checkout; this is a source distribution")


def tracked(*folders: str) -> list[str]:
    """Files of this checkout that belong to the project, below these folders."""
    need_checkout()
    command = ["ls-files", "--cached", "--others", "--exclude-standard", *folders]
    names = run("git", *command, cwd=ROOT).splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def checkout(folder: Path) -> Path:
    """A copy of this checkout as a repository of its own, with what is not yet committed."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    run("git", *who, "commit", "-q", "-m", "copy", cwd=folder)
    return folder


def build_wheel(out: Path, source: Path = ROOT) -> Path:
    """The wheel of a checkout."""
    run("uv", "build", "-q", "--wheel", "--out-dir", out, source)
    (wheel,) = out.glob("*.whl")
    return wheel


def wheel_metadata(wheel: Path) -> Message:
    """The METADATA of a wheel: name to values."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def published_wheel(version: str) -> Path:
    """A published release of this distribution, downloaded once."""
    store = ROOT / ".cache" / "wheels"
    wheel = store / f"smg_grpc_proto-{version}-py3-none-any.whl"
    if not wheel.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        run(*pip, "download", "--no-deps", "--dest", store, f"smg-grpc-proto=={version}")
    return wheel


def find_python(version: str) -> str:
    """An interpreter of this version, from PATH or from pyenv."""
    if python := _interpreter(version):
        return python
    missing(f"no Python {version}")
    raise AssertionError


def old_python(version: str) -> str:
    """One that is too old for us. No machine has to have it, CI's neither."""
    if python := _interpreter(version):
        return python
    pytest.skip(f"no Python {version}")


def _interpreter(version: str) -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for python in map(str, filter(None, found)):
        if run(python, "-c", "import sys; print(sys.version_info[:2])", check=False):
            return python
    return None
