"""The programs in examples/ that a gateway can do run against the real one as they are."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, run

from e2e.conftest import PARSERS
from e2e.deployment import Deployment, front_door, gateway, over_http
from smg_proto.testing import Answer, Call, FakeVllmEngine, run_vllm_engine

pytestmark = pytest.mark.e2e

CALL = Answer(calls=[Call("get_weather", '{"city": "Oslo"}')])
SAID = Answer("It is mild.")
# What the model says, one answer after another, and what the program prints.
PROGRAMS = {
    "agent_loop.py": (
        [CALL, SAID],
        r'^get_weather\(\{"city":"Oslo"\}\): 18 .* Oslo\nIt is mild\.$',
    ),
    "message_loop.py": (
        [CALL, SAID],
        r'^get_weather\(\{"city":"Oslo"\}\): 18 degrees in Oslo\nIt is mild\.\n$',
    ),
    "mcp_tools.py": (
        [CALL, SAID],
        r'^weather: get_weather\(\{"city":"Oslo"\}\): .*18 degrees in Oslo.*\nIt is mild\.\n$',
    ),
    "json_schema.py": ([], r"^\{.*\}\ndegrees: -?\d+\n$"),
    "log_probabilities.py": ([], r"^(.+ \d+\.\d%  rather than .*\n){5}$"),
}


@pytest.fixture(scope="module")
def deployment(
    gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    home, engine = tmp_path_factory.mktemp("examples"), FakeVllmEngine()
    with (
        run_vllm_engine(engine) as worker,
        gateway(gateway_python, home, worker, flags=PARSERS) as real,
        front_door(real.http.url, home) as door,
    ):
        yield Deployment(real.http, door, engine.name, engine)


def program(name: str, *words: str) -> str:
    return run(sys.executable, ROOT / "examples" / name, *words)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_over_a_worker_that_speaks_grpc(
    deployment: Deployment, mcp_url: str, name: str
) -> None:
    answers, prints = PROGRAMS[name]
    assert deployment.engine
    deployment.engine.script.clear()
    for answer in answers:
        deployment.engine.script.add(answer)
    words = [mcp_url] if name == "mcp_tools.py" else []
    assert re.search(prints, program(name, deployment.door.address, *words))


def test_a_worker_is_added_labelled_and_removed(deployment: Deployment) -> None:
    with run_vllm_engine(FakeVllmEngine(name="guest")) as address:
        printed = program("worker_lifecycle.py", deployment.door.address, f"grpc://{address}")
    first, labels, last = printed.splitlines()
    assert (first, last) == ("WORKER_STATE_READY", "removed")
    assert "'shift'" in labels and "'zone'" in labels


def test_examples_that_need_an_http_worker(
    gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with over_http(gateway_python, tmp_path_factory.mktemp("over_http")) as deployment:
        assert program("image.py", deployment.door.address) == "so it is\n"
        assert deployment.worker
        path, body = deployment.worker.received[-1]
        (_, picture) = body["messages"][0]["content"]
        assert path == "/v1/chat/completions"
        assert picture["image_url"]["url"] == "https://example.org/cat.png"
        printed = program("embeddings.py", deployment.door.address)
        assert printed == "1000 vectors of {1536}, 3000 tokens\n"
