"""The example runs as its header says, and the pages tell what is true."""

import json
import re
import sys
from pathlib import Path

import pytest
from support import ROOT, run

from smg_proto.testing import run_vllm_engine

EXAMPLE = ROOT / "examples" / "sagellm_quickstart.py"
PAGE = ROOT / "docs" / "sagellm.md"


def test_the_example_runs_without_a_server() -> None:
    lines = run(sys.executable, EXAMPLE).splitlines()
    assert lines[0] == "protocol 0.1"
    assert lines[1].endswith("the same again: True")
    assert lines[2] == "refused: max_tokens Input should be greater than 0"
    assert lines[3].endswith("passes; refused: rank must be below world_size, which is 2")


def test_the_example_prints_the_events_of_an_engine() -> None:
    with run_vllm_engine() as address:
        events = [
            json.loads(line) for line in run(sys.executable, EXAMPLE, address).splitlines()[4:]
        ]
    assert [event["event"] for event in events] == ["start", *["delta"] * (len(events) - 2), "end"]
    assert events[-1]["content"] == "".join(event["content"] for event in events[1:-1]) != ""
    assert events[-1]["metrics"]["ttft_ms"] > 0


def test_the_programs_of_the_page_run() -> None:
    types, strict, engine = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    setting = "data = {'request_id': 'r', 'trace_id': 't', 'prompt': 'p', 'max_tokens': 8}\n"
    run(sys.executable, "-c", types + setting + strict)
    with run_vllm_engine() as address:
        port = address.rpartition(":")[2]
        printed = run(sys.executable, "-c", types + engine.replace("50051", port))
    assert json.loads(printed.splitlines()[-1])["event"] == "end"


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", PAGE.read_text()))
def test_links_of_the_page_lead_somewhere(link: str) -> None:
    assert Path(PAGE.parent, link).exists()
