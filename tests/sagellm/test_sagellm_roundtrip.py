"""Models, bytes and JSON turn into each other without loss; also what only a newer peer knows."""

import copy
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sagellm_judge import floats
from sagellm_models import WIRE, models

import smg_proto.sagellm
from smg_proto import sagellm_pb2 as pb
from smg_proto.sagellm import (
    ChatMessage,
    Error,
    ErrorCode,
    KVAllocateParams,
    Metrics,
    Request,
    Response,
    SamplingParams,
    StreamEvent,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
    StreamEventUnknown,
    Unknown,
    UnknownWarning,
    WireError,
    stream_event_from_proto,
)

CASES = json.loads(Path(__file__).with_name("protocol_cases.json").read_text(encoding="utf-8"))
QUICK = settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
METRICS = Metrics(ttft_ms=1.5, throughput_tps=80.0, peak_mem_mb=3, error_rate=0.0)
END = StreamEventEnd(
    request_id="r",
    trace_id="t",
    engine_id="e",
    content="Hi",
    output_tokens=[42, -1],
    finish_reason="stop",
    metrics=METRICS,
    error=Error(code=ErrorCode.UNAVAILABLE, message="m"),
)


@pytest.mark.parametrize("name", WIRE)
@QUICK
@given(data=st.data())
def test_a_model_is_the_same_after_proto_and_bytes(name: str, data: st.DataObject) -> None:
    model = data.draw(models(WIRE[name]))
    sent = model.to_proto()
    got = getattr(pb, sent.DESCRIPTOR.name).FromString(sent.SerializeToString())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWarning)
        back = WIRE[name].from_proto(got)
    assert back == model
    assert back.to_proto() == sent


@pytest.mark.parametrize("name", WIRE)
@QUICK
@given(data=st.data())
def test_a_model_is_the_same_after_json(name: str, data: st.DataObject) -> None:
    model = data.draw(models(WIRE[name], finite=True))
    assert WIRE[name].model_validate_json(model.model_dump_json()) == model


@pytest.mark.parametrize("case", [c for c in CASES if c["accepted"]], ids=lambda c: str(c["why"]))
def test_every_accepted_case_can_be_converted(case: dict[str, Any]) -> None:
    kind = getattr(smg_proto.sagellm, case["model"])
    if case["model"] not in WIRE and case["model"] != "StreamEvent":
        assert not hasattr(pb, case["model"])
        return
    try:
        model: Any = TypeAdapter(kind).validate_python(floats(case["input"]))
    except ValidationError:
        assert case["version"] == "0.1.1.0"  # it dropped what the newer one checks
        return
    assert WIRE[type(model).__name__].from_proto(model.to_proto()) == model


def test_presence_distinguishes_unset_from_zero_and_empty() -> None:
    bare = Request(request_id="r", trace_id="t", max_tokens=1)
    zero = bare.model_copy(update={"temperature": 0.0, "messages": [], "metadata": {}, "rank": 0})
    assert Request.from_proto(bare.to_proto()) == bare
    assert Request.from_proto(zero.to_proto()) == zero != bare
    assert {"temperature", "messages", "metadata_json", "rank"} == {
        field.name for field, _ in zero.to_proto().ListFields()
    } - {field.name for field, _ in bare.to_proto().ListFields()}


def test_json_objects_keep_order_and_integers() -> None:
    request = Request(
        request_id="r", trace_id="t", max_tokens=1, metadata={"z": 3, "a": 3.0, "big": 2**70}
    )
    text = request.to_proto().metadata_json
    assert text == '{"z":3,"a":3.0,"big":1180591620717411303424}'
    back = Request.from_proto(request.to_proto()).metadata
    assert back is not None
    assert [(key, type(value)) for key, value in back.items()] == [
        ("z", int),
        ("a", float),
        ("big", int),
    ]


def test_an_event_is_one_message_whatever_its_kind() -> None:
    ids: Any = {"request_id": "r", "trace_id": "t", "engine_id": "e"}
    delta = StreamEventDelta(**ids, content="x", content_tokens=[])
    for event in (StreamEventStart(**ids), delta, END):
        message = event.to_proto()
        assert message.WhichOneof("event") == event.event
        assert message.engine_id == "e"
        assert stream_event_from_proto(message) == event
        assert TypeAdapter(StreamEvent).validate_json(event.model_dump_json()) == event


# What a newer peer sends


def test_an_unknown_enum_number_is_kept_and_reported_by_name() -> None:
    message = END.to_proto()
    message.end.error.code = 77  # type: ignore[assignment]
    message.end.finish_reason = 9  # type: ignore[assignment]
    with pytest.warns(
        UnknownWarning, match=r"StreamEventEnd\.finish_reason: value 9; error: Error"
    ):
        event = stream_event_from_proto(message)
    assert isinstance(event, StreamEventEnd)
    assert event.error is not None
    assert event.error.code == Unknown(77) == "unknown_77"
    assert (event.error.code.value, event.error.code.name) == ("unknown_77", "UNKNOWN_77")
    assert event.unknown() == [
        "StreamEventEnd.finish_reason: value 9",
        "error: Error.code: value 77",
    ]
    assert event.to_proto() == message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert StreamEventEnd.model_validate(event.model_dump()) == event
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event


def test_an_unknown_kind_of_event_is_kept_and_reported_by_name() -> None:
    newer = pb.StreamEvent(request_id="r", trace_id="t", engine_id="e").SerializeToString()
    newer += bytes([15 << 3 | 2, 3]) + b"abc"  # field 15, a message or text of three bytes
    with pytest.warns(UnknownWarning, match=r"field 15 of sagellm\.v1\.StreamEvent"):
        event = stream_event_from_proto(pb.StreamEvent.FromString(newer))
    assert isinstance(event, StreamEventUnknown)
    assert (event.event, event.event.number, event.request_id) == ("unknown_15", 15, "r")
    assert event.to_proto().SerializeToString() == newer
    assert '"event":"unknown_15"' in event.model_dump_json()
    assert type(event.model_dump()["event"]) is Unknown
    schema = StreamEventUnknown.model_json_schema(mode="serialization")
    assert schema["properties"]["event"]["type"] == "string"
    schema = StreamEventUnknown.model_json_schema()
    assert schema["properties"]["event"]["not"] == {}  # no JSON can become one


def test_unknown_fields_are_kept_at_every_depth() -> None:
    added = bytes([60 << 3 & 0x7F | 0x80, 60 >> 4, 7])  # field 60, varint 7
    message = END.to_proto()
    message.MergeFromString(added)
    message.end.MergeFromString(added)
    message.end.metrics.MergeFromString(added)
    with pytest.warns(UnknownWarning):
        event = stream_event_from_proto(message)
    assert event.unknown() == [
        "field 60 of sagellm.v1.StreamEvent",
        "field 60 of sagellm.v1.StreamEventEnd",
        "metrics: field 60 of sagellm.v1.Metrics",
    ]
    assert event.to_proto().SerializeToString() == message.SerializeToString()

    turn = pb.ChatMessage(role=pb.ROLE_USER, content="x")
    turn.MergeFromString(added)
    request = pb.Request(max_tokens=1, messages=pb.ChatMessageList(items=[turn]))
    with pytest.warns(UnknownWarning, match=r"messages\.0: field 60"):
        back = Request.from_proto(request)
    assert back.to_proto() == request


@pytest.mark.parametrize("text", ["unknown_77", "unknown_2", "unknown_99999999999"])
@pytest.mark.parametrize("strict", [False, True])
def test_the_text_of_an_unknown_value_is_not_a_value(text: str, strict: bool) -> None:
    turn, error = {"role": text, "content": "c"}, {"code": text, "message": "m"}
    for kind, values in ((ChatMessage, turn), (Error, error)):
        with pytest.raises(ValidationError, match=r"code|role"):
            kind.model_validate(values, strict=strict)
        with pytest.raises(ValidationError, match=r"code|role"):
            kind.model_validate_json(json.dumps(values), strict=strict)


def test_an_unknown_value_must_fit_the_wire_and_differ_from_all_members() -> None:
    for number in (0, 2**31, -(2**31) - 1, 99999999999):
        with pytest.raises(ValueError, match="32 bits"):
            Unknown(number)
    with pytest.raises(WireError, match=r"Error\.code.*a member, or Unknown"):
        Error(code=Unknown(2), message="m").to_proto()
    assert Error(code=Unknown(77), message="m").to_proto().code == 77


@pytest.mark.parametrize("kind", ["start", "delta", "end", None])
def test_a_server_is_not_warned(kind: str | None) -> None:
    """Nor does it lose what it does not know."""
    message = END.to_proto()
    message.ClearField("end")
    if kind == "end":
        message.end.CopyFrom(END.to_proto().end)
    elif kind:
        getattr(message, kind).SetInParent()
    message.MergeFromString(bytes([15 << 3 | 2, 0]))  # field 15, an empty message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        event = stream_event_from_proto(message, warn=False)
    assert event.unknown()[0] == "field 15 of sagellm.v1.StreamEvent"
    assert event.to_proto() == message


def test_a_strict_reader_rejects_figures_that_are_not_finite() -> None:
    message = END.to_proto()
    message.end.metrics.ttft_ms = float("inf")
    assert stream_event_from_proto(message).to_proto() == message
    with pytest.raises(ValidationError, match="finite"):
        stream_event_from_proto(message, strict=True)


def test_nothing_is_reported_for_a_peer_of_the_same_release() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stream_event_from_proto(END.to_proto()).unknown() == []


def test_json_schemas_of_what_is_read_and_written_have_the_values() -> None:
    """Only what is written can be a value of a newer peer."""
    roles = ["system", "user", "assistant", "function", "tool"]
    read = ChatMessage.model_json_schema()["properties"]["role"]
    assert read == {"enum": roles, "title": "Role", "type": "string"}
    written = ChatMessage.model_json_schema(mode="serialization")["properties"]["role"]
    known, unknown = written["anyOf"]
    assert (known["enum"], unknown["type"]) == (roles, "string")
    for number in (77, -5):
        assert re.search(unknown["pattern"], Unknown(number).value)
    assert not re.search(unknown["pattern"], "user")
    code = Error.model_json_schema(mode="serialization")["properties"]["code"]
    assert code["anyOf"][0] == {"$ref": "#/$defs/ErrorCode"}


# What cannot be carried, and what must not be read


def test_a_message_is_validated_and_the_error_names_the_field() -> None:
    message = Response(
        request_id="r",
        trace_id="t",
        output_text="a secret",
        output_tokens=[],
        finish_reason="stop",
        metrics=METRICS,
    ).to_proto()
    message.metrics.error_rate = 1.5
    message.metrics.ClearField("ttft_ms")
    message.ClearField("finish_reason")
    with pytest.raises(ValidationError) as caught:
        Response.from_proto(message)
    assert {error["loc"]: error["type"] for error in caught.value.errors()} == {
        ("finish_reason",): "missing",
        ("metrics", "ttft_ms"): "missing",
        ("metrics", "error_rate"): "less_than_equal",
    }
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_tokens": 2**63}, r"Request\.max_tokens.*int64"),
        ({"metadata": {"a": float("nan")}}, r"Request\.metadata.*JSON"),
        ({"metadata": {"a": object()}}, r"Request\.metadata.*JSON"),
        ({"prompt": "\ud800"}, r"Request\.prompt.*UTF-8"),
        ({"temperature": "0"}, r"Request\.temperature.*double"),
        ({"stream": "no"}, r"Request\.stream.*bool"),
        ({"sampling_params": SamplingParams(seed=2**63)}, r"^SamplingParams\.seed.*int64"),
    ],
)
def test_values_that_the_wire_cannot_carry_are_rejected_by_name(
    changes: dict[str, Any], words: str
) -> None:
    request = Request(request_id="r", trace_id="t", max_tokens=1).model_copy(update=changes)
    with pytest.raises(WireError, match=words):
        request.to_proto()


@pytest.mark.parametrize("text", ["{", "nope", '{"a": NaN}', "[" * 100_000])
def test_metadata_that_is_not_json_is_rejected(text: str) -> None:
    with pytest.raises(WireError, match=r"sagellm\.v1\.Request\.metadata_json: not a JSON object"):
        Request.from_proto(pb.Request(max_tokens=1, metadata_json=text))


def test_metadata_that_is_not_an_object_is_rejected() -> None:
    with pytest.raises(ValidationError, match="metadata"):
        Request.from_proto(pb.Request(max_tokens=1, metadata_json="[1]"))


def test_an_event_without_a_kind_or_of_another_kind_is_rejected() -> None:
    with pytest.raises(WireError, match="has no event"):
        stream_event_from_proto(pb.StreamEvent(request_id="r"))
    with pytest.raises(WireError, match=r"StreamEventStart.*has end"):
        StreamEventStart.from_proto(END.to_proto())


def test_a_message_of_another_type_is_rejected() -> None:
    with pytest.raises(TypeError, match=r"takes a sagellm\.v1\.KVAllocateParams"):
        KVAllocateParams.from_proto(pb.KVHandle())  # type: ignore[arg-type]
