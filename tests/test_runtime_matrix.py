"""The package works on every pair of runtimes from the floors to the newest, warnings as errors."""

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from contract_facts import message_classes
from google.protobuf.message import Message
from random_messages import random_message
from support import ROOT, find_python, make_environment, wheel_metadata

import smg_proto

pytestmark = pytest.mark.matrix

NEWEST = "newest"
PROTOBUFS = ["4.25.8", "5.29.5", "6.31.1", "6.33.6", NEWEST]
GRPCIOS = ["1.62.3", "1.71.2", NEWEST]
PACKAGED_FOR = (3, 12)  # the newest Python that grpcio 1.62 has wheels for


@dataclass(frozen=True)
class Cell:
    protobuf: str
    grpcio: str
    python: str = ""
    implementation: str = "upb"

    def __str__(self) -> str:
        words = [f"protobuf {self.protobuf}", f"grpcio {self.grpcio}", self.python]
        return ", ".join(filter(None, [*words, self.implementation.replace("upb", "")]))


CELLS = [
    *(Cell(protobuf, grpcio) for protobuf in PROTOBUFS for grpcio in GRPCIOS),
    Cell("4.25.8", "1.62.3", python="3.10"),
    Cell("5.29.5", "1.71.2", python="3.12"),
    Cell(NEWEST, NEWEST, python="3.13"),
    Cell("6.33.6", "1.71.2", implementation="python"),
]


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return [
        random_message(kind, seed, full=not seed) for kind in message_classes() for seed in (0, 1)
    ]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_package_works_on(cell: Cell, wheel: Path, messages: list[Message], tmp_path: Path) -> None:
    output = run_cell(cell, wheel, messages, tmp_path)
    for sent, found in zip((cell.protobuf, cell.grpcio), output["versions"], strict=False):
        assert sent in (found, NEWEST)
    assert output["versions"][2] == smg_proto.__version__
    assert output["installed"]
    assert output["implementation"] == cell.implementation
    assert output["modules"] == count_modules()
    assert output["sync"] == output["async"] == ["fine", [1, 2, 3], "m"]
    assert output["helpers"] == [" serves many", "INVALID_REQUEST", ["max_tokens"], 0]
    for message, answer in zip(messages, output["messages"], strict=True):
        assert type(message).FromString(base64.b64decode(answer[1])) == message


def run_cell(cell: Cell, wheel: Path, messages: list[Message], folder: Path) -> Any:
    python = cell.python or ("" if sys.version_info[:2] <= PACKAGED_FOR else "3.12")
    wanted = [
        name if version == NEWEST else f"{name}=={version}"
        for name, version in (("protobuf", cell.protobuf), ("grpcio", cell.grpcio))
    ]
    interpreter = make_environment(
        folder / "env", [wheel, *wanted], python=find_python(python) if python else None
    )
    sent = [
        [message.DESCRIPTOR.full_name, base64.b64encode(message.SerializeToString()).decode()]
        for message in messages
    ]
    done = subprocess.run(
        [interpreter, "-W", "error", "-m", "peers.runtime_cell"],
        cwd=ROOT / "tests",
        input=json.dumps(sent) + "\n",
        env={
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": cell.implementation,
            "GRPC_VERBOSITY": "ERROR",  # not that a server has gone
        },
        capture_output=True,
        text=True,
    )
    assert not done.returncode and not done.stderr, done.stderr
    return json.loads(done.stdout)


def count_modules() -> int:
    folders = [ROOT / "smg_proto", ROOT / "smg_grpc_proto"]
    return sum(len(list(folder.rglob("*_pb2*.py"))) for folder in folders)


def test_the_matrix_reaches_the_declared_floors(wheel: Path) -> None:
    metadata = wheel_metadata(wheel)
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(required) == [f"grpcio>={GRPCIOS[0]}", f"protobuf<9,>={PROTOBUFS[0]}"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert Cell(PROTOBUFS[0], GRPCIOS[0], python="3.10") in CELLS
