"""Every block of Python on every page runs, against the embedded servers."""

import asyncio
import os
import re
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from frontdoor.replay import upstream
from support import ROOT

from docs.pages import Block, blocks
from docs.surroundings import ELSEWHERE, SURROUNDINGS, Surroundings

BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if block.language == "python" and block.id not in ELSEWHERE]
# Go and TypeScript are run by tests/languages/.
PROGRAMS = ("python", "go", "typescript")
RUN_BLOCK = Path(__file__).with_name("run_block.py")


@pytest.fixture
async def here(servers: dict[str, str]) -> AsyncIterator[dict[str, str]]:
    """What stands for the placeholders of `Surroundings`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    async with upstream() as shown:
        shown.answer(200, {"object": "list", "data": [{"id": "demo-model", "object": "model"}]})
        engine_port = servers["engine"].rpartition(":")[2]
        yield servers | {
            "engine_port": engine_port,
            "upstream": shown.url,
            "port": port,
            "root": str(ROOT),
        }


@asynccontextmanager
async def program(
    *words: str | Path, here: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running Python, which is ended with the block."""
    engine = {"VLLM_GRPC_HOST": "127.0.0.1", "VLLM_GRPC_PORT": here["engine_port"]}
    environment = os.environ | engine | {"PYTHONUTF8": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, env=environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output(process: asyncio.subprocess.Process) -> str:
    """All that a program prints; it has to end well."""
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
async def test_the_block_runs(block: Block, here: dict[str, str], tmp_path: Path) -> None:
    around = SURROUNDINGS.get(block.id, Surroundings())

    def placed(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda name: here.get(name[1], name[0]), text)

    code = block.text
    for text, other in around.instead.items():
        assert text in code, f"{block.id} does not have {text!r}"
        code = code.replace(text, placed(other))
    before, client = placed(around.before).lstrip(), tmp_path / "client.py"
    client.write_text(placed(around.client), encoding="utf-8")
    file = tmp_path / "test_block.py"
    file.write_text(f"{before}{code}{placed(around.after)}", encoding="utf-8")
    command: list[str | Path]
    if "def test_" in code:
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, file]
    else:
        line = max(1, block.line - before.count("\n"))
        command = [RUN_BLOCK, file, block.page, str(line), here["gateway"]]
    async with program(*command, here=here) as running:
        if not around.client:
            assert placed(around.prints) in await output(running)
            return
        async with program(client, here=here) as caller:
            ended = asyncio.create_task(running.wait())
            called = asyncio.create_task(output(caller))
            await asyncio.wait([ended, called], return_when=asyncio.FIRST_COMPLETED)
            assert not ended.done(), await output(running)
            await called


def test_no_entry_is_for_a_removed_block() -> None:
    assert SURROUNDINGS.keys() - {block.id for block in PYTHON} == set()


def test_a_block_that_another_test_runs_is_named_there() -> None:
    for block, test in ELSEWHERE.items():
        page, _, heading = block.partition("#")
        code = (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert Path(page).name in code and heading.replace("-", " ") in code.lower()


def test_programs_of_the_guide_are_short() -> None:
    guide = [b for b in BLOCKS if b.page.stem.startswith("guide") and b.language in PROGRAMS]
    lines = {b.id: sum(bool(line.strip()) for line in b.text.splitlines()) for b in guide}
    assert len(guide) >= 19
    assert {name: count for name, count in lines.items() if count > 30} == {}


def test_blocks_have_a_known_language() -> None:
    # A block of another name, or of none, would not be run.
    assert {block.language for block in BLOCKS} <= {*PROGRAMS, "sh", "json", "yaml", ""}
    plain = [block for block in BLOCKS if block.language == ""]
    assert [b.id for b in plain if re.search(r"^(import|from) |^\w[\w.]* = ", b.text, re.M)] == []
