"""Many runs of chosen tests by one pytest: it collects once, then forks for each run.

    _forks.py --forks [OPTIONS OF PYTEST]
    _forks.py --durations-to FILE [OPTIONS OF PYTEST]    one usual run; {name: seconds} as JSON

With --forks, it writes "ready" when everything is loaded and reads one request a line from
standard input:
{"module": PATH, "before": SOURCE, "after": SOURCE, "tests": [NAMES], "seconds": LIMIT}. In the
fork, the functions of that module get their code from the second source. The reply is one word:
"passed", "failed", or "unable" where only a new process would see the change (it runs on import).
"""

import gc
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TextIO

import pytest


class Forks:
    def __init__(self, requests: TextIO, replies: TextIO) -> None:
        self._requests, self._replies = requests, replies

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        by_name = {item.nodeid: item for item in session.items}
        print("ready", file=self._replies, flush=True)
        for line in self._requests:
            request = json.loads(line)
            items = [by_name[name] for name in request["tests"] if name in by_name]
            child = os.fork()
            if not child:
                os.setsid()
                able = items and replace_functions(*map(request.get, ("module", "before", "after")))
                os._exit(_run(session, items) if able else 2)
            status = _wait(child, request["seconds"])
            with suppress(ProcessLookupError):  # stop what the tests have started too
                os.killpg(child, signal.SIGKILL)
            print({0: "passed", 2: "unable"}.get(status, "failed"), file=self._replies, flush=True)
        return True


def _wait(child: int, seconds: float) -> int:
    """The exit status; -1 if it is killed because it takes longer."""
    ends = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1
        time.sleep(0.005)


def _run(session: pytest.Session, items: list[pytest.Item]) -> int:
    """0 if the tests pass, 1 if one fails."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            session._setupstate.teardown_exact(None)  # pyright: ignore[reportPrivateUsage]
            return 1
    return 0


def replace_functions(module: str, before: str, after: str) -> bool:
    """Change the functions of a loaded module as its source changed, line for line.

    False if something else differs, which runs on import, or if a function is not found. A module
    that is not loaded yet counts as changed: it will be read from its file.
    """
    gc.unfreeze()  # frozen objects would not be found
    functions = [
        function
        for function in gc.get_objects()
        if type(function) is FunctionType and function.__code__.co_filename == module
    ]
    if not functions and all(getattr(m, "__file__", "") != module for m in [*sys.modules.values()]):
        return True
    old = list(_codes(compile(before, module, "exec")))
    new = list(_codes(compile(after, module, "exec")))
    places = [_place(code) for code in old]
    if places != [_place(code) for code in new]:
        return False
    changed: dict[tuple[str, int], CodeType] = {}
    for place, one, other in zip(places, old, new, strict=True):
        if not one.co_flags & inspect.CO_OPTIMIZED:  # of the module or a class
            if _own(one) != _own(other):
                return False
        elif one != other:  # in itself, or in a function inside it
            if places.count(place) > 1 or one.co_freevars != other.co_freevars:
                return False
            changed[place] = other
    inner = {_place(code) for outer in changed.values() for code in [*_codes(outer)][1:]}
    outermost = changed.keys() - inner  # these hold the code of the others
    for function in functions:
        place = _place(function.__code__)
        if code := changed.get(place):
            function.__code__ = code
            outermost.discard(place)
    return bool(changed) and not outermost


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _place(code: CodeType) -> tuple[str, int]:
    return code.co_name, code.co_firstlineno


def _own(code: CodeType) -> tuple[object, ...]:
    """What a code object does, without the code objects inside it."""
    constants = [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]
    return code.co_code, code.co_names, constants


class Durations:
    """Writes how long each test took, as {name: seconds}."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._seconds), encoding="utf-8")


if __name__ == "__main__":
    # pytest captures the standard streams, and what tests start must not hold these two.
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    plugin: Any
    if sys.argv[1] == "--forks":
        plugin = Forks(os.fdopen(requests), os.fdopen(replies, "w"))
        arguments = sys.argv[2:]
    else:  # --durations-to PATH
        plugin, arguments = Durations(Path(sys.argv[2])), sys.argv[3:]
    sys.exit(pytest.main(arguments, plugins=[plugin]))
