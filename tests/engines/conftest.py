from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from engines.fakes import FAKES
from engines.legacy import LEGACY
from engines.real import Workshop
from engines.running import Engine


@pytest.fixture(scope="session")
def workshop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel: Path
) -> Workshop:
    reporter: Any = request.config.pluginmanager.get_plugin("terminalreporter")

    def announce(what: str) -> None:
        if reporter:
            reporter.ensure_newline()
            reporter.write_line(f"  {what}")

    return Workshop(tmp_path_factory.mktemp("engines"), wheel, announce)


class Running:
    """Engines by name, each started when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request, self._folder = request, folder
        self._engines: dict[str, Engine] = {}
        self.stack = ExitStack()

    def __call__(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = self.stack.enter_context(self.fresh(name))
        engine = self._engines[name]
        engine.pace(0.0)
        return engine

    def fresh(self, name: str) -> AbstractContextManager[Engine]:
        """One that nobody else has, to be stopped."""
        folder = self._folder / f"{name.replace(' ', '-')}-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        start = (
            FAKES.get(name)
            or LEGACY.get(name)
            or self._request.getfixturevalue("workshop").engines()[name]
        )
        return start(folder)


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """`running("mlx")`: that engine, running for the whole session."""
    found = Running(request, tmp_path_factory.mktemp("running"))
    with found.stack:
        yield found
