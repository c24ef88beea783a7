"""No field is lost: each field of each request is in the JSON, or refused by its name."""

import json
import re
from collections.abc import Iterator, MutableSequence
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from frontdoor.tables import REQUEST_TABLES
from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import NOT_SUPPORTED, Cursor, Table, write_request
from smg_proto._http.mapping import (
    chat,
    common,
    completion,
    conversation,
    media,
    message,
    others,
    response,
)
from smg_proto.errors import SmgError

# Said to have no bearing on the count, so not part of it.
NOT_COUNTED = {
    *("max_tokens", "temperature", "top_p", "top_k", "stop", "parallel_tool_calls", "user"),
    *("output_format", "reasoning_budget_tokens"),
}
# Neither in the body nor refused, and why.
IN_THE_PATH = "in the path of the URL"
UNSENT = {
    ("generate", "return_token_ids"): "the route always returns them",
    ("response", "idempotency_key"): "the front door's own memory",
    ("create worker", "idempotency_key"): "the front door's own memory",
    ("embed", "allow_partial"): "how the front door joins the answers",
    ("classify", "allow_partial"): "how the front door joins the answers",
    ("tokenize", "return_pieces"): "a second request",
    ("update worker", "id"): IN_THE_PATH,
    ("replace worker", "id"): IN_THE_PATH,
    ("create items", "id"): IN_THE_PATH,
    ("update worker", "remove_labels"): "the worker is replaced",
    ("transcribe", "audio"): "the file of the form",
    ("transcribe", "media_type"): "the file of the form",
    ("transcribe", "file_name"): "the file of the form",
    ("chat", "messages.annotations"): "of replies, which go back without them",
    ("chat", "messages.audio"): "of replies, which go back without it",
}
# Beside the JSON of the whole, which has them too and is what is sent.
IN_THE_JSON = {
    "Opaque": {"type"},
    "Annotation": {"type", "url", "title", "quote", "start_index", "end_index"},
}
# A mark that survives as text, as JSON text and as bytes.
MARK = '{"mark":1}'


def paths(descriptor: Descriptor, seen: tuple[str, ...] = ()) -> Iterator[list[FieldDescriptor]]:
    """Every way down to a field that holds a value, each message type once on a way."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry:
            yield [field]
        elif inner.full_name not in seen:
            for rest in paths(inner, (*seen, descriptor.full_name)):
                yield [field, *rest]


def value_of(field: FieldDescriptor) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return MARK.encode() if field.type == FieldDescriptor.TYPE_BYTES else MARK
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type
            return max(field.enum_type.values_by_number)
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case _:
            return 1


# What a message needs to be whole, so that nothing but the field in question can be wrong with it.
COMPANIONS: dict[str, dict[str, Any]] = {
    "ChatMessage": {"role": smg.ROLE_USER},
    "Turn": {"role": smg.ROLE_USER},
    "ResponseItem": {"message": smg.ItemMessage(role=smg.ROLE_USER)},
    "ContentPart": {"text": "a"},
    "MessageBlock": {"text": "a"},
    "Opaque": {"json": '{"type":"x"}'},
    "Annotation": {"json": '{"type":"x"}'},
    "ItemMessage": {"role": smg.ROLE_USER},
    "Media": {"url": "http://a"},
    "FunctionTool": {"name": "f"},
    "McpTool": {"server_label": "a", "server_url": "http://a"},
    "ToolCall": {"id": "1", "name": "f"},
    "ToolResult": {"call_id": "1"},
    "JsonSchema": {"schema_json": "{}"},
}


def put(message: Any, way: list[FieldDescriptor], *, leaf: bool) -> None:
    """Set what is on the way, with its companions; without `leaf` not the last step."""
    field, *rest = way
    message.MergeFrom(type(message)(**COMPANIONS.get(message.DESCRIPTOR.name, {})))
    target: Any = getattr(message, field.name)
    repeated = isinstance(target, MutableSequence)
    if rest:
        inner = target.add() if repeated else target
        inner.SetInParent()
        put(inner, rest, leaf=leaf)
    elif not leaf:
        pass
    elif field.message_type is not None:
        target["key"] = MARK
    elif repeated:
        target.append(value_of(field))
    else:
        setattr(message, field.name, f"other{MARK}" if target == MARK else value_of(field))


CASES = [
    pytest.param(name, way, id=f"{name}: {'.'.join(field.name for field in way)}")
    for name, table in REQUEST_TABLES.items()
    for way in paths(table.message.DESCRIPTOR)
]


@pytest.mark.parametrize("name, way", CASES)
def test_a_field_is_carried_or_rejected(name: str, way: list[FieldDescriptor]) -> None:
    table = REQUEST_TABLES[name]
    full, without = table.message(), table.message()
    put(full, way, leaf=True)
    put(without, way, leaf=False)
    path = [field.name for field in way]
    cursor = Cursor([])
    changed = table.write(full, cursor) != table.write(without, Cursor([]))
    if (
        (name == "count" and path[0] in NOT_COUNTED)
        or (name, path[0]) in UNSENT
        or (name, ".".join(path[:2])) in UNSENT
    ):
        assert not changed
        return
    for violation in cursor.violations:
        found = re.sub(r"\[\d+\]", "", violation.field).split(".")
        if found == path or (
            violation.description == NOT_SUPPORTED and found == path[: len(found)]
        ):
            return
    holder = way[-1].containing_type
    if holder and path[-1] in IN_THE_JSON.get(holder.name, ()):
        return
    assert changed, "neither in the JSON nor refused"


def written(table: Table[Any], **fields: Any) -> dict[str, Any]:
    """The JSON of a request with these fields; what else is required is there too."""
    request = table.message(**fields)
    for name in ("model",):
        if name in request.DESCRIPTOR.fields_by_name and not request.model:
            request.model = "m"
    return write_request(table, request)


USER = [smg.ChatMessage(role=smg.ROLE_USER, content="a")]


def talk(*messages: smg.ChatMessage) -> Any:
    return written(chat.REQUEST, messages=messages)["messages"]


def test_unset_is_omitted_and_zero_is_sent() -> None:
    assert written(chat.REQUEST, messages=USER).keys() == {"model", "messages"}
    zero = written(chat.REQUEST, messages=USER, temperature=0, seed=0, logprobs=0)
    assert (zero["temperature"], zero["seed"]) == (0, 0)
    assert (zero["logprobs"], zero["top_logprobs"]) == (True, 0)


def test_a_message_without_content_has_none_or_the_empty_text() -> None:
    call = smg.ToolCall(id="1", name="f", arguments="{}")
    first, second = talk(
        smg.ChatMessage(role=smg.ROLE_ASSISTANT, tool_calls=[call]),
        smg.ChatMessage(role=smg.ROLE_TOOL, tool_call_id="1"),
    )
    assert first["content"] is None
    assert first["tool_calls"] == [
        {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert second == {"role": "tool", "tool_call_id": "1", "content": ""}


def test_media_have_the_form_of_their_route() -> None:
    data = smg.Media(data=b"\x00\x01", media_type="image/png", detail="low")
    wav = smg.Media(data=b"\x00", media_type="audio/wav")
    link = smg.Media(url="http://a/b")
    parts = [
        smg.ContentPart(text="see"),
        smg.ContentPart(image=data),
        smg.ContentPart(audio=wav),
        smg.ContentPart(audio=link),
        smg.ContentPart(video=link),
    ]
    (output,) = talk(smg.ChatMessage(role=smg.ROLE_USER, parts=parts))
    assert output["content"] == [
        {"type": "text", "text": "see"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,AAE=", "detail": "low"},
        },
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "http://a/b"}},
        {"type": "video_url", "video_url": {"url": "http://a/b"}},
    ]
    plain = smg.Media(data=b"\x00\x01", media_type="image/png")
    turn = smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(image=plain)])
    body = written(message.REQUEST, turns=[turn], max_tokens=1)
    assert body["messages"][0]["content"][0]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "AAE=",
    }
    picture = smg.ContentPart(image=data)
    item = smg.ResponseItem(message=smg.ItemMessage(role=smg.ROLE_USER, parts=[picture]))
    body = written(response.REQUEST, items=[item])
    assert body["input"][0]["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,AAE=", "detail": "low"}
    ]


def test_blocks_are_translated_in_both_directions() -> None:
    blocks = [
        smg.MessageBlock(reasoning=smg.Reasoning(text="hm", signature="s")),
        smg.MessageBlock(text="so"),
        smg.MessageBlock(tool_call=smg.ToolCall(id="1", name="f", arguments='{"b":1,"a":2.50}')),
    ]
    result = smg.ToolResult(call_id="1", content="x", is_error=True)
    turns = [
        smg.Turn(role=smg.ROLE_ASSISTANT, blocks=blocks),
        smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(tool_result=result)]),
    ]
    assistant, user = written(message.REQUEST, turns=turns, max_tokens=1)["messages"]
    assert assistant["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"b": 1, "a": 2.5}},
    ]
    assert user["content"] == [
        {"type": "tool_result", "tool_use_id": "1", "content": "x", "is_error": True}
    ]
    assert [message.BLOCK.read(block) for block in assistant["content"]][:2] == blocks[:2]


def test_the_order_of_keys_and_whole_numbers_survive() -> None:
    schema = '{"z":1,"a":[3,3.5],"ü":12345678901234567890}'
    tool = smg.Tool(function=smg.FunctionTool(name="f", parameters_json=schema))
    body = written(chat.REQUEST, messages=USER, tools=[tool])
    sent = body["tools"][0]["function"]["parameters"]
    assert json.dumps(sent, ensure_ascii=False, separators=(",", ":")) == schema


@pytest.mark.parametrize(
    "choice, sent",
    [
        (smg.ToolChoice(), ("auto", {"type": "auto"})),
        (smg.ToolChoice(mode=smg.TOOL_CHOICE_MODE_NONE), ("none", {"type": "none"})),
        (smg.ToolChoice(mode=smg.TOOL_CHOICE_MODE_REQUIRED), ("required", {"type": "any"})),
        (
            smg.ToolChoice(function="f"),
            (
                {"type": "function", "function": {"name": "f"}},
                {"type": "tool", "name": "f"},
            ),
        ),
    ],
)
def test_tool_choices_have_the_form_of_their_route(choice: smg.ToolChoice, sent: Any) -> None:
    assert written(chat.REQUEST, messages=USER, tool_choice=choice)["tool_choice"] == sent[0]
    turns = [smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text="a")])]
    body = written(message.REQUEST, turns=turns, max_tokens=1, tool_choice=choice)
    assert body["tool_choice"] == sent[1]
    one_at_a_time = written(
        message.REQUEST, turns=turns, max_tokens=1, tool_choice=choice, parallel_tool_calls=False
    )
    assert one_at_a_time["tool_choice"] == sent[1] | {"disable_parallel_tool_use": True}


EMPTY = smg.OutputFormat(json_schema=smg.JsonSchema())
KWARGS = "chat_template_kwargs_json"
EMPTY_SCHEMA = "output_format.json_schema.schema_json"
ITEM = smg.ResponseItem(message=smg.ItemMessage(role=smg.ROLE_USER, content="a"))


@pytest.mark.parametrize(
    "table, fields, violation",
    [
        (chat.REQUEST, {"messages": []}, "messages"),
        (chat.REQUEST, {"messages": [smg.ChatMessage(content="a")]}, "messages[0].role"),
        (chat.REQUEST, {"messages": USER, "temperature": float("nan")}, "temperature"),
        (
            chat.REQUEST,
            {"messages": USER, "chat_template_kwargs_json": "{"},
            "chat_template_kwargs_json",
        ),
        (
            chat.REQUEST,
            {"messages": USER, "chat_template_kwargs_json": "[]"},
            "chat_template_kwargs_json",
        ),
        (
            chat.REQUEST,
            {"messages": USER, "tools": [smg.Tool(mcp=smg.McpTool(server_label="a"))]},
            "tools[0].mcp",
        ),
        (
            response.REQUEST,
            {"input": "a", "output_format": smg.OutputFormat(regex="a")},
            "output_format.regex",
        ),
        (
            message.REQUEST,
            {"turns": [smg.Turn(role=smg.ROLE_SYSTEM)], "max_tokens": 1},
            "turns[0].role",
        ),
        (
            completion.GENERATE_REQUEST,
            {"prompt_token_ids": smg.TokenIds(ids=[1]), "logprobs": 1},
            "logprobs",
        ),
        (completion.REQUEST, {}, "prompt"),
        (
            chat.REQUEST,
            {
                "messages": [
                    smg.ChatMessage(
                        role=smg.ROLE_SYSTEM, content="a", parts=[smg.ContentPart(text="b")]
                    )
                ]
            },
            "messages[0].parts",
        ),
        (chat.REQUEST, {"messages": USER, "output_format": EMPTY}, EMPTY_SCHEMA),
        (response.REQUEST, {"input": "a", "output_format": EMPTY}, EMPTY_SCHEMA),
        (completion.REQUEST, {"prompt": "a", "output_format": EMPTY}, EMPTY_SCHEMA),
        (chat.REQUEST, {"messages": USER, "extra_body_json": '{"n":2}'}, "extra_body_json"),
        (chat.REQUEST, {"messages": USER, "extra_body_json": '{"stream":true}'}, "extra_body_json"),
        (chat.REQUEST, {"messages": USER, "extra_body_json": "[1]"}, "extra_body_json"),
        (response.REQUEST, {"input": "a", "items": [ITEM]}, "items"),
        (
            response.REQUEST,
            {"input": "a", "previous_response_id": "r", "conversation_id": "c"},
            "conversation_id",
        ),
        (
            message.REQUEST,
            {
                "turns": [smg.Turn(role=smg.ROLE_USER)],
                "max_tokens": 1,
                "reasoning_effort": "low",
                "reasoning_budget_tokens": 9,
            },
            "reasoning_budget_tokens",
        ),
        (others.EMBED_REQUEST, {"inputs": [smg.EmbedInput()]}, "inputs[0]"),
        (
            completion.REQUEST,
            {"prompts": [smg.CompletionPrompt(token_ids=smg.TokenIds(ids=[1]))]},
            "prompts[0].token_ids",
        ),
        (media.TRANSCRIBE_REQUEST, {}, "audio"),
        (
            chat.REQUEST,
            {"messages": [smg.ChatMessage(role=smg.ROLE_USER, parts=[smg.ContentPart()])]},
            "messages[0].parts[0]",
        ),
        *(
            (chat.REQUEST, {"messages": USER, "chat_template_kwargs_json": text}, KWARGS)
            for text in ('{"a":' * 201 + "1" + "}" * 201, '{"a":1e999}')
        ),
    ],
)
def test_what_cannot_be_sent_is_named(
    table: Table[Any], fields: dict[str, Any], violation: str
) -> None:
    with pytest.raises(SmgError) as caught:
        written(table, **fields)
    assert [found.field for found in caught.value.field_violations] == [violation]
    assert caught.value.reason == "INVALID_REQUEST"


def test_kinds_that_are_not_known_are_kept_where_the_message_can() -> None:
    assert common.CHAT_TOOL.read({"type": "new", "text": "a"}) is None
    assert response.ITEM.read({"type": 7}) is None
    found = response.ITEM.read({"type": "new", "text": "a"})
    kept = smg.Opaque(type="new", json='{"type":"new","text":"a"}')
    assert found == smg.ResponseItem(opaque=kept)


def test_objects_of_a_reply_may_be_empty_and_their_members_are_theirs() -> None:
    """A member of the same name beside the object is another, and not known."""
    reply = chat.REPLY.read({"usage": {}, "prompt_tokens": 5})
    assert reply == smg.ChatResponse(usage=smg.Usage(), extra_json='{"prompt_tokens":5}')


def test_every_field_of_a_reply_has_a_source() -> None:
    """Fields that no table reads are those that the front door itself fills in."""
    own = {"pipeline", "extra_json", "next_page_token"}
    tables: list[tuple[Table[Any], set[str]]] = [
        (completion.REPLY, {"choices"}),  # where there are several
        (completion.GENERATE_REPLY, {"model", "create_time", "logprobs", "choices"}),
        (chat.REPLY, set()),
        (message.REPLY, set()),
        (response.REPLY, set()),
        (response.STORED_ITEMS, set()),
        (others.EMBED_REPLY, set()),
        (others.CLASSIFY_REPLY, set()),
        (others.RERANK_REPLY, set()),
        (others.TOKENIZE_REPLY, {"pieces"}),
        (others.DETOKENIZE_REPLY, set()),
        (others.PARSE_REASONING_REPLY, set()),
        (others.PARSE_CALLS_REPLY, set()),
        (others.MODEL_LIST, set()),
        (others.WORKER, {"create_time"}),  # the gateway does not tell
        (others.WORKER_LIST, set()),
        (others.LOADS, set()),
        (others.FLUSHED, set()),
        (others.TOKENIZER, set()),
        (others.TOKENIZER_LIST, set()),
        (others.TOKENIZER_STATUS, set()),
        (others.SERVER_INFO, {"json"}),
        (others.MODEL_INFO, {"json"}),
        (conversation.REPLY, set()),
        (conversation.ITEMS, set()),
        (conversation.CREATED_ITEMS, set()),
        (media.TRANSCRIPTION, set()),
        (media.DECIDE_REPLY, set()),
    ]
    for table, elsewhere in tables:
        fields = set(table.message.DESCRIPTOR.fields_by_name)
        assert fields - table.rows.keys() - own == elsewhere, table.message


def test_a_table_rejects_unknown_fields() -> None:
    with pytest.raises(TypeError, match=r"smg\.v1\.TokenIds has no field idz"):
        Table(smg.TokenIds, {"idz": "ids"})
