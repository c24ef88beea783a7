"""The recipe of docs/frontdoor.md, as it is printed: engine, gateway, front door, two clients."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from support import ROOT, eventually, free_port, make_environment

from e2e.conftest import GATEWAY
from e2e.deployment import CLOSED, Http
from smg_proto.testing._model import MODEL_NAME

pytestmark = pytest.mark.e2e
PATIENCE = 120


def recipe() -> tuple[list[list[str]], str]:
    """The commands, word by word, and the program for openai-python."""
    page = (ROOT / "docs" / "frontdoor.md").read_text(encoding="utf-8")
    section = page.partition("## Try it without a GPU")[2].partition("\n## ")[0]
    shell, python = re.findall(r"```(?:sh|python)\n(.*?)```", section, re.DOTALL)
    return [shlex.split(line) for line in shell.splitlines()], python


@contextmanager
def started(words: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | CLOSED)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(1)
        except grpc.FutureTimeoutError:
            return False
        return True


def test_the_recipe_works_as_printed(tmp_path: Path) -> None:
    (pip, demo, gateway, door, client), program = recipe()
    assert GATEWAY in pip and pip[:2] == ["pip", "install"]
    other = make_environment(tmp_path / "env", [GATEWAY, "openai"])
    # The ports of the page may be taken on this machine.
    ports = {port: str(free_port()) for port in ("50052", "50051", "30000")}
    ours = {"smg-proto": str(Path(sys.executable).with_name("smg-proto")), "python": sys.executable}
    ours["smg"] = str(other.with_name("smg"))

    def here(text: str) -> str:
        for old, new in ports.items():
            text = text.replace(f":{old}", f":{new}") if ":" in text else text
        return ports.get(text, text)

    def command(words: list[str]) -> list[str]:
        return [ours[words[0]], *map(here, words[1:])]

    with ExitStack() as stack:
        stack.enter_context(started(command(demo), tmp_path / "demo.log"))
        eventually(lambda: listens(f"127.0.0.1:{ports['50052']}"), "the engine listens", PATIENCE)
        apart = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        stack.enter_context(started([*command(gateway), *apart], tmp_path / "gateway.log"))
        stack.enter_context(started(command(door), tmp_path / "door.log"))
        http = Http(f"http://127.0.0.1:{ports['30000']}")
        eventually(http.ready, f"the gateway is ready; see {tmp_path}/gateway.log", PATIENCE)
        eventually(
            lambda: listens(f"127.0.0.1:{ports['50051']}"), "the front door listens", PATIENCE
        )
        run = subprocess.run(
            command(client), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith("One contract") and "finish reason: length" in run.stdout
        output = subprocess.run(
            [other, "-c", here(program)], capture_output=True, text=True, timeout=PATIENCE
        )
        assert output.returncode == 0, output.stderr
        assert output.stdout.strip()
        assert MODEL_NAME in program
