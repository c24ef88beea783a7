import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from peers.start import published_servicer, servicer_environment
from support import eventually, free_port, listens, make_environment

from e2e.deployment import Deployment, front_door, gateway
from smg_proto.testing import FakeVllmEngine, run_vllm_engine

GATEWAY = "smg==1.13.0"
MCP_SERVER = Path(__file__).with_name("mcp_server.py")

# Tools and calls are rendered; what an echoing worker is to say is the last message alone.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}{{ (message.tool_calls or []) | tojson }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
ECHO_TEMPLATE = "{{ messages[-1].content }}"
PARSERS = ["--reasoning-parser", "qwen3", "--tool-call-parser", "qwen"]


@pytest.fixture(scope="session")
def gateway_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the real gateway."""
    return make_environment(tmp_path_factory.mktemp("smg") / "env", [GATEWAY])


@pytest.fixture(scope="session")
def mcp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running MCP server with two tools."""
    home = tmp_path_factory.mktemp("mcp")
    python = make_environment(home / "env", ["mcp>=1.9,<2"])
    port = free_port()
    with (home / "mcp.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([python, MCP_SERVER, str(port)], stdout=log, stderr=log)

    try:
        eventually(lambda: listens(port), f"the MCP server listens; see {home}/mcp.log")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session", params=["fake", "published"])
def deployment(
    request: pytest.FixtureRequest, gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A gateway over our fake engine, or over the published servicer, and the front door."""
    home = tmp_path_factory.mktemp(request.param)
    template = home / "template.jinja"
    engine: FakeVllmEngine | None = None
    with ExitStack() as stack:
        if request.param == "fake":
            template.write_text(TEMPLATE, encoding="utf-8")
            engine = FakeVllmEngine(tokens_per_chunk=2)
            worker, model = str(stack.enter_context(run_vllm_engine(engine))), engine.name
        else:
            template.write_text(ECHO_TEMPLATE, encoding="utf-8")
            wheel: Path = request.getfixturevalue("wheel")
            python = servicer_environment(home / "servicer", wheel)
            servicer = stack.enter_context(published_servicer(python, home / "worker"))
            worker, model = servicer.address, "echo"
        flags = [*PARSERS, "--chat-template", str(template)]
        real = stack.enter_context(gateway(gateway_python, home, worker, flags=flags))
        door = stack.enter_context(front_door(real.http.url, home))
        yield Deployment(real.http, door, model, engine)
