"""The example runs as its header says, and the pages tell what is true."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from support import ROOT, run

from smg_proto import sagellm_pb2, sagellm_pb2_grpc
from smg_proto.testing import run_vllm_engine

EXAMPLE = ROOT / "examples" / "sagellm_quickstart.py"
PAGE = ROOT / "docs" / "sagellm.md"


def test_the_example_shows_the_rules_and_the_events_of_an_engine() -> None:
    with run_vllm_engine() as address:
        lines = run(sys.executable, EXAMPLE, address).splitlines()
    assert lines[0] == "protocol 0.1"
    assert lines[1].endswith("the same again: True")
    assert lines[2] == "refused: max_tokens Input should be greater than 0"
    assert lines[3].endswith("passes; refused: rank must be below world_size, which is 2")
    events = [json.loads(line) for line in lines[4:]]
    assert [event["event"] for event in events] == ["start", *["delta"] * (len(events) - 2), "end"]
    assert events[-1]["content"] == "".join(event["content"] for event in events[1:-1]) != ""
    assert events[-1]["metrics"]["ttft_ms"] > 0


def _answers(program: str) -> bool:
    """Run a server of GenerateService and ask it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = program.replace("127.0.0.1:50061", address)
    server = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        with grpc.insecure_channel(address) as channel:
            stub = sagellm_pb2_grpc.GenerateServiceStub(channel)
            request = sagellm_pb2.Request(prompt="Once", max_tokens=2)
            answer = stub.Generate(request, timeout=30, wait_for_ready=True)
        return len(answer.output_tokens) == 2
    finally:
        server.terminate()
        server.wait()


def test_the_programs_of_the_page_run() -> None:
    types, strict, engine, service = re.findall(
        r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    setting = "data = {'request_id': 'r', 'trace_id': 't', 'prompt': 'p', 'max_tokens': 8}\n"
    with run_vllm_engine() as address:
        port = address.rpartition(":")[2]
        program = types + setting + strict + engine.replace("50051", port)
        printed = run(sys.executable, "-c", program)
        assert json.loads(printed.splitlines()[-1])["event"] == "end"
        assert _answers(service.replace("50051", port))


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8")))
def test_links_of_the_page_lead_somewhere(link: str) -> None:
    assert Path(PAGE.parent, link).exists()
