"""For every generation RPC: the stream put together is the unary reply, and OK means `end`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import folding
import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.errors import from_rpc_error
from smg_proto.testing import Answer, Call, FakeGateway, Fault

MODEL = "demo-model"
TOOLS = [
    pb.Tool(
        function=pb.FunctionTool(
            name=name,
            parameters_json='{"type":"object","properties":{"a":{"type":"string","minLength":20}},'
            '"required":["a"]}',
        )
    )
    for name in ("get_weather", "get_time")
]
TEXTS = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["One contract", "use get_weather and get_time", "café?", "<think>", "</tool_call>"]
)
SCHEMA = pb.JsonSchema(schema_json='{"type":"array","items":{"type":"integer"},"minItems":3}')
FORMATS = st.sampled_from(
    [None, pb.OutputFormat(json_object=pb.JsonObject()), pb.OutputFormat(json_schema=SCHEMA)]
)
CHOICES = st.none() | st.sampled_from(
    [
        pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED),
        pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE),
        pb.ToolChoice(function="get_time"),
    ]
)
SAMPLING = st.none() | st.builds(
    pb.SamplingParams,
    min_p=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    min_tokens=st.integers(0, 1),
    ignore_eos=st.booleans(),
    include_stop_in_output=st.booleans(),
    stop_token_ids=st.lists(st.integers(9, 900), max_size=2),
)
STOPS = st.lists(st.sampled_from(["a", "the ", "é", " con", "er"]), max_size=3)
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just(MODEL),
    "max_tokens": st.integers(1, 60),
    "temperature": st.none() | st.sampled_from([0.1, 1.0]),
    "top_p": st.none() | st.sampled_from([0.5, 1.0]),
}
KNOBS: dict[str, st.SearchStrategy[Any]] = {
    "top_k": st.none() | st.sampled_from([-1, 1, 3]),
    "stop": STOPS,
    "seed": st.none() | st.integers(0, 3),
    "frequency_penalty": st.none() | st.just(1.0),
    "presence_penalty": st.none() | st.just(-1.0),
    "logprobs": st.none() | st.integers(0, 3),
    "sampling": SAMPLING,
}
WITH_TOOLS: dict[str, st.SearchStrategy[Any]] = {
    "tools": st.just(TOOLS),
    "tool_choice": CHOICES,
    "parallel_tool_calls": st.none() | st.booleans(),
    "reasoning_effort": st.sampled_from(["", "none", "low"]),
}
SAID = st.builds(pb.ChatMessage, role=st.just(pb.ROLE_USER), content=TEXTS)
TURN = st.builds(
    pb.Turn, role=st.just(pb.ROLE_USER), blocks=TEXTS.map(lambda t: [pb.MessageBlock(text=t)])
)


def completions() -> st.SearchStrategy[pb.CompletionRequest]:
    text = st.builds(
        pb.CompletionRequest,
        prompt=TEXTS,
        output_format=FORMATS,
        echo=st.booleans(),
        **COMMON,
        **KNOBS,
    )
    knobs = {name: value for name, value in KNOBS.items() if name != "logprobs"}
    ids = st.lists(st.integers(0, 900), min_size=1, max_size=9)
    tokens = st.builds(
        pb.CompletionRequest,
        prompt_token_ids=ids.map(lambda ids: pb.TokenIds(ids=ids)),
        **COMMON,
        **knobs,
    )
    return text | tokens


def chats() -> st.SearchStrategy[pb.ChatRequest]:
    return st.builds(
        pb.ChatRequest,
        messages=st.lists(SAID, min_size=1, max_size=3),
        n=st.none() | st.integers(1, 3),
        output_format=FORMATS,
        separate_reasoning=st.none() | st.booleans(),
        **COMMON,
        **KNOBS,
        **WITH_TOOLS,
    )


def messages() -> st.SearchStrategy[pb.CreateMessageRequest]:
    return st.builds(
        pb.CreateMessageRequest,
        turns=st.lists(TURN, min_size=1, max_size=3),
        system=st.sampled_from(["", "Be brief."]),
        stop=STOPS,
        **COMMON,
        **WITH_TOOLS,
    )


def responses() -> st.SearchStrategy[pb.CreateResponseRequest]:
    return st.builds(
        pb.CreateResponseRequest, input=TEXTS, output_format=FORMATS, **COMMON, **WITH_TOOLS
    )


@dataclass(frozen=True)
class Pair:
    """A unary RPC, the streaming one beside it, requests for both, and how to fold the stream."""

    service: str
    unary: str
    streaming: str
    requests: st.SearchStrategy[Any]
    fold: Callable[[Any], Any]

    def rpcs(self, channel: grpc.Channel) -> tuple[Any, Any]:
        stub = getattr(smg_pb2_grpc, f"{self.service}Stub")(channel)
        return getattr(stub, self.unary), getattr(stub, self.streaming)


PAIRS = [
    Pair("CompletionService", "Complete", "StreamComplete", completions(), folding.completion),
    Pair("ChatService", "Chat", "StreamChat", chats(), folding.chat),
    Pair("MessageService", "CreateMessage", "StreamMessage", messages(), folding.message),
    Pair("ResponseService", "CreateResponse", "StreamResponse", responses(), folding.response),
]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.unary)
thrifty = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ANSWERS = st.builds(
    Answer,
    text=TEXTS,
    reasoning=st.sampled_from(["", "Six times\nseven."]),
    calls=st.lists(st.just(Call("get_time", '{"b": 1, "a": 3.0, "é": "x"}')), max_size=2),
)


def comparable(reply: Any) -> Any:
    """Without what is new with every call."""
    for name in ("id", "create_time", "complete_time", "pipeline"):
        if name in reply.DESCRIPTOR.fields_by_name:
            reply.ClearField(name)
    for item in getattr(reply, "output", ()):
        item.ClearField("id")
    return reply


def test_every_generation_rpc_is_tested() -> None:
    streaming = {
        method.name
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.server_streaming
    }
    relayed = {"Converse", "StreamTranscribe", "WatchResponse", "WatchWorkers"}
    assert streaming - relayed == {pair.streaming for pair in PAIRS}


@each_pair
def test_the_collected_stream_is_the_unary_reply(
    pair: Pair, channel: grpc.Channel, gateway: FakeGateway
) -> None:
    unary, streaming = pair.rpcs(channel)

    @thrifty
    @given(request=pair.requests, answer=st.none() | ANSWERS)
    def agrees(request: Any, answer: Answer | None) -> None:
        gateway.script.clear()
        if answer is not None:
            gateway.script.add(answer, times=2)
        assert comparable(pair.fold(streaming(request))) == comparable(unary(request))

    agrees()


@each_pair
def test_stream_without_end_never_has_status_ok(
    pair: Pair, channel: grpc.Channel, gateway: FakeGateway
) -> None:
    unary, streaming = pair.rpcs(channel)

    @thrifty
    @given(request=pair.requests, after=st.integers(0, 12), status=st.sampled_from(FAULTS))
    def fails(request: Any, after: int, status: grpc.StatusCode) -> None:
        gateway.script.clear()
        gateway.script.add(Fault(status, after=after), times=2)
        events: list[Any] = []
        try:
            events.extend(streaming(request))
            problem = None
        except grpc.RpcError as error:
            problem = from_rpc_error(error)
        ended = [event for event in events if event.HasField("end")]
        if problem is None:
            assert ended == events[-1:]
            assert len(events) <= after
            return
        assert not ended
        if status == grpc.StatusCode.OK:
            assert (problem.code, problem.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "STREAM_TRUNCATED",
            )
        else:
            assert (problem.code, problem.reason) == (status, "WORKER_ERROR")
        with pytest.raises(grpc.RpcError) as raised:
            unary(request)
        again = from_rpc_error(raised.value)
        assert (again.code, again.reason) == (problem.code, problem.reason)

    fails()


FAULTS = [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED]


@each_pair
def test_events_before_a_fault_are_unchanged(
    pair: Pair, channel: grpc.Channel, gateway: FakeGateway
) -> None:
    _, streaming = pair.rpcs(channel)
    request = REQUESTS[pair.unary]
    gateway.script.add(Fault(grpc.StatusCode.INTERNAL, "it broke", after=3))
    call = streaming(request)
    seen = [next(call).WhichOneof("event") for _ in range(3)]
    assert seen[0] == "start" and "end" not in seen
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    problem = from_rpc_error(raised.value)
    assert (problem.code, problem.message) == (grpc.StatusCode.INTERNAL, "it broke")


USER = pb.ChatMessage(role=pb.ROLE_USER, content="hello")
HELLO = pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text="hello")])
REQUESTS: dict[str, Any] = {
    "Complete": pb.CompletionRequest(model=MODEL, prompt="hello"),
    "Chat": pb.ChatRequest(model=MODEL, messages=[USER]),
    "CreateMessage": pb.CreateMessageRequest(model=MODEL, turns=[HELLO], max_tokens=99),
    "CreateResponse": pb.CreateResponseRequest(model=MODEL, input="hello"),
}
