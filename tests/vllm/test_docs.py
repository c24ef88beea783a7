"""The examples and the programs in the documentation run."""

import re
import sys
from pathlib import Path

import pytest
from support import ROOT, run

from smg_proto.testing import Address, FakeVllmEngine

EXAMPLES = sorted((ROOT / "examples").glob("vllm_*.py"))
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```",
    (ROOT / "docs" / "vllm-client.md").read_text(encoding="utf-8"),
    re.M | re.S,
)


def test_there_are_some() -> None:
    assert len(EXAMPLES) >= 3 and len(PROGRAMS) >= 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example: Path, address: Address[FakeVllmEngine]) -> None:
    assert run(sys.executable, example, address).strip()


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_of_the_documentation_run(
    program: str, address: Address[FakeVllmEngine], tmp_path: Path
) -> None:
    host, _, port = address.rpartition(":")
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    assert run(sys.executable, file, VLLM_GRPC_HOST=host, VLLM_GRPC_PORT=port).strip()
