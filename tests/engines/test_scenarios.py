"""Every engine against every scenario, but for the deviations, which must be as they are told."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import eventually

from engines.fakes import FAKES
from engines.legacy import LEGACY
from engines.running import Engine, Engines
from engines.scenarios import ENDS_SERVER, SCENARIOS
from smg_proto.engine import EngineError

ENGINES: Engines = {**FAKES, **LEGACY}
DEVIATIONS: dict[str, dict[str, dict[str, str]]] = json.loads(
    Path(__file__).with_name("deviations.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start engines by name, once each; all are stopped at the end."""
    with ExitStack() as stack:
        running: dict[str, Engine] = {}

        def start(name: str, *, own: bool) -> Engine:
            if own or name not in running:
                folder = tmp_path_factory.mktemp("engine")
                engine = stack.enter_context(ENGINES[name](folder))
                if own:
                    return engine
                running[name] = engine
            return running[name]

        yield start


async def judged(engine: Engine, scenario: str, deviation: Mapping[str, str] | None) -> None:
    """Run a scenario: it passes, or fails as the deviation says."""
    try:
        await SCENARIOS[scenario](engine)
    except (AssertionError, EngineError, pytest.fail.Exception) as error:
        if deviation is None:
            raise
        told = f"{type(error).__name__}: {error}"
        assert re.search(deviation["error"], told), f"another deviation than told: {told}"
    else:
        if deviation is not None:
            pytest.fail(f"stale: {engine.name} passes {scenario}; strike it from deviations.json")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ENGINES)
async def test_an_engine_passes(name: str, scenario: str, started: Any) -> None:
    engine = started(name, own=scenario in ENDS_SERVER)
    try:
        await judged(engine, scenario, DEVIATIONS.get(name, {}).get(scenario))
    finally:
        engine.pace(0.0)
    if scenario not in ENDS_SERVER:
        eventually(lambda: engine.running() == 0, "nothing is left in the engine")


def test_deviations_are_of_engines_and_scenarios_that_there_are() -> None:
    for scenarios in DEVIATIONS.values():
        assert scenarios.keys() <= SCENARIOS.keys()
        assert all(one.keys() == {"error", "why"} and one["why"] for one in scenarios.values())
    assert {name for name in DEVIATIONS if name.startswith("fake ")} <= ENGINES.keys()


async def test_a_stale_deviation_fails(started: Any) -> None:
    engine = started("fake vllm.grpc.engine", own=False)
    with pytest.raises(pytest.fail.Exception, match=r"stale: .* passes health"):
        await judged(engine, "health", {"error": ".", "why": "none"})


async def test_another_deviation_than_told_fails(started: Any) -> None:
    engine = started("fake mlx.grpc.engine", own=False)
    with pytest.raises(AssertionError, match="another deviation than told: UnsupportedError: mlx"):
        await judged(engine, "n", {"error": "something else", "why": "none"})
