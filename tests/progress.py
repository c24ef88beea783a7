"""For the person who waits: which test is running when one takes long, and how it went, as JSON."""

import json
import threading
import time
from collections import Counter, defaultdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

LONG = 30  # seconds after which a running test is named, again and again


class Progress:
    """Registered by conftest.py for `pytest --summary=FILE`, which scripts/test uses."""

    def __init__(self, config: pytest.Config, summary: Path) -> None:
        self._config = config
        self._summary = summary
        self._running: dict[str, float] = {}  # since when
        self._over = threading.Event()

    def pytest_sessionstart(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self._over.set()
        stats: dict[str, list[Any]] = terminalreporter.stats
        seconds: dict[str, float] = defaultdict(float)
        for report in (report for reports in stats.values() for report in reports):
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] += report.duration
        result = {
            "passed": len(stats.get("passed", ())) + len(stats.get("xfailed", ())),
            "failed": len(stats.get("failed", ())) + len(stats.get("error", ())),
            "skipped": Counter(_reason(report) for report in stats.get("skipped", ())),
            "slowest": max(seconds.items(), key=itemgetter(1), default=None),
        }
        self._summary.write_text(json.dumps(result), encoding="utf-8")

    def _watch(self) -> None:
        while not self._over.wait(LONG):
            now = time.monotonic()
            reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
            for nodeid, since in list(self._running.items()):
                if now - since >= LONG:
                    reporter.ensure_newline()
                    reporter.write_line(f"  running for {now - since:.0f} s: {nodeid}")


def _reason(report: Any) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")
