"""The rules that hold over all of smg.v1, read from its descriptors."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from smg_proto import descriptor_set, smg_pb2
from smg_proto.v1 import chat_pb2

GENERATION = ("CompletionRequest", "ChatRequest", "CreateMessageRequest", "CreateResponseRequest")


def test_shared_fields_of_generation_requests_have_one_number_and_type() -> None:
    seen: dict[str, tuple[object, ...]] = {}
    numbers: dict[int, set[str]] = {}
    shared = 0
    for name in GENERATION:
        descriptor = smg_pb2.DESCRIPTOR.message_types_by_name[name]
        for field in descriptor.fields:
            of = field.message_type or field.enum_type
            shape = (field.number, field.type, of.full_name if of else "", field.has_presence)
            shared += field.name in seen
            assert seen.setdefault(field.name, shape) == shape, f"{name}.{field.name}"
            numbers.setdefault(field.number, set()).add(field.name)
    assert shared > 30
    inputs = {2, 16}  # what is asked differs by API; all else that is shared has its number alone
    for number, names in numbers.items():
        assert len(names) == 1 or number in inputs or number >= 30, (number, names)


def test_the_facade_answers_what_the_descriptor_of_a_file_does() -> None:
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


def test_a_delta_of_text_costs_at_most_eight_bytes_above_its_text() -> None:
    text = " gateway"
    for event in (
        smg_pb2.CompletionEvent(delta=smg_pb2.CompletionDelta(text=text)),
        smg_pb2.ChatEvent(delta=smg_pb2.ChatDelta(index=9, content=text)),
        smg_pb2.MessageEvent(delta=smg_pb2.MessageDelta(index=9, text=text)),
        smg_pb2.ResponseEvent(delta=smg_pb2.ResponseDelta(output_index=9, text=text)),
    ):
        assert event.ByteSize() <= len(text) + 8


def test_json_stays_text() -> None:
    files = [file for file in descriptor_set().file if file.package == "smg.v1"]
    imports = {name for file in files for name in file.dependency}
    assert "google/protobuf/struct.proto" not in imports
    fields = [field for file in files for message in file.message_type for field in message.field]
    json_fields = [field for field in fields if field.name.endswith("_json")]
    assert {field.name for field in json_fields} >= {"parameters_json", "schema_json"}
    assert all(field.type == FieldDescriptorProto.TYPE_STRING for field in json_fields)
    arguments = smg_pb2.ToolCall.DESCRIPTOR.fields_by_name["arguments"]
    assert arguments.type == FieldDescriptor.TYPE_STRING


def test_streams_are_start_delta_end_and_share_the_request_of_their_unary_rpc() -> None:
    checked = 0
    for service in smg_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            if not method.server_streaming:
                continue
            checked += 1
            event = {field.name: field for field in method.output_type.fields}
            assert {name: event[name].number for name in ("start", "delta", "end")} == {
                "start": 1,
                "delta": 2,
                "end": 3,
            }
            unary = next(
                other
                for other in service.methods
                if other.output_type == event["end"].message_type and not other.server_streaming
            )
            assert unary.input_type == method.input_type
            assert event["start"].message_type == event["end"].message_type
    assert checked == len(GENERATION)
