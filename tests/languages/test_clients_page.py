"""The commands of docs/clients.md, and those of clients/browser/ that need no browser, are run."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.pages import blocks
from programs import GRPCURL, go_tool
from secure_gateway import secure_gateway
from support import ROOT, run

from smg_proto.testing import run_gateway

pytestmark = [pytest.mark.languages, pytest.mark.timeout(900)]


def commands(program: str) -> list[str]:
    """The lines of the page that run a program."""
    found = [b.text for b in blocks() if b.page.name == "clients.md" and b.language == "sh"]
    return [line for text in found for line in text.splitlines() if line.startswith(program)]


def copy_service_config(folder: Path) -> None:
    """As the page says."""
    (command,) = commands("python ")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run("bash", "-euc", command, cwd=folder, PATH=path)


def test_the_service_config_is_copied_from_the_package(tmp_path: Path) -> None:
    copy_service_config(tmp_path)
    copied = (tmp_path / "service_config.json").read_text(encoding="utf-8")
    original = ROOT / "smg_proto" / "service_config.json"
    assert json.loads(copied) == json.loads(original.read_text(encoding="utf-8"))


# A part of what each command prints.
GRPCURL_PRINTS = [
    "smg.v1.ChatService.StreamChat",
    "// Name of the model",
    '"finishReason": "stop"',
    '"delta": {',
    '"status": "SERVING"',
    '"id": "demo-model"',
]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """Of a gateway without TLS and of one with it, and the folder with its certificate."""
    folder = tmp_path_factory.mktemp("grpcurl")
    with run_gateway() as plain, secure_gateway(folder) as (secure, _):
        yield plain, secure, folder


@pytest.mark.parametrize("number", range(len(GRPCURL_PRINTS)))
def test_a_line_of_grpcurl(number: int, addresses: tuple[str, str, Path]) -> None:
    plain, secure, folder = addresses
    lines = commands("grpcurl ")
    assert len(lines) == len(GRPCURL_PRINTS)
    line = lines[number].replace("localhost:50051", plain).replace("front-door.example:443", secure)
    path = os.pathsep.join([str(go_tool(GRPCURL).parent), os.environ["PATH"]])
    assert GRPCURL_PRINTS[number] in run("bash", "-euc", line, cwd=folder, PATH=path)
