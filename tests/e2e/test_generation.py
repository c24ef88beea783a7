"""What the front door gives for a generation request is what the gateway's HTTP API gives.

Each case has the request twice, written by hand: as a proto and as JSON. `says` is what the model
says to it.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from e2e import views
from e2e.deployment import Deployment
from smg_proto import smg_pb2 as smg
from smg_proto import vllm_engine_pb2

pytestmark = pytest.mark.e2e

GRAMMAR = 'root ::= "yes" | "no"'
WEATHER = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL = smg.Tool(function=smg.FunctionTool(name="get_weather", parameters_json=WEATHER))
ADD = smg.Tool(function=smg.FunctionTool(name="add", description="Adds."))
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
FORCED = '[{"name": "get_weather", "parameters": {"city": "Rome"}}]'
THOUGHT = "<think>\nOne and one.\n</think>\n\nIt is two."
PLAIN = "One, two, three, four and five are numbers."


@dataclass
class Case:
    """A request, in both forms, and what must be seen in the answer."""

    says: str
    proto: dict[str, Any] = field(default_factory=dict)
    http: dict[str, Any] = field(default_factory=dict)
    # A part of the view, that the case is there to show.
    shows: str = ""


COMPLETIONS = {
    "plain": Case(PLAIN, {}, {}, "'finish': 'stop'"),
    "cut short": Case(PLAIN, {"max_tokens": 3}, {"max_tokens": 3}, "'finish': 'length'"),
    "stop string": Case(PLAIN, {"stop": ["four"]}, {"stop": ["four"]}, "'stop': 'four'"),
    "stop kept": Case(
        PLAIN,
        {"stop": ["four"], "sampling": {"include_stop_in_output": True}},
        {"stop": ["four"], "no_stop_trim": True},
        "four'",
    ),
    "echo": Case(PLAIN, {"echo": True, "max_tokens": 4}, {"echo": True, "max_tokens": 4}),
    "sampling": Case(
        PLAIN,
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 3,
            "seed": 7,
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "sampling": {"min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1},
        },
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 3,
            "seed": 7,
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "min_tokens": 1,
        },
    ),
    "characters of several bytes": Case("Ein Café, 🙂 ja.", {}, {}, "🙂"),
    "logprobs": Case(PLAIN, {"logprobs": 2}, {"logprobs": 2}),
}


@pytest.mark.parametrize("case", COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_completions_equal(deployment: Deployment, case: Case) -> None:
    request = smg.CompletionRequest(model=deployment.model, prompt=case.says, **case.proto)
    body = {"model": deployment.model, "prompt": case.says, **case.http}
    with deployment.saying(case.says):
        deployment.http.post("/v1/completions", **body)  # from here on the prompt is in the cache
        expected = views.completion_http(deployment.http.post("/v1/completions", **body))
        assert case.shows in str(expected)
        assert views.completion(deployment.door.completions.Complete(request)) == expected
        streamed = views.completion_stream(deployment.door.completions.StreamComplete(request))
        # A stream over HTTP does not tell which stop matched.
        assert streamed == expected | {"stop": None}


def test_token_ids_go_in_and_out(deployment: Deployment) -> None:
    sequence = deployment.door.tokenizer.Tokenize(
        smg.TokenizeRequest(model=deployment.model, texts=[PLAIN])
    ).sequences[0]
    request = smg.CompletionRequest(model=deployment.model, prompt_token_ids=sequence, max_tokens=5)
    body = {"input_ids": list(sequence.ids), "sampling_params": {"max_new_tokens": 5}}
    with deployment.saying(PLAIN):
        (expected,) = deployment.http.post("/generate", model=deployment.model, **body)
        reply = deployment.door.completions.Complete(request)
        events = list(deployment.door.completions.StreamComplete(request))
    assert reply.text == expected["text"]
    assert list(reply.token_ids) == expected["output_ids"] == _ids(events)
    assert reply.finish_reason == expected["meta_info"]["finish_reason"]["type"] == "length"
    assert reply.completion_tokens == events[-1].end.completion_tokens == 5
    assert "".join(event.delta.text for event in events) == reply.text
    assert events[-1].end.finish_reason == "length"


def _ids(events: list[smg.CompletionEvent]) -> list[int]:
    return [number for event in events for number in event.delta.token_ids]


CHATS = {
    "plain": Case(PLAIN),
    "cut short": Case(PLAIN, {"max_tokens": 3}, {"max_completion_tokens": 3}, "'length'"),
    "stop string": Case(PLAIN, {"stop": ["four"]}, {"stop": ["four"]}, "'stop': 'four'"),
    "reasoning": Case(THOUGHT, {}, {}, "'reasoning': '\\nOne and one.\\n'"),
    "reasoning kept in the text": Case(
        THOUGHT, {"separate_reasoning": False}, {"separate_reasoning": False}, "<think>"
    ),
    "tool call": Case(
        CALL,
        {"tools": [TOOL, ADD]},
        {
            "tools": [
                {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
                {
                    "type": "function",
                    "function": {"name": "add", "description": "Adds.", "parameters": {}},
                },
            ]
        },
        "'tool_calls'",
    ),
    "two tool calls": Case(
        CALL + "\n" + CALL,
        {"tools": [TOOL]},
        {
            "tools": [
                {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
            ]
        },
        "'calls': [('get_weather', '{\"city\":\"Paris\"}'), ('get_weather'",
    ),
    "one tool call of two": Case(
        CALL + "\n" + CALL,
        {"tools": [TOOL], "parallel_tool_calls": False},
        {
            "tools": [
                {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
            ],
            "parallel_tool_calls": False,
        },
        "'calls': [('get_weather', '{\"city\":\"Paris\"}')]",
    ),
    "required tool call": Case(
        FORCED,
        {"tools": [TOOL], "tool_choice": {"mode": smg.TOOL_CHOICE_MODE_REQUIRED}},
        {
            "tools": [
                {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
            ],
            "tool_choice": "required",
        },
        "Rome",
    ),
    "named tool call": Case(
        '{"city": "Oslo"}',
        {"tools": [TOOL], "tool_choice": {"function": "get_weather"}},
        {
            "tools": [
                {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
            ],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        },
        "Oslo",
    ),
    "no tool call": Case(
        CALL,
        {"tools": [TOOL], "tool_choice": {"mode": smg.TOOL_CHOICE_MODE_NONE}},
        {
            "tools": [
                {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
            ],
            "tool_choice": "none",
        },
        "<tool_call>",
    ),
    "log probabilities": Case(
        PLAIN,
        {"logprobs": 2, "max_tokens": 4},
        {"logprobs": True, "top_logprobs": 2, "max_completion_tokens": 4},
        "'logprobs': [{'token'",
    ),
    "two choices": Case(
        PLAIN, {"n": 2, "temperature": 0.5}, {"n": 2, "temperature": 0.5}, "'index': 1"
    ),
    "template arguments": Case(
        PLAIN,
        {"chat_template_kwargs_json": '{"enable_thinking": false}'},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
}


@pytest.mark.parametrize("case", CHATS.values(), ids=CHATS.keys())
def test_chats_equal(deployment: Deployment, case: Case) -> None:
    request = smg.ChatRequest(
        model=deployment.model,
        messages=[
            smg.ChatMessage(role=smg.ROLE_SYSTEM, content="Be short."),
            smg.ChatMessage(role=smg.ROLE_USER, content=case.says),
        ],
        **case.proto,
    )
    printed = [{"role": "system", "content": "Be short."}, {"role": "user", "content": case.says}]
    body = {"model": deployment.model, "messages": printed, **case.http}
    with deployment.saying(case.says):
        deployment.http.post("/v1/chat/completions", **body)
        expected = views.chat_http(deployment.http.post("/v1/chat/completions", **body))
        assert case.shows in str(expected)
        assert views.chat(deployment.door.chats.Chat(request)) == expected
        streamed = views.chat_stream(deployment.door.chats.StreamChat(request))
        usage = {"include_usage": True}
        chunks = deployment.http.events("/v1/chat/completions", **body, stream_options=usage)
        assert streamed == views.chat_stream_http(chunks)
        # The gateway counts reasoning tokens otherwise in streams.
        expected["usage"]["reasoning"] = streamed["usage"]["reasoning"]
        assert streamed["usage"] == expected["usage"]


def test_a_complete_tool_conversation_works(deployment: Deployment) -> None:
    call = smg.ToolCall(id="call_1", name="get_weather", arguments='{"city":"Paris"}')
    request = smg.ChatRequest(
        model=deployment.model,
        messages=[
            smg.ChatMessage(role=smg.ROLE_USER, content="How warm is Paris?"),
            smg.ChatMessage(role=smg.ROLE_ASSISTANT, tool_calls=[call]),
            smg.ChatMessage(role=smg.ROLE_TOOL, tool_call_id="call_1", content="18 degrees"),
        ],
        tools=[TOOL],
        temperature=0,
    )
    body: dict[str, Any] = {
        "model": deployment.model,
        "temperature": 0,
        "messages": [
            {"role": "user", "content": "How warm is Paris?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
        ],
    }
    deployment.http.post("/v1/chat/completions", **body)
    expected = views.chat_http(deployment.http.post("/v1/chat/completions", **body))
    assert views.chat(deployment.door.chats.Chat(request)) == expected


def test_a_call_without_arguments_can_be_sent_back(deployment: Deployment) -> None:
    """As engines give it for a function that takes none."""
    call, result = smg.ToolCall(id="call_1", name="add"), "done"
    chat = smg.ChatRequest(
        model=deployment.model,
        messages=[
            smg.ChatMessage(role=smg.ROLE_USER, content="Add."),
            smg.ChatMessage(role=smg.ROLE_ASSISTANT, tool_calls=[call]),
            smg.ChatMessage(role=smg.ROLE_TOOL, tool_call_id="call_1", content=result),
        ],
        max_tokens=3,
    )
    assert deployment.door.chats.Chat(chat).choices
    items = [
        smg.ResponseItem(message=smg.ItemMessage(role=smg.ROLE_USER, content="Add.")),
        smg.ResponseItem(tool_call=call),
        smg.ResponseItem(tool_result=smg.ToolResult(call_id="call_1", content=result)),
    ]
    request = smg.CreateResponseRequest(model=deployment.model, items=items)
    assert deployment.door.responses.CreateResponse(request).output


MESSAGES = {
    "plain": Case(PLAIN, {}, {}, "'finish': 'stop'"),
    "stop string": Case(PLAIN, {"stop": ["four"]}, {"stop_sequences": ["four"]}, "'stop': 'four'"),
    "thinking": Case(
        THOUGHT,
        {"reasoning_effort": "low"},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        "'thinking': '\\nOne and one.\\n'",
    ),
    "tool use": Case(
        CALL,
        {"tools": [TOOL], "parallel_tool_calls": False},
        {
            "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
        "'input': {'city': 'Paris'}",
    ),
    "any tool": Case(
        FORCED,
        {"tools": [TOOL], "tool_choice": {"mode": smg.TOOL_CHOICE_MODE_REQUIRED}},
        {
            "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
            "tool_choice": {"type": "any"},
        },
        "Rome",
    ),
    "thinking off": Case(
        PLAIN, {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, "'finish': 'stop'"
    ),
}


@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES.keys())
def test_messages_equal(deployment: Deployment, case: Case) -> None:
    request = smg.CreateMessageRequest(
        model=deployment.model,
        max_tokens=200,
        system="Be short.",
        turns=[smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text=case.says)])],
        **case.proto,
    )
    printed = [{"role": "user", "content": [{"type": "text", "text": case.says}]}]
    body = {
        "model": deployment.model,
        "max_tokens": 200,
        "system": "Be short.",
        "messages": printed,
    }
    body |= case.http
    with deployment.saying(case.says):
        deployment.http.post("/v1/messages", **body)
        expected = views.message_http(deployment.http.post("/v1/messages", **body))
        assert case.shows in str(expected)
        assert views.message(deployment.door.messages.CreateMessage(request)) == expected
        streamed = views.message_stream(deployment.door.messages.StreamMessage(request))
        events = deployment.http.events("/v1/messages", **body)
        assert streamed == views.message_stream_http(events)
    counted = deployment.door.messages.CountMessageTokens(request)
    del body["max_tokens"]
    body.pop("stop_sequences", None)
    there = deployment.http.post("/v1/messages/count_tokens", **body)
    assert counted.prompt_tokens == there["input_tokens"]


RESPONSES = {
    "plain": Case(PLAIN, {}, {}, "'completed'"),
    "incomplete": Case(PLAIN, {"max_tokens": 3}, {"max_output_tokens": 3}, "'incomplete'"),
    "reasoning": Case(THOUGHT, {}, {}, "'thought': '\\nOne and one.\\n'"),
    "function call": Case(
        CALL,
        {"tools": [TOOL]},
        {"tools": [{"type": "function", "name": "get_weather", "parameters": PARAMETERS}]},
        "'call': 'get_weather'",
    ),
    "instructions": Case(
        PLAIN,
        {"instructions": "Be short.", "metadata": {"a": "b"}},
        {"instructions": "Be short.", "metadata": {"a": "b"}},
    ),
}


@pytest.mark.parametrize("case", RESPONSES.values(), ids=RESPONSES.keys())
def test_responses_equal(deployment: Deployment, case: Case) -> None:
    request = smg.CreateResponseRequest(
        model=deployment.model, input=case.says, temperature=0, **case.proto
    )
    body = {"model": deployment.model, "input": case.says, "temperature": 0, **case.http}
    with deployment.saying(case.says):
        deployment.http.post("/v1/responses", **body)
        expected = views.response_http(deployment.http.post("/v1/responses", **body))
        assert case.shows in str(expected)
        made = deployment.door.responses.CreateResponse(request)
        assert views.response(made) == expected
        assert dict(made.metadata) == case.http.get("metadata", {})
        streamed = views.response_stream(deployment.door.responses.StreamResponse(request))
        events = deployment.http.events("/v1/responses", **body)
        assert streamed == views.response_stream_http(events)


FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "json object": (
        '{"a": 1}',
        {"json_object": {}},
        {"json_schema": '{"type":"object"}'},
        {"response_format": {"type": "json_object"}},
    ),
    "json schema": (
        '{"city": "Paris"}',
        {"json_schema": {"schema_json": WEATHER}},
        {"json_schema": WEATHER},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": PARAMETERS},
            }
        },
    ),
    "regex": ("yes", {"regex": "yes|no"}, {"regex": "yes|no"}, {"regex": "yes|no"}),
    "grammar": ("no", {"grammar": GRAMMAR}, {"ebnf": GRAMMAR}, {"ebnf": GRAMMAR}),
}


@pytest.mark.parametrize("form", FORMS)
def test_structured_output_equals(deployment: Deployment, form: str) -> None:
    says, proto, completion, chat = FORMS[form]
    given = smg.OutputFormat(**proto)
    with deployment.saying(says):
        ask = {"model": deployment.model, "prompt": says, **completion}
        deployment.http.post("/v1/completions", **ask)
        expected = views.completion_http(deployment.http.post("/v1/completions", **ask))
        request = smg.CompletionRequest(model=deployment.model, prompt=says, output_format=given)
        assert views.completion(deployment.door.completions.Complete(request)) == expected
        assert expected["text"] == says

        talk = {"model": deployment.model, "messages": [{"role": "user", "content": says}], **chat}
        deployment.http.post("/v1/chat/completions", **talk)
        answer = views.chat_http(deployment.http.post("/v1/chat/completions", **talk))
        printed = smg.ChatMessage(role=smg.ROLE_USER, content=says)
        ask_chat = smg.ChatRequest(model=deployment.model, messages=[printed], output_format=given)
        assert views.chat(deployment.door.chats.Chat(ask_chat)) == answer
    if deployment.engine:
        received = deployment.engine.record.received[-1].request
        assert isinstance(received, vllm_engine_pb2.GenerateRequest)
        constraint = received.sampling_params.WhichOneof("constraint")
        assert constraint == (form if form in ("regex", "grammar") else "json_schema")


def test_the_model_obeys_a_schema_by_itself(deployment: Deployment) -> None:
    if deployment.engine is None:
        pytest.skip("an engine that echoes obeys no schema")
    given = smg.OutputFormat(json_schema=smg.JsonSchema(schema_json=WEATHER))
    request = smg.CompletionRequest(model=deployment.model, prompt="How warm?", output_format=given)
    assert isinstance(json.loads(deployment.door.completions.Complete(request).text)["city"], str)
