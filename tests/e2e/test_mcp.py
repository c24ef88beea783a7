"""The gateway itself runs the tools of an MCP server, and the front door tells what it did."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support import free_port

from e2e.deployment import Door, front_door, gateway
from smg_proto import smg_pb2 as smg
from smg_proto.errors import from_rpc_error
from smg_proto.testing import Answer, Call, FakeVllmEngine, run_vllm_engine

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def engine() -> FakeVllmEngine:
    return FakeVllmEngine()


@pytest.fixture(scope="module")
def door(
    engine: FakeVllmEngine, gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    home = tmp_path_factory.mktemp("gateway")
    with (
        run_vllm_engine(engine) as worker,
        gateway(gateway_python, home, worker, flags=["--tool-call-parser", "qwen"]) as real,
        front_door(real.http.url, home) as running,
    ):
        yield running


def request(url: str) -> smg.CreateResponseRequest:
    tool = smg.McpTool(
        server_label="weather", server_url=url, allowed_tools=["get_weather", "fail"]
    )
    return smg.CreateResponseRequest(
        model="demo-model", input="How warm is Paris?", tools=[smg.Tool(mcp=tool)]
    )


def test_a_tool_is_run_and_its_answer_used(
    engine: FakeVllmEngine, door: Door, mcp_url: str
) -> None:
    engine.script.add(Answer(calls=[Call("get_weather", '{"city": "Paris"}')]))
    engine.script.add(Answer(text="It is 18 degrees."))
    reply = door.responses.CreateResponse(request(mcp_url))
    tools, call, printed = reply.output
    assert {tool.name for tool in tools.mcp_tool_list.tools} == {"get_weather", "fail"}
    assert tools.mcp_tool_list.server_label == "weather"
    assert (call.tool_call.name, call.tool_call.server_label) == ("get_weather", "weather")
    assert call.tool_call.arguments == '{"city":"Paris"}'
    assert "18 degrees in Paris" in call.tool_call.output
    assert printed.message.parts[0].text == "It is 18 degrees."


def test_a_stream_has_the_events_of_the_call(
    engine: FakeVllmEngine, door: Door, mcp_url: str
) -> None:
    engine.script.add(Answer(calls=[Call("get_weather", '{"city": "Rome"}')]))
    engine.script.add(Answer(text="Warm."))
    events = list(door.responses.StreamResponse(request(mcp_url)))
    ended = [event.item_end.item for event in events if event.HasField("item_end")]
    (call,) = (item.tool_call for item in ended if item.HasField("tool_call"))
    assert "18 degrees in Rome" in call.output
    arguments = "".join(event.delta.arguments for event in events)
    assert arguments == call.arguments
    assert "".join(event.delta.text for event in events) == "Warm."
    assert events[-1].end.status == smg.RESPONSE_STATUS_COMPLETED


def test_the_model_gets_the_error_of_a_failed_tool(
    engine: FakeVllmEngine, door: Door, mcp_url: str
) -> None:
    engine.script.add(Answer(calls=[Call("fail", '{"city": "Oslo"}')]))
    engine.script.add(Answer(text="I do not know."))
    reply = door.responses.CreateResponse(request(mcp_url))
    (call,) = (item.tool_call for item in reply.output if item.HasField("tool_call"))
    result = call.error.message + call.output
    assert "no weather in Oslo" in result
    assert reply.output[-1].message.parts[0].text == "I do not know."


def test_an_unreachable_server_is_named(door: Door) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        door.responses.CreateResponse(request(f"http://127.0.0.1:{free_port()}/mcp"))
    failure = from_rpc_error(caught.value)
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "MCP_SERVER_UNAVAILABLE"


def test_mcp_items_are_rejected_as_input(door: Door) -> None:
    call = smg.ToolCall(id="a", name="b", arguments="{}", server_label="weather")
    items = [smg.ResponseItem(tool_call=call)]
    with pytest.raises(grpc.RpcError) as caught:
        door.responses.CreateResponse(smg.CreateResponseRequest(model="demo-model", items=items))
    (violation,) = from_rpc_error(caught.value).field_violations
    assert violation.field == "items[0].tool_call.server_label"
