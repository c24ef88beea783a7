"""What a script makes the fake gateway do: MCP runs, refusals, unknown kinds, failing workers."""

from typing import Any

import grpc
import pytest

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto import wait_ready
from smg_proto.build import image, user
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.streams import collect
from smg_proto.testing import Answer, Call, FakeGateway

MODEL = "demo-model"
MCP = pb.Tool(mcp=pb.McpTool(server_label="weather", server_url="http://127.0.0.1:9/mcp"))
ADD = pb.Tool(function=pb.FunctionTool(name="add"))
WARM = Call("get_weather", '{"city":"Oslo"}', server_label="weather", output="18 degrees")
WEIRD = pb.Opaque(type="web_search_call", json='{"type":"web_search_call","query":"x"}')


def both(channel: grpc.Channel, request: pb.CreateResponseRequest) -> list[pb.Response]:
    """The unary reply, and the stream put together."""
    stub = rpc.ResponseServiceStub(channel)
    return [stub.CreateResponse(request), collect(stub.StreamResponse(request))]


def question(**fields: Any) -> pb.CreateResponseRequest:
    known: dict[str, Any] = {"model": MODEL, "input": "How warm?", "tools": [MCP]}
    return pb.CreateResponseRequest(**known | fields)


# --- MCP ---


def test_the_gateway_runs_the_scripted_calls(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer("It is mild.", reasoning="I look.", calls=[WARM]), times=2)
    for reply in both(channel, question()):
        tools, thought, call, printed = reply.output
        assert [tool.name for tool in tools.mcp_tool_list.tools] == ["get_weather"]
        assert tools.mcp_tool_list.server_label == call.tool_call.server_label == "weather"
        assert thought.reasoning.text == "I look."
        assert (call.tool_call.name, call.tool_call.arguments) == ("get_weather", WARM.arguments)
        assert (call.tool_call.output, call.status) == ("18 degrees", pb.ITEM_STATUS_COMPLETED)
        assert printed.message.parts[0].text == "It is mild."
        assert reply.finish_reason == "stop"


def test_a_stream_has_each_item_of_a_run(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer("Mild.", calls=[WARM]))
    events = list(rpc.ResponseServiceStub(channel).StreamResponse(question()))
    begun = [event.item_start.item for event in events if event.HasField("item_start")]
    assert [item.WhichOneof("item") for item in begun] == ["mcp_tool_list", "tool_call", "message"]
    assert begun[1].tool_call.server_label == "weather" and not begun[1].tool_call.output
    assert "".join(event.delta.arguments for event in events) == WARM.arguments
    ended = [event.item_end.item for event in events if event.HasField("item_end")]
    assert ended[1].tool_call.output == "18 degrees"


def test_a_call_can_fail_and_a_function_can_follow(
    channel: grpc.Channel, gateway: FakeGateway
) -> None:
    broken = Call("get_weather", server_label="weather", error="no weather today")
    gateway.script.add(Answer(calls=[Call("add"), broken]), times=2)
    for reply in both(channel, question(tools=[MCP, ADD])):
        _, failed, call = reply.output
        assert failed.status == pb.ITEM_STATUS_FAILED
        assert failed.tool_call.error == pb.Failure(
            reason="MCP_TOOL_FAILED", message="no weather today"
        )
        assert (call.tool_call.name, call.tool_call.server_label) == ("add", "")
        assert reply.finish_reason == "tool_calls"


def test_without_a_script_the_model_calls_what_the_user_names(channel: grpc.Channel) -> None:
    server = pb.McpTool(server_label="weather", allowed_tools=["get_weather", "get_time"])
    request = question(input="Ask get_weather.", tools=[pb.Tool(mcp=server)])
    for reply in both(channel, request):
        tools, call, printed = reply.output
        assert [tool.name for tool in tools.mcp_tool_list.tools] == ["get_weather", "get_time"]
        assert call.tool_call.name == "get_weather" and call.tool_call.output
        assert printed.message.parts[0].text


def test_max_tool_calls_limits_the_calls(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer("Mild.", calls=[WARM, WARM, WARM]), times=2)
    for reply in both(channel, question(max_tool_calls=2)):
        kinds = [item.WhichOneof("item") for item in reply.output]
        assert kinds == ["mcp_tool_list", "tool_call", "tool_call", "message"]


def test_mcp_items_cannot_be_sent_back(channel: grpc.Channel, gateway: FakeGateway) -> None:
    responses, conversations = (
        rpc.ResponseServiceStub(channel),
        rpc.ConversationServiceStub(channel),
    )
    kept = conversations.CreateConversation(pb.CreateConversationRequest())
    gateway.script.add(Answer("Mild.", calls=[WARM]))
    reply = responses.CreateResponse(question(conversation_id=kept.id))
    listed = conversations.ListConversationItems(pb.ListConversationItemsRequest(id=kept.id)).items
    assert listed[2].tool_call.output == "18 degrees"
    assert responses.CreateResponse(question(tools=[], conversation_id=kept.id)).output
    with pytest.raises(grpc.RpcError) as raised:
        responses.CreateResponse(question(previous_response_id=reply.id))
    (violation,) = from_rpc_error(raised.value).field_violations
    assert violation.field == "previous_response_id"


# --- Media ---


def test_another_picture_is_another_prompt(channel: grpc.Channel) -> None:
    """As in a real model, the reply depends on it."""
    stub = rpc.ChatServiceStub(channel)

    def reply(data: bytes) -> str:
        printed = user("What is this?", image(data, media_type="image/png"))
        request = pb.ChatRequest(model=MODEL, messages=[printed], temperature=0)
        return stub.Chat(request).choices[0].message.content

    assert reply(b"one") == reply(b"one") != reply(b"two")


def test_images_and_audio_are_accepted_where_the_contract_allows_them(
    channel: grpc.Channel,
) -> None:
    picture = pb.Media(url="https://example.org/cat.png")
    parts = [pb.ContentPart(image=picture), pb.ContentPart(audio=picture)]
    chat = pb.ChatRequest(model=MODEL, messages=[user(*parts)])
    assert rpc.ChatServiceStub(channel).Chat(chat).choices
    result = pb.ToolResult(call_id="a", parts=parts[:1])
    blocks = [pb.MessageBlock(image=picture), pb.MessageBlock(tool_result=result)]
    turn = pb.Turn(role=pb.ROLE_USER, blocks=blocks)
    message = pb.CreateMessageRequest(model=MODEL, max_tokens=5, turns=[turn])
    assert rpc.MessageServiceStub(channel).CreateMessage(message).blocks
    item = pb.ResponseItem(message=pb.ItemMessage(role=pb.ROLE_USER, parts=parts[:1]))
    assert both(channel, question(input="", tools=[], items=[item]))


# --- Refusals and unknown kinds ---


def test_a_refusal_has_its_own_field(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer(refusal="I will not.", reasoning="No."), times=6)
    chats, messages = rpc.ChatServiceStub(channel), rpc.MessageServiceStub(channel)
    chat = pb.ChatRequest(model=MODEL, messages=[user("x")])
    for found in (chats.Chat(chat), collect(chats.StreamChat(chat))):
        message = found.choices[0].message
        assert (message.refusal, message.content) == ("I will not.", "")
    turn = pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text="x")])
    request = pb.CreateMessageRequest(model=MODEL, max_tokens=99, turns=[turn])
    for reply in (messages.CreateMessage(request), collect(messages.StreamMessage(request))):
        assert reply.finish_reason == "refusal" and "I will not." in reply.blocks[-1].text
    for response in both(channel, question(tools=[])):
        (part,) = response.output[-1].message.parts
        assert part.refusal == "I will not."


def test_unknown_kinds_are_returned_and_can_be_sent_back(
    channel: grpc.Channel, gateway: FakeGateway
) -> None:
    gateway.script.add(Answer("Found.", opaque=[WEIRD]), times=6)
    chats, messages = rpc.ChatServiceStub(channel), rpc.MessageServiceStub(channel)
    responses = rpc.ResponseServiceStub(channel)
    chat = pb.ChatRequest(model=MODEL, messages=[user("x")])
    for found in (chats.Chat(chat), collect(chats.StreamChat(chat))):
        message = found.choices[0].message
        assert [part.WhichOneof("part") for part in message.parts] == ["text", "opaque"]
        assert message.parts[1].opaque == WEIRD and not message.content
    chat.messages.append(message)
    turn = pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text="x")])
    request = pb.CreateMessageRequest(model=MODEL, max_tokens=99, turns=[turn])
    for reply in (messages.CreateMessage(request), collect(messages.StreamMessage(request))):
        assert [block.WhichOneof("block") for block in reply.blocks] == ["opaque", "text"]
        assert reply.blocks[0].opaque == WEIRD
    request.turns.add(role=pb.ROLE_ASSISTANT, blocks=reply.blocks)
    unary, streamed = both(channel, question(tools=[]))
    assert unary.output[0].opaque == streamed.output[0].opaque == WEIRD
    assert chats.Chat(chat).choices and messages.CreateMessage(request).blocks
    back = responses.CreateResponse(question(input="", tools=[], items=unary.output))
    stored = responses.ListResponseInputItems(pb.ListResponseInputItemsRequest(id=back.id)).items
    assert list(stored) == list(unary.output)


# --- Workers ---


def test_watchers_see_a_worker_fail_and_recover(
    channel: grpc.Channel, gateway: FakeGateway
) -> None:
    stub = rpc.WorkerServiceStub(channel)
    url = "grpc://broken:1"
    gateway.fail_worker(url, "connection refused")
    watch = stub.WatchWorkers(pb.WatchWorkersRequest(), timeout=60)
    while not next(watch).HasField("ready"):
        pass
    made = stub.CreateWorker(pb.CreateWorkerRequest(spec=pb.WorkerSpec(url=url)))
    assert made.state == pb.WORKER_STATE_PENDING and made.HasField("create_time")
    with pytest.raises(SmgError, match="connection refused"):
        wait_ready(stub, made)
    failed = next(watch).worker
    assert failed.state == pb.WORKER_STATE_FAILED
    assert failed.error == pb.Failure(reason="WORKER_UNAVAILABLE", message="connection refused")
    (condition,) = failed.conditions
    assert (condition.type, condition.met, condition.reason) == ("Healthy", False, "ConnectFailed")
    gateway.recover_worker(url)
    assert next(watch).worker.state == pb.WORKER_STATE_READY
    gateway.fail_worker(url, "timed out")
    again = next(watch).worker
    assert again.state == pb.WORKER_STATE_FAILED
    assert again.state_time.ToNanoseconds() > again.create_time.ToNanoseconds()
    stub.DeleteWorker(pb.DeleteWorkerRequest(id=made.id))
    assert next(watch).removed_id == made.id
    gateway.recover_worker(url)
    watch.cancel()
