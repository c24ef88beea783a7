"""Chat: messages to a prompt with the model's template, and replies in OpenAI's shape."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from pydantic import BaseModel
from test_tokenizer import OwnTokenizer, archive
from vllm_kit import Both, ScriptedEngine, complete, sent

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, Answer, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.testing._tokenizer import render_chat, tokenizer
from smg_proto.vllm import (
    ChatCompletion,
    ChatCompletionChunk,
    StructuredOutputs,
    Timeout,
    TokenDecoder,
    VLLMGrpcError,
    VLLMGrpcFailedPreconditionError,
    VLLMGrpcInvalidArgumentError,
    VLLMGrpcValidationError,
    _template,
)
from smg_proto.vllm._chat import ChatRequest
from smg_proto.vllm._template import compiled

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
SECRET = "tell nobody about the treasure"


def chat(both: Both, client: Any, **params: Any) -> Any:
    return both.run(client.chat.completions.create(**{"messages": HELLO, **params}))


def prompt_of(engine: FakeVllmEngine) -> str:
    """The prompt of the latest request, as text."""
    return tokenizer().decode(sent(engine).tokenized.input_ids, skip_special=False)


def test_a_reply_has_openais_shape(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    engine.script.add(Answer("Hello there!"), rpc="Generate", times=2)
    reply = chat(both, client, model="m")
    assert isinstance(reply, ChatCompletion)
    assert (reply.object, reply.model, reply.id[:9]) == ("chat.completion", "m", "chatcmpl-")
    (choice,) = reply.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello there!")
    assert choice.finish_reason == "stop" and reply.usage is not None
    assert reply.usage.completion_tokens == len(choice.token_ids)
    assert "metadata" not in str(reply.model_dump())
    assert ChatCompletion().initial_metadata == ()
    named = chat(both, client, timeout=None)
    assert named.model == engine.name


def test_the_prompt_is_what_the_models_template_makes(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "c"},
    ]
    chat(both, client, messages=messages, max_tokens=1)
    result = [("system", "Be brief."), ("user", "a\nb"), ("assistant", ""), ("user", "c")]
    assert prompt_of(engine) == render_chat(result)
    assert list(sent(engine).tokenized.input_ids) == tokenizer().encode(render_chat(result))
    assert not sent(engine).tokenized.original_text


def test_a_reply_can_be_put_back_among_the_messages(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Answer("Hello there!"), rpc="Generate")
    reply = chat(both, client).choices[0].message
    chat(
        both, client, messages=[*HELLO, reply, {"role": "user", "content": "Again."}], max_tokens=1
    )
    result = [("user", "Say hello."), ("assistant", "Hello there!"), ("user", "Again.")]
    assert prompt_of(engine) == render_chat(result)


def test_a_stream_has_openais_shape(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    engine.script.add(Answer("Hello there!"), rpc="Generate", times=None)
    stream = chat(both, client, stream=True, n=2, seed=1, stream_options={"include_usage": True})
    chunks = both.each(stream)
    assert all(isinstance(c, ChatCompletionChunk) for c in chunks)
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    *parts, last = chunks
    assert last.choices == [] and last.usage is not None
    for index in range(2):
        mine = [c.choices[0] for c in parts if c.choices[0].index == index]
        assert [c.delta.role for c in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert "".join(c.delta.content or "" for c in mine) == "Hello there!"
        assert [c.finish_reason for c in mine][-1] == "stop"
    final = both.run(stream.get_final_completion())
    assert [c.message.content for c in final.choices] == ["Hello there!"] * 2
    for choice in final.choices:
        mine = [c.choices[0] for c in parts if c.choices[0].index == choice.index]
        assert [token for c in mine for token in c.token_ids] == choice.token_ids != []
    again = chat(both, client, stream=True)
    assert "".join(both.each(again.text_stream)) == "Hello there!"


def test_a_chunk_says_what_ended_its_choice(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Answer("one two three"), rpc="Generate", times=None)
    chunks = both.each(chat(both, client, stream=True, stop=" three"))
    last = chunks[-1].choices[0]
    assert (last.finish_reason, last.stop_reason) == ("stop", " three")
    assert [c.choices[0].stop_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    options = {"include_usage": True}
    sent_: dict[str, Any] = {"n": 2, "seed": 1, "stream_options": options}
    stream = chat(both, client, stream=True, **sent_)
    assert "".join(both.each(stream.text_stream)) == "one two three"


def test_logprobs_of_special_tokens_have_text_and_missing_candidates_are_left_out(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    special, word = 1, tokenizer().encode("one")[0]
    name = tokenizer().decode([special], skip_special=False)
    logprobs = pb.OutputLogProbs(token_ids=[special, word], token_logprobs=[-0.5, -1.0])
    logprobs.top_logprobs.add(token_ids=[special], values=[-0.5])
    scripted.messages = [complete(special, word, output_logprobs=logprobs)]
    choice = chat(both, scripted_client, logprobs=True).choices[0]
    (only,) = choice.logprobs.content
    assert (only.token, only.bytes) == (name, list(name.encode())) and name
    assert [one.token for one in only.top_logprobs] == [name]


def test_logprobs_are_listed_as_openai_does(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    requested: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    whole = chat(both, client, **requested).choices[0]
    assert len(whole.logprobs.content) == 4
    for entry, token in zip(whole.logprobs.content, whole.token_ids, strict=True):
        assert entry.token_id == token and entry.bytes == list(entry.token.encode())
        assert entry.top_logprobs[0].token_id == token
        assert len(entry.top_logprobs) <= 2 and entry.logprob <= 0
    chunks = both.each(chat(both, client, stream=True, **requested))
    streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert streamed == whole.logprobs.content
    assert sent(engine).sampling_params.logprobs == 2
    assert chat(both, client, max_tokens=1).choices[0].logprobs is None
    chat(both, client, logprobs=True, max_tokens=1)
    assert sent(engine).sampling_params.logprobs == 0
    chat(both, client, logprobs=True, top_logprobs=0, max_tokens=1)
    assert sent(engine).sampling_params.logprobs == 0
    with pytest.raises(VLLMGrpcInvalidArgumentError, match="2147483647"):  # the server's limit
        chat(both, client, logprobs=True, top_logprobs=2**31 - 1)
    chat(both, client, logprobs=False, max_tokens=1)
    assert not sent(engine).sampling_params.HasField("logprobs")


def test_the_models_own_sampling_applies_unless_it_is_switched_off(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    """As vLLM's HTTP server does it."""
    chat(both, client, max_tokens=1)
    assert sent(engine).sampling_params.HasField("temperature")
    chat(both, client, max_tokens=1, temperature=0.25)
    assert sent(engine).sampling_params.temperature == 0.25
    chat(both, client, max_tokens=1, use_model_defaults=False)
    assert not sent(engine).sampling_params.HasField("temperature")


def test_the_models_description_counts_as_part_of_the_first_message(
    both: Both, decoder: TokenDecoder
) -> None:
    left: list[float | None] = []

    class Clocked(FakeVllmEngine):
        async def GetModelInfo(self, request: Any, context: Any) -> Any:
            left.append(context.time_remaining())
            return await super().GetModelInfo(request, context)

    with run_vllm_engine(Clocked()) as address:
        client = both.make(address, decoder=decoder)
        assert both.each(chat(both, client, stream=True, timeout=Timeout(first_message=5.0)))
    assert left[0] is not None and left[0] <= 5.0


def test_a_server_that_does_not_describe_its_model_can_chat(both: Both) -> None:
    with run_vllm_engine(OwnTokenizer()) as address:
        client = both.make(address)
        address.servicer.script.add(
            Fault(grpc.StatusCode.UNIMPLEMENTED), rpc="GetModelInfo", times=None
        )
        assert chat(both, client, max_tokens=2).choices[0].message.content
        with pytest.raises(VLLMGrpcError):
            chat(both, client, max_tokens=2, use_model_defaults=True)


def test_openais_other_parameters_are_understood(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    chat(both, client, max_completion_tokens=7, user="u", store=False, tool_choice="auto")
    assert sent(engine).sampling_params.max_tokens == 7
    for form, expected in (
        ({"type": "json_object"}, "{}"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, '{"a": 0}'),
    ):
        reply = chat(both, client, response_format=form)
        assert reply.choices[0].message.content == expected
    chat(both, client, response_format={"type": "text"}, max_tokens=1)
    assert sent(engine).sampling_params.WhichOneof("constraint") is None
    tag = {"type": "structural_tag", "triggers": ["<f>"]}
    made = ChatRequest.of(HELLO, {"response_format": tag}).request.to_grpc()
    assert json.loads(made.structural_tag) == tag
    for most in (1, 2**32 - 1):
        request = ChatRequest.of(HELLO, {"max_completion_tokens": most}).request
        assert request.max_tokens == most


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": SECRET}, "messages"),
    ({"messages": [SECRET]}, "messages.0"),
    ({"messages": [{"content": SECRET}]}, "messages.0.role"),
    ({"messages": [{"role": 7, "content": SECRET}]}, "messages.0.role"),
    ({"messages": [*HELLO, {"role": "user", "content": 7}]}, "messages.1.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": SECRET + "\ud800"}]}, "messages.0.content"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": "[" + SECRET}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages.0.tool_calls"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": [SECRET]}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": 2**32}, "max_completion_tokens"),
    ({"response_format": {"type": ["text"]}}, "response_format"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({"chat_template_kwargs": {1: 2}}, "chat_template_kwargs"),
    ({"tools": "f"}, "tools"),
    ({"tools": ["f"]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": 2}, "logprobs"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 2**31}, "top_logprobs"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_completion_tokens"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_object"},
         "structured_outputs": StructuredOutputs(regex="a")},
        "response_format",
    ),
    ({"chat_template": ""}, "chat_template"),
    ({"chat_template_kwargs": 7}, "chat_template_kwargs"),
    ({"add_generation_prompt": "yes"}, "add_generation_prompt"),
    ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ({"temperature": 9}, "temperature"),
    ({"temprature": 1}, "temprature"),
    ({"stream": "yes"}, "stream"),
    ({"store": True}, "store"),
    ({"prompt": "x"}, "prompt"),
    ({"request_id": ""}, "request_id"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "name"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named_and_not_sent(
    params: dict[str, Any], name: str, both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    with pytest.raises(VLLMGrpcValidationError) as caught:
        chat(both, client, **params)
    assert caught.value.param == name
    assert SECRET not in str(caught.value)
    if "image_url" in str(params):
        assert caught.value.problem == "only text is supported; send media through the gateway"
    assert not engine.record.received


def test_a_chat_needs_a_tokenizer(both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="chat needs a tokenizer"):
        chat(both, client.with_options(decoder=None))


# The template.


def with_template(config: dict[str, Any], **files: str) -> FakeVllmEngine:
    """An engine whose tokenizer has these settings."""
    given = dict(tokenizer().files())
    kept = {k: v for k, v in json.loads(given["tokenizer_config.json"]).items() if "chat" not in k}
    given["tokenizer_config.json"] = json.dumps(kept | config)
    return OwnTokenizer(archive(given | {k.replace("__", "."): v for k, v in files.items()}))


def rendered(both: Both, engine: FakeVllmEngine, **params: Any) -> str:
    """The prompt that arrives at such an engine."""
    with run_vllm_engine(engine) as address:
        chat(both, both.make(address), max_tokens=1, **params)
        return prompt_of(engine)


def of_source(both: Both, source: str, **params: Any) -> str:
    return rendered(both, with_template({"chat_template": source}), **params)


@pytest.fixture(scope="module")
def decoder() -> TokenDecoder:
    with run_vllm_engine() as address:
        from smg_proto.vllm import VLLMGrpcClient

        with VLLMGrpcClient(target=address) as client:
            return client.tokenizer.decoder()


def test_the_template_is_looked_for_where_models_have_it(both: Both) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert rendered(both, with_template({"chat_template": "C"})) == "C"
    assert rendered(both, with_template({"chat_template": named})) == "D"
    assert rendered(both, with_template({"chat_template": named}), tools=tools) == "T"
    assert rendered(both, with_template({"chat_template": "C"}, chat_template__jinja="J")) == "J"
    spare = json.dumps({"chat_template": "S"})
    assert rendered(both, with_template({}, chat_template__json=spare)) == "S"
    assert rendered(both, with_template({"chat_template": "C"}), chat_template="M") == "M"
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="does not have a chat template"):
        rendered(both, with_template({}))


def test_templates_are_rendered_as_transformers_renders_them(both: Both) -> None:
    source = (
        "{%- for message in messages %}\n"
        "    {%- if message['role'] == 'system' %}{% continue %}{% endif %}\n"
        "    {{- bos_token + message.content | trim ~ eos_token }}\n"
        "    {% generation %}{{ message | tojson }}{% endgeneration %}\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}{{ flag }}{{ documents is none }}"
    )
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": " é<a> "}]
    text = of_source(
        both, source, messages=messages, chat_template_kwargs={"flag": "!"},
    )  # fmt: skip
    result = json.dumps({"role": "user", "content": " é<a> "}, ensure_ascii=False)
    assert text == f"<|start|>é<a><|end|>\n{result}>!True"


def test_variables_replace_those_of_the_request(both: Both) -> None:
    """As in vLLM's HTTP API. `self` is Jinja's own."""
    source = "{{ documents }}{{ tools }}{{ add_generation_prompt }}{{ bos_token }}"
    variables = {"self": 5, "documents": ["d"], "tools": 3, "add_generation_prompt": 0}
    assert of_source(both, source, chat_template_kwargs=variables) == "['d']30<|start|>"
    assert of_source(both, source, chat_template_kwargs={"bos_token": "B"}) == "NoneNoneTrueB"


def test_messages_reach_the_template_without_what_is_unset(both: Both) -> None:
    class Message(BaseModel):
        role: str = "assistant"
        content: str = "hi"
        name: str | None = None

    call = {"id": "1", "type": "function", "function": {"name": "f", "strict": True}}
    messages: list[Any] = [
        Message(),
        {"role": "assistant", "content": "x", "tool_calls": []},
        {"role": "assistant", "content": "y", "tool_calls": [call]},
    ]
    source = "{% for m in messages %}{{ m | tojson(sort_keys=true) }}\n{% endfor %}"
    lines = of_source(both, source, messages=messages).splitlines()
    function = {"name": "f", "strict": True, "arguments": {}}
    assert [json.loads(line) for line in lines] == [
        {"role": "assistant", "content": "hi"},
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": "y", "tool_calls": [{**call, "function": function}]},
    ]


def test_special_tokens_are_variables(both: Both) -> None:
    config = {
        "chat_template": "{{ additional_special_tokens | join(',') }}{{ eos_token }}{{ x }}",
        "additional_special_tokens": ["<a>", {"content": "<b>"}],
        "eos_token": {"content": "</s>"},
    }
    assert rendered(both, with_template(config)) == "<a>,<b></s>"


def test_a_template_in_a_file_that_is_not_utf8_is_read(both: Both) -> None:
    broken: Any = {"chat_template__jinja": b"A\xff"}
    assert rendered(both, with_template({}, **broken)) == "A\ufffd"


def test_tools_and_calls_reach_the_template(both: Both) -> None:
    source = (
        "{% for t in tools %}{{ t.function.name }}|{% endfor %}"
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}|{% endfor %}"
        "{% endfor %}{{ m.tool_call_id }}{{ m.content }}|{% endfor %}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "assistant", "tool_calls": [], "content": "x"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert of_source(both, source, messages=messages, tools=tools) == "f|a=1||1done|x|"


def test_a_template_that_reads_parts_gets_parts(both: Both) -> None:
    """As vLLM's HTTP API hands content over to it."""
    source = (
        "{% for m in messages %}{% set content = m['content'] %}"
        "{% if content is string %}S{% else %}"
        "{% for part in content %}[{{ part.type }}:{{ part.text }}]{% endfor %}{% endif %}"
        "{% endfor %}"
    )
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, "c"]},
        {"role": "assistant", "content": None},
    ]
    assert of_source(both, source, messages=messages) == "[text:a][text:b][text:c]"


@pytest.mark.parametrize(
    ("loop", "parts"),
    [
        ("message.content", True),
        ("message['content'] | list", True),
        ("message.tool_calls", False),
        ("message['tool_calls']", False),
        ("messages", False),
    ],
)
def test_only_loops_over_content_ask_for_parts(loop: str, parts: bool) -> None:
    assert compiled("{% for a in " + loop + " %}{% endfor %}").iterates_content is parts


def test_the_last_message_can_be_gone_on_with(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Hello th"}]
    chat(both, client, messages=messages, continue_final_message=True, max_tokens=1)
    assert prompt_of(engine).endswith("<|im_start|>assistant\nHello th")
    chat(both, client, messages=messages, add_generation_prompt=False, max_tokens=1)
    assert prompt_of(engine).endswith("Hello th<|im_end|>\n")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "  two "}]
    source = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    last: list[dict[str, Any]] = [*HELLO, {"role": "assistant"}]
    content: Any
    trimmed = "{% for m in messages %}{{ m.content | trim }};{% endfor %}"
    for template, content, prompt in (
        (source, parts, "[Say hello.][one][  two "),
        (source, [*parts, "x x"], "[Say hello.][one][  two ][x x"),
        (trimmed, "  a b ", "Say hello.;a b"),
        (trimmed, "a b ", "Say hello.;a b"),
        ("{{ messages[-1].content }}", "a b ", "a b "),
    ):
        last[-1]["content"] = content
        chat(
            both, client, messages=last, chat_template=template, continue_final_message=True,
            max_tokens=1,
        )  # fmt: skip
        assert prompt_of(engine) == prompt
    for content in (None, [], " "):
        last[-1]["content"] = content
        with pytest.raises(VLLMGrpcValidationError, match="does not render the last message"):
            chat(both, client, messages=last, chat_template=source, continue_final_message=True)
    with pytest.raises(VLLMGrpcValidationError, match="does not render the last message"):
        chat(both, client, messages=messages, chat_template="x", continue_final_message=True)


def test_a_template_may_refuse_the_messages(both: Both, client: Any) -> None:
    fixed = "{{ raise_exception('roles must alternate') }}"
    quoting = "{{ raise_exception('bad: ' + messages[0].content) }}"
    messages = [{"role": "user", "content": SECRET}]
    with pytest.raises(VLLMGrpcValidationError, match="rejects them: roles must alternate"):
        chat(both, client, messages=messages, chat_template=fixed)
    with pytest.raises(VLLMGrpcValidationError, match="rejects them") as caught:
        chat(both, client, messages=messages, chat_template=quoting)
    assert SECRET not in str(caught.value)
    with pytest.raises(VLLMGrpcValidationError, match="fails on them: UndefinedError") as caught:
        chat(both, client, messages=messages, chat_template="{{ messages[0].a.b }}")
    assert SECRET not in str(caught.value)
    half = [{"role": "user", "content": "x", "name": "\ud800"}]
    with pytest.raises(VLLMGrpcValidationError, match="messages: has half of a character"):
        chat(both, client, messages=half, chat_template="{{ messages[0].name }}")
    with pytest.raises(VLLMGrpcValidationError, match="makes an empty prompt"):
        chat(both, client, chat_template="{# nothing #}")


UNLIMITED = (
    "center", "filesizeformat", "format", "forceescape", "pprint", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
HOSTILE = {
    "reaches out": "{{ messages.__class__.__mro__ }}",
    "reaches far out": "{{ ''.__class__.__base__.__subclasses__() }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "loops for ever": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "loops in loops of text": "{% set x = 'a' * 1000 %}"
    + "{% for a in x %}" * 6
    + "{% endfor %}" * 6,
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "repeats": "{{ 'a' * 10**10 }}",
    "repeats a list": "{{ [1] * 10**10 }}",
    "doubles": "{% set x = 'a' * 1000000 %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "adds": "{% set x = 'a' * 1000000 %}" + "{% set x = x + x %}" * 40 + "{{ x }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "pads": "{{ 'a'.center(10**10) }}",
    "pads a filter": "{{ 'a' | center(10**10) }}",
    "formats": "{{ '%10000000000d' % 1 }}",
    "formats in another way": "{{ '{:10000000000}'.format(1) }}",
    "formats what it does not print": "{% set x = '%40000000d' % 1 %}",
    "replaces": "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "replaces by a filter": "{% set x = 'a' * 100000 %}{{ x | replace('a', x) }}",
    "joins": "{% set x = 'a' * 100000 %}{{ x.join(x) }}",
    "joins attributes": "{% set x = 'a' * 100000 %}"
    "{{ ([{'a': x}] * 1000000) | join(attribute='a') }}",
    "joins by a filter": "{% set x = 'a' * 100000 %}{{ x | list | join(x) }}",
    "indents": "{% set x = '\\n' * 100000 %}{{ x | indent(100000) }}",
    "indents JSON": "{{ [[1]] | tojson(indent=10**9) }}",
    "prints much": "{% set x = 'a' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}",
    "calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "makes text": "{{ lipsum(100000) }}",
    "no template": "{% for %}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long": "x" * 2_000_000,
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_template, "MAX_STEPS", 200_000)
    with pytest.raises((VLLMGrpcFailedPreconditionError, VLLMGrpcValidationError)) as caught:
        compiled(source).render(messages=[{"role": "user", "content": SECRET}])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "made",
    [
        "x.replace('a', x)",
        "x.replace('', x)",
        "x | replace('a', x)",
        "x.join(x)",
        "x | list | join(x)",
        "([{'a': x}] * 10000) | join(attribute='a')",
    ],
)
def test_text_that_grows_is_stopped_before_it_is_made(made: str) -> None:
    """A hundred million characters that nothing prints."""
    source = "{% set x = 'a' * 10000 %}{% set y = " + made + " %}"
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="exceeds a limit of time or size"):
        compiled(source).render()


@pytest.mark.parametrize(
    ("made", "cost"),
    [
        ("x.replace('', 'bbbb')", 4 + 5 * 4),
        ("x | replace('a', 'bbb')", 4 + 3 * 3),
        ("','.join([x, x])", 8 + 2),
        ("[x, x] | join(',')", 8 + 2),
        ("x | indent(5)", 20),
        ("x | indent('12')", 8),
        ("x * 3", 12),
        ("3 * x", 12),
        ("x + x", 8),
        ("x ~ 'bc'", 6),
        ("n * 5", 8),  # bits
        ("2.5 * n", 8),
        ("n - 5", 0),
        ("x | length * 2.5", 3),
    ],
)
def test_what_an_operation_makes_has_a_limit(
    made: str, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = compiled("{% set y = " + made + " %}done")
    monkeypatch.setattr(_template, "MAX_VALUE", cost)
    assert template.render(x="aaba", n=200) == "done"
    if cost:
        monkeypatch.setattr(_template, "MAX_VALUE", cost - 1)
        with pytest.raises(VLLMGrpcFailedPreconditionError, match="limit of time or size"):
            template.render(x="aaba", n=200)


def test_json_has_the_form_that_the_template_asks_for() -> None:
    value = {"b": [1], "a": "\u00e9<"}
    for arguments, expected in (
        ("indent=0", json.dumps(value, indent=0, ensure_ascii=False)),
        ("indent=16", json.dumps(value, indent=16, ensure_ascii=False)),
        ("separators=[',', ':']", '{"b":[1],"a":"\u00e9<"}'),
        ("sort_keys=true, ensure_ascii=true", '{"a": "\\u00e9<", "b": [1]}'),
    ):
        assert compiled("{{ v | tojson(" + arguments + ") }}").render(v=value) == expected
    for indent in ("-1", "17"):
        with pytest.raises(VLLMGrpcFailedPreconditionError, match="limit of time or size"):
            compiled("{{ v | tojson(indent=" + indent + ") }}").render(v=value)


def test_jinjas_own_sources_of_text_are_gone() -> None:
    source = "{{ lipsum is defined or cycler is defined or joiner is defined }}"
    assert compiled(source).render() == "False"


@pytest.mark.parametrize("body", ["{{ a }}", "{{ [].count(a) }}"])
def test_steps_are_counted(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "{% for a in range(300) %}" + body + "{% endfor %}"
    compiled(source).render()
    monkeypatch.setattr(_template, "MAX_STEPS", 200)
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="exceeds a limit of time or size"):
        compiled(source).render()


FULL = "a" * (32 << 20)  # the longest text of a template


def test_limits_are_those_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/vllm-client.md").read_text(encoding="utf-8")
    assert f"ends with an error after {_template.MAX_SECONDS:g} seconds" in page
    assert f"{_template.MAX_STEPS:,} steps" in page
    refused = pytest.raises(VLLMGrpcFailedPreconditionError)
    compiled("x" * (1 << 20))
    with refused:
        compiled("x" * (1 << 20) + "x")
    compiled("{{ x }}").render(x=FULL)
    with refused:
        compiled("{{ x }}b").render(x=FULL)
    joined = compiled("{% set z = x ~ y %}{{ z | length }}")
    assert joined.render(x=FULL, y="") == str(len(FULL))
    with refused:
        joined.render(x=FULL, y="b")
    loop = "{% for a in range(20) %}{% endfor %}"  # range() is a step too
    monkeypatch.setattr(_template, "MAX_STEPS", 21)
    compiled(loop).render()
    with refused:
        compiled(loop + "{{ [].count(1) }}").render()


@pytest.mark.parametrize("name", UNLIMITED)
def test_filters_that_make_text_of_any_size_are_gone(name: str) -> None:
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="TemplateAssertionError"):
        compiled("{{ 'a' | " + name + " }}")


@pytest.mark.parametrize("source", ["'a' * 40000000", "40000000 * 'a'", "40000000 * [1]"])
def test_repetitions_have_a_limit_on_either_side(source: str) -> None:
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="exceeds a limit"):
        compiled("{% set x = " + source + " %}").render()


def test_powers_have_a_limit() -> None:
    assert compiled("{{ 2 ** 64 }} {{ (2 ** 32) ** 2 }}").render() == f"{2**64} {2**64}"
    for source in ("{{ 2 ** 65 }}", "{{ (2 ** 32 + 1) ** 2 }}"):
        with pytest.raises(VLLMGrpcFailedPreconditionError, match="exceeds a limit"):
            compiled(source).render()


def test_a_slow_template_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_template, "MAX_SECONDS", 0.0)
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="exceeds a limit of time or size"):
        compiled("{% for a in [1] %}{% endfor %}").render()


def test_what_templates_do_with_loops_still_works() -> None:
    source = (
        "{% for a in xs %}{{ loop.index }}/{{ loop.length }}{% if loop.first %}f{% endif %}"
        "{% if loop.last %}l{% endif %}{{ loop.previtem }}{{ loop.nextitem }} {% endfor %}"
        "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k ~ v }}{% endfor %}"
        "{% for a in [] %}{% else %}none{% endfor %}"
        "{% for a in xs if a > 1 %}{{ a }}{% endfor %}"
        "{% set ns = namespace(n=0) %}{% for a in xs %}{% set ns.n = ns.n + a %}{% endfor %}"
        "{{ ns.n }}"
        "{{ xs[::-1] | join(',') }}{{ 'a b'.split(' ') | list }}{{ 'ab' | replace('a', 'c') }}"
        "{{ ['x', 'y'] | map('upper') | join }}{{ [{'a': 5}] | join('-', 'a') }}"
        "{{ 'a\\nb' | indent(2) }}{{ 7 % 4 }}{{ 2 ** 3 }}"
        "{{ {'a': [1]} | tojson(indent=1) }}{{ [1] * 2 }}{{ strftime_now('%%') }}"
        "{{ 'aa'.replace('a', 'b', 1) }}"
        "{{ 'a\\n\\nb' | indent }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}"
    )
    assert compiled(source).render(xs=[1, 2, 3]) == (
        "1/3f2 2/313 3/3l2 b1a2none236" + "3,2,1['a', 'b']cbXY5a\n  b38"
        '{\n "a": [\n  1\n ]\n}[1, 1]%ba' + 'a\n\n    b{"a": 2, "b": 1}'
    )


def test_without_jinja_chat_says_what_to_install(
    both: Both, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"smg-grpc-proto\[client,decode,chat\]"):
        chat(both, client, chat_template="something that was never compiled before")


class Own:
    """A tokenizer like those of transformers."""

    chat_template: Any = "{{ bos_token }}{{ messages[0].content }}"
    special_tokens_map: ClassVar[dict[str, str]] = {"bos_token": "<|start|>"}

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return tokenizer().encode(text)

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool = True) -> str:
        return tokenizer().decode(ids, skip_special=skip_special_tokens)


def test_a_tokenizer_of_the_callers_brings_its_template(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    client = both.make(address, decoder=TokenDecoder(Own()))
    assert chat(both, client, max_tokens=2).choices[0].message.content
    assert prompt_of(engine) == "<|start|>Say hello."


@pytest.mark.parametrize("template", [None, "", 5])
def test_a_tokenizer_of_the_callers_may_have_no_template(
    template: Any, both: Both, address: Address[FakeVllmEngine]
) -> None:
    own = Own()
    own.chat_template = template
    client = both.make(address, decoder=TokenDecoder(own))
    with pytest.raises(VLLMGrpcFailedPreconditionError, match="does not have a chat template"):
        chat(both, client)


def test_half_a_character_of_a_tokenizer_has_bytes(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    class Half(Own):
        def decode(self, ids: list[int], /, *, skip_special_tokens: bool = True) -> str:
            return "\ud83d" * len(ids)

    client = both.make(address, decoder=TokenDecoder(Half()))
    reply = chat(both, client, logprobs=True, max_tokens=1)
    assert [entry.bytes for entry in reply.choices[0].logprobs.content] == [[ord("?")]]
