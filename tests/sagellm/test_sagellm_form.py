"""The exact form of messages and errors: presence, JSON text, places, warnings."""

from typing import Any

import pytest
from pydantic import ValidationError

from smg_proto import sagellm_pb2 as pb
from smg_proto.sagellm import (
    ChatMessage,
    Metrics,
    Request,
    SamplingParams,
    Timestamps,
    UnknownWarning,
)

REQUEST: dict[str, Any] = {
    "request_id": "r", "trace_id": "t", "model": "m", "prompt": "p", "max_tokens": 8,
    "stream": False,
}  # fmt: skip
ZERO: dict[str, Any] = {
    "ttft_ms": 0, "tbt_ms": 0, "tpot_ms": 0, "throughput_tps": 0, "peak_mem_mb": 0,
    "error_rate": 0, "kv_used_tokens": 0, "kv_used_bytes": 0, "prefix_hit_rate": 0,
    "evict_count": 0, "evict_ms": 0, "spec_accept_rate": 0,
}  # fmt: skip


def test_an_empty_list_is_not_an_absent_one() -> None:
    none, empty = Metrics(**ZERO), Metrics(**ZERO, component_trace=[])
    assert not none.to_proto().HasField("component_trace")
    assert empty.to_proto().HasField("component_trace")
    assert Metrics.from_proto(none.to_proto()) == none != empty
    assert Metrics.from_proto(empty.to_proto()) == empty
    stops = SamplingParams(stop_sequences=[])
    assert SamplingParams.from_proto(stops.to_proto()).stop_sequences == []
    said = Request(**REQUEST, messages=[])
    assert said.to_proto().HasField("messages") and Request.from_proto(said.to_proto()) == said


def test_a_message_of_zeros_is_not_an_absent_one() -> None:
    times = Timestamps(queued_at=0, scheduled_at=0, executed_at=0, completed_at=0)
    metrics = Metrics(**ZERO, timestamps=times)
    assert metrics.to_proto().HasField("timestamps")
    assert Metrics.from_proto(metrics.to_proto()).timestamps == times


def test_json_in_a_message_is_short_and_readable() -> None:
    request = Request(**REQUEST, metadata={"é": [1, "ü"]})
    message = request.to_proto()
    texts = [value for _, value in message.ListFields() if isinstance(value, str)]
    assert '{"é":[1,"ü"]}' in texts
    assert Request.from_proto(message) == request


def test_a_warning_names_the_line_that_read_the_message() -> None:
    message = Request(**REQUEST).to_proto()
    message.MergeFromString(pb.Request().SerializeToString() + b"\xfa\x3f\x01x")  # field 1023
    with pytest.warns(UnknownWarning) as seen:
        Request.from_proto(message)
    (warning,) = seen
    assert warning.filename == __file__
    with pytest.warns(UnknownWarning):
        Request.from_proto(message, warn=True)


@pytest.mark.filterwarnings("error")
def test_a_server_does_not_warn() -> None:
    message = Request(**REQUEST).to_proto()
    message.MergeFromString(b"\xfa\x3f\x01x")
    assert Request.from_proto(message, warn=False).unknown()


def test_strict_json_is_not_converted() -> None:
    loose, strict = '{"role": "user", "content": "x", "name": null}', '{"role": "user"}'
    assert ChatMessage.model_validate_json(loose, strict=True).content == "x"
    for text in (strict, '{"role": "user", "content": 5}'):
        with pytest.raises(ValidationError):
            ChatMessage.model_validate_json(text)
    converted = Request.model_validate_json('{"max_tokens": "8"}'.replace("{", "{" + REST, 1))
    assert converted.max_tokens == 8
    with pytest.raises(ValidationError, match="max_tokens"):
        Request.model_validate_json('{"max_tokens": "8"}'.replace("{", "{" + REST, 1), strict=True)


REST = '"request_id": "r", "trace_id": "t", "model": "m", "prompt": "p", "stream": false, '


def test_a_contradiction_is_reported_without_input() -> None:
    message = Request(**REQUEST, world_size=2, rank=5)
    with pytest.raises(ValidationError) as caught:
        message.check()
    assert "input_value" not in str(caught.value)
    assert [error["input"] for error in caught.value.errors()] == [None] * len(
        caught.value.errors()
    )
