"""The rules that hold over all of smg.v1, read from its descriptors."""

import re

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
)
from support import ROOT

from smg_proto import descriptor_set, errors, smg_pb2
from smg_proto._descriptors import Symbol, symbols
from smg_proto.v1 import chat_pb2

GENERATION = ("CompletionRequest", "ChatRequest", "CreateMessageRequest", "CreateResponseRequest")
FILES = [file for file in descriptor_set().file if file.package == "smg.v1"]
MESSAGES = {message.name: message for file in FILES for message in file.message_type}
RPCS = [
    (service.name, method)
    for file in FILES
    for service in file.service
    for method in service.method
]
SYMBOLS = [symbol for symbol in symbols(descriptor_set()) if symbol.package == "smg.v1"]
FIGURES = {
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_UINT32,
    FieldDescriptorProto.TYPE_DOUBLE,
}
# Figures that their sender always knows, or that mean nothing special at zero.
ALWAYS_KNOWN = {
    "index",
    "output_index",
    "content_index",
    "page_size",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "Worker.active_requests",
    "FlushCacheResponse.flushed_workers",
    "RerankResult.score",
    "TranscriptionSegment.start_seconds",
    "TranscriptionSegment.end_seconds",
    "DecisionProbability.probability",
}
# Messages around one list: a list of lists needs them, and so does a oneof of kinds.
LISTS_OF_LISTS = {"TokenIds", "TokenPieces", "DecisionChoice", "DecisionScore"}
EXTRA_BODY = {
    *GENERATION,
    "EmbedRequest",
    "ClassifyRequest",
    "RerankRequest",
    "TranscribeRequest",
    "DecideRequest",
}
SECRETS = {"authorization", "headers", "api_key", "client_secret"}


def fields() -> list[tuple[str, FieldDescriptorProto]]:
    return [(message.name, field) for message in MESSAGES.values() for field in message.field]


def reply_of(method: MethodDescriptorProto) -> DescriptorProto:
    return MESSAGES[method.output_type.removeprefix(".smg.v1.")]


def test_shared_fields_of_generation_requests_have_one_number_and_type() -> None:
    seen: dict[str, tuple[object, ...]] = {}
    numbers: dict[int, set[str]] = {}
    shared = 0
    for name in GENERATION:
        descriptor = smg_pb2.DESCRIPTOR.message_types_by_name[name]
        for field in descriptor.fields:
            of = field.message_type or field.enum_type
            kind = "" if not of else "map" if of.name == "MetadataEntry" else of.full_name
            shape = (field.number, field.type, kind, field.has_presence)
            shared += field.name in seen
            assert seen.setdefault(field.name, shape) == shape, f"{name}.{field.name}"
            numbers.setdefault(field.number, set()).add(field.name)
    assert shared > 30
    inputs = {2, 16}  # what is asked differs by API; all else that is shared has its number alone
    for number, names in numbers.items():
        assert len(names) == 1 or number in inputs or number >= 30, (number, names)


def test_the_facade_has_the_attributes_of_a_file_descriptor() -> None:
    facade = smg_pb2.DESCRIPTOR
    questions = {name for name in dir(chat_pb2.DESCRIPTOR) if not name.startswith("_")}
    assert {name for name in questions if not hasattr(facade, name)} == set()
    # It is a file of the pool, which imports all others of its package publicly.
    assert facade.pool.FindFileByName(facade.name).serialized_pb == facade.serialized_pb
    parts = [file for file in descriptor_set().file if file.package == facade.package]
    assert {file.name for file in facade.public_dependencies} == {file.name for file in parts}
    assert facade.message_types_by_name.keys() == {m.name for f in parts for m in f.message_type}
    assert facade.enum_types_by_name.keys() == {e.name for f in parts for e in f.enum_type}
    assert facade.services_by_name.keys() == {s.name for f in parts for s in f.service}
    assert facade.message_types_by_name["ChatRequest"] is smg_pb2.ChatRequest.DESCRIPTOR
    with pytest.raises(AttributeError, match="nothing"):
        _ = facade.nothing  # type: ignore[attr-defined]


def test_a_delta_of_text_costs_at_most_twelve_bytes_above_its_text() -> None:
    text = " gateway"
    delta = smg_pb2.ResponseDelta(output_index=9, content_index=1, text=text)
    for event in (
        smg_pb2.CompletionEvent(delta=smg_pb2.CompletionDelta(index=9, text=text)),
        smg_pb2.ChatEvent(delta=smg_pb2.ChatDelta(index=9, content=text)),
        smg_pb2.MessageEvent(delta=smg_pb2.MessageDelta(index=9, text=text)),
        smg_pb2.ResponseEvent(delta=delta, sequence_number=999),
    ):
        assert event.ByteSize() <= len(text) + 12


def test_json_stays_text() -> None:
    imports = {name for file in FILES for name in file.dependency}
    assert "google/protobuf/struct.proto" not in imports
    json_fields = [field for _, field in fields() if field.name.endswith("json")]
    assert {field.name for field in json_fields} >= {"parameters_json", "schema_json", "json"}
    assert all(field.type == FieldDescriptorProto.TYPE_STRING for field in json_fields)
    arguments = smg_pb2.ToolCall.DESCRIPTOR.fields_by_name["arguments"]
    assert arguments.type == FieldDescriptor.TYPE_STRING


def test_streams_are_start_delta_end_and_share_the_request_of_their_unary_rpc() -> None:
    checked: set[str] = set()
    for service, method in RPCS:
        event = {field.name: field for field in reply_of(method).field}
        if not method.server_streaming or "end" not in event:
            continue
        checked.add(method.name)
        assert {name: event[name].number for name in ("start", "delta", "end")} == {
            "start": 1,
            "delta": 2,
            "end": 3,
        }
        assert event["start"].type_name == event["end"].type_name
        unary = [
            other
            for owner, other in RPCS
            if owner == service
            and other.output_type == event["end"].type_name
            and other.input_type == method.input_type
            and not other.server_streaming
        ]
        assert len(unary) == 1 or method.name == "WatchResponse", method.name
    assert checked == {
        "StreamComplete",
        "StreamChat",
        "StreamMessage",
        "StreamResponse",
        "StreamTranscribe",
        "WatchResponse",
    }


def test_numbers_that_may_be_unknown_have_presence() -> None:
    bare = [
        f"{message}.{field.name}"
        for message, field in fields()
        if field.type in FIGURES
        and field.label != FieldDescriptorProto.LABEL_REPEATED
        and not field.HasField("oneof_index")
        and not ALWAYS_KNOWN & {field.name, f"{message}.{field.name}"}
    ]
    assert bare == []


def test_finish_reasons_are_texts_of_one_vocabulary() -> None:
    reasons = [(message, field) for message, field in fields() if field.name == "finish_reason"]
    assert len(reasons) >= 5
    assert all(field.type == FieldDescriptorProto.TYPE_STRING for _, field in reasons)
    others = {"stop_reason", "incomplete_reason", "done_reason"}
    assert [field.name for _, field in fields() if field.name in others] == []
    values = smg_pb2.FinishReason.DESCRIPTOR.values
    texts = {value.name.removeprefix("FINISH_REASON_").lower() for value in values}
    assert texts >= {"stop", "length", "tool_calls"}


def test_each_error_reason_names_its_one_status_code() -> None:
    result: dict[str, str] = {}
    for symbol in SYMBOLS:
        if symbol.kind == "value" and symbol.name.startswith("smg.v1.ErrorReason."):
            name = symbol.name.rpartition(".ERROR_REASON_")[2]
            code = re.match(r"([A-Z_]+)\.", symbol.comment)
            result[name] = code[1] if code else ""
    table = {reason: code.name for reason, code in errors.CODES.items()}
    assert table == {reason: code for reason, code in result.items() if code}
    assert {reason for reason, code in result.items() if not code} == {
        "UNSPECIFIED",
        "MCP_TOOL_FAILED",
    }


def test_no_message_only_wraps_a_list() -> None:
    used = {field.type_name.rpartition(".")[2] for _, field in fields()}
    wrappers = {
        name
        for name, message in MESSAGES.items()
        if name in used
        and len(message.field) == 1
        and message.field[0].label == FieldDescriptorProto.LABEL_REPEATED
    }
    assert wrappers == LISTS_OF_LISTS


def test_no_type_has_a_generic_name() -> None:
    names = set(MESSAGES) | {enum.name for file in FILES for enum in file.enum_type}
    assert not names & {"Message", "Block", "Item", "Items", "Error", "Status", "Request", "Any"}


def test_lists_are_paged() -> None:
    lists = [(service, method) for service, method in RPCS if method.name.startswith("List")]
    assert len(lists) >= 5
    for _, method in lists:
        sent = MESSAGES[method.input_type.removeprefix(".smg.v1.")]
        shape = {field.name: field.type for field in sent.field}
        assert shape["page_size"] == FieldDescriptorProto.TYPE_INT32, method.name
        assert shape["page_token"] == FieldDescriptorProto.TYPE_STRING, method.name
        assert "next_page_token" in {field.name for field in reply_of(method).field}, method.name


def test_every_rpc_says_whether_it_may_be_retried() -> None:
    silent = [method.name for _, method in RPCS if not method.options.HasField("idempotency_level")]
    assert silent == []
    read_only = [
        method.name
        for _, method in RPCS
        if method.name.startswith(("Get", "List", "Count", "Watch", "Tokenize", "Detokenize"))
        and method.options.idempotency_level != method.options.NO_SIDE_EFFECTS
    ]
    assert read_only == []


def test_secrets_are_marked() -> None:
    secrets = {
        f"{message}.{field.name}": field.options.debug_redact
        for message, field in fields()
        if field.name in SECRETS
    }
    assert len(secrets) >= 5
    assert all(secrets.values()), secrets
    # A key by which requests are told apart is no secret.
    marked = {field.name for _, field in fields() if field.options.debug_redact}
    assert marked == SECRETS


@pytest.mark.parametrize("name", sorted(EXTRA_BODY))
def test_requests_can_carry_unknown_parameters(name: str) -> None:
    by_name = {field.name: field.number for field in MESSAGES[name].field}
    assert by_name["extra_body_json"] == 20


def test_replies_have_usage_report_and_unknown_members_at_the_same_numbers() -> None:
    checked = 0
    for service, method in RPCS:
        sent = method.input_type.removeprefix(".smg.v1.")
        if sent in EXTRA_BODY and not method.server_streaming and "Count" not in method.name:
            checked += 1
            by_name = {field.name: field.number for field in reply_of(method).field}
            assert by_name["usage"] == 5, (service, method.name)
            assert by_name["pipeline"] == 15, (service, method.name)
            assert by_name["extra_json"] == 16, (service, method.name)
    assert checked == len(EXTRA_BODY)


def versions_in(symbol: Symbol) -> list[str]:
    """Version numbers in a comment, other than an example in quotes."""
    return re.findall(r'(?<!["\d.])\d+\.\d+\.\d+(?!["\d.])', symbol.comment)


def test_no_comment_describes_one_release_of_a_gateway() -> None:
    gossip = {symbol.name: versions_in(symbol) for symbol in SYMBOLS if versions_in(symbol)}
    assert {name: found for name, found in gossip.items() if found != ["127.0.0"]} == {}


def test_every_content_can_hold_unknown_kinds() -> None:
    for name in ("ContentPart", "MessageBlock", "ResponseItem"):
        by_name = {field.name: field for field in MESSAGES[name].field}
        assert by_name["opaque"].type_name == ".smg.v1.Opaque"
        assert by_name["opaque"].HasField("oneof_index")


def test_the_rules_of_the_package_open_its_reference_page() -> None:
    page = (ROOT / "docs/reference/smg.v1.md").read_text(encoding="utf-8")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings[0] == "## smg/v1/gateway.proto"
