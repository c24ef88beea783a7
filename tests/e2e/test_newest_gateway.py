"""The newest release of the gateway, whatever it is today, works behind the front door."""

from pathlib import Path

import pytest
from support import make_environment, run

from e2e import views
from e2e.deployment import front_door, gateway
from smg_proto import smg_pb2 as smg
from smg_proto.testing import run_vllm_engine

pytestmark = pytest.mark.e2e


def test_the_newest_gateway_replies_the_same(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", ["smg"])
    newest = run(python, "-c", "import importlib.metadata as m; print(m.version('smg'))").strip()
    output = {"role": "user", "content": "Hello."}
    body = {"model": "demo-model", "messages": [output], "temperature": 0}
    request = smg.ChatRequest(
        model="demo-model",
        messages=[smg.ChatMessage(role=smg.ROLE_USER, content="Hello.")],
        temperature=0,
    )
    with (
        run_vllm_engine() as worker,
        gateway(python, tmp_path, worker) as real,
        front_door(real.http.url, tmp_path) as door,
    ):
        real.http.post("/v1/chat/completions", **body)
        expected = views.chat_http(real.http.post("/v1/chat/completions", **body))
        assert views.chat(door.chats.Chat(request)) == expected
        assert views.chat_stream(door.chats.StreamChat(request)) == expected
        info = door.gateway.GetGatewayInfo(smg.GetGatewayInfoRequest())
        assert info.version == newest
