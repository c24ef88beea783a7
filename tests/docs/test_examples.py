"""Every program in examples/ runs against the embedded servers, and prints what it should."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import ROOT, run

FOLDER = ROOT / "examples"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))
# The server whose address a program takes, and a part of what it prints.
EXAMPLES = {
    "agent_loop.py": ("gateway", r'get_weather\(\{"city": *".*"\}\): 18 degrees in .*\n.+'),
    "embeddings.py": ("gateway", r"^1000 vectors of \{1536\}, \d+ tokens\n$"),
    "engine_benchmark.py": (
        "engine",
        r"^demo-model, vLLM, speaks vllm\.grpc\.engine\nrequests: 40 in .*\n"
        r"tokens per second: \d+, of one request \d+\n"
        r"time to first token: median .*\n(.* ms.*\n){8}$",
    ),
    "handle_errors.py": ("gateway", r"^INVALID_ARGUMENT, .*\n  temperature: .*\nNOT_FOUND, MODEL_"),
    "image.py": ("gateway", r"^.+\n$"),
    "json_schema.py": ("gateway", r"^\{.*\}\ndegrees: -?\d+\n$"),
    "load_balancing.py": ("gateway", r"^(.+\n){5}.+"),
    "log_probabilities.py": ("gateway", r"^(.+ \d+\.\d%  rather than .*\n){5}$"),
    "mcp_tools.py": ("gateway", r"^weather: get_weather\(.*\): .+\n.+\n$"),
    "message_loop.py": ("gateway", r'^get_weather\(\{"city": *".*"\}\): 18 degrees in .*\n.+\n$'),
    "quickstart.py": (
        "gateway",
        r"^(One contract)( serves .*)\nfinish reason: length\ntokens: 3 \+ 24\n\2$",
    ),
    "sagellm_quickstart.py": ("engine", r"^protocol 0\.1\n.* the same again: True\n"),
    "servers/grpc_server.py": ("", r"^Hello\n from\n the\n server!\n$"),
    "stream_chat.py": ("gateway", r".+\n---\n.+"),
    "tool_call.py": ("gateway", r"get_weather"),
    "vllm_async.py": ("engine", r"'One contract' -> ' serves many clients in"),
    "vllm_chat.py": ("engine", r"^\S.*\n\S.*$"),
    "vllm_completion.py": ("engine", r"^demo-model: '(.*)', ended by length\n(.*)\n\1\n\2$"),
    "vllm_logprobs.py": ("engine", r'\{"name": *"'),
    "worker_lifecycle.py": (
        "gateway",
        r"^WORKER_STATE_READY\nlabelled \['shift', 'zone'\]\nremoved\n$",
    ),
}
# What one does with smg.v1, each in at most this many lines.
SHORT = 30
TASKS = [
    *("agent_loop.py", "message_loop.py", "mcp_tools.py", "json_schema.py", "image.py"),
    *("log_probabilities.py", "embeddings.py", "worker_lifecycle.py"),
]


def test_every_example_is_tested() -> None:
    assert sorted(EXAMPLES) == FILES


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, servers: dict[str, str]) -> None:
    server, expected = EXAMPLES[name]
    target = [servers[server]] if server else []
    assert re.search(expected, run(sys.executable, FOLDER / name, *target))


@pytest.mark.parametrize("name", TASKS)
def test_the_code_that_uses_the_contract_is_short(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    code = filter(str.strip, text.splitlines()[docstring.end_lineno :])
    assert len([*code]) <= (27 if name == "agent_loop.py" else SHORT)


def test_the_error_of_quickstart_is_one_line() -> None:
    command = [sys.executable, str(FOLDER / "quickstart.py"), "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert re.fullmatch(r"StatusCode\.UNAVAILABLE: .*\n", done.stderr)


def test_the_sagellm_example_shows_the_rules_and_the_events(servers: dict[str, str]) -> None:
    example = FOLDER / "sagellm_quickstart.py"
    lines = run(sys.executable, example, servers["engine"]).splitlines()
    assert lines[2] == "rejected: max_tokens Input should be greater than 0"
    assert lines[3].endswith("passes; rejected: rank must be below world_size, which is 2")
    events = [json.loads(line) for line in lines[4:]]
    assert [event["event"] for event in events] == ["start", *["delta"] * (len(events) - 2), "end"]
    assert events[-1]["content"] == "".join(event["content"] for event in events[1:-1]) != ""
    assert events[-1]["metrics"]["ttft_ms"] > 0


def test_the_engine_benchmark_draws_and_counts_failures(
    servers: dict[str, str], tmp_path: Path
) -> None:
    example, plot = FOLDER / "engine_benchmark.py", tmp_path / "plot.svg"
    words = ["--requests", "9", "--rate", "100", "--svg", plot]
    assert "requests: 9 in" in run(sys.executable, example, servers["engine"], *map(str, words))
    drawn = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
    assert len(drawn.findall("{*}circle")) == 9
    command = [sys.executable, str(example), "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("127.0.0.1:1: no server")
