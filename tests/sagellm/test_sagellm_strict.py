"""Validation: pydantic's errors with field and bound, and what strict adds. Versions, presets."""

import json
import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError, ValidationInfo, field_validator

import smg_proto.sagellm
from smg_proto.sagellm import (
    DEFAULT_SAMPLING_PARAMS,
    PROTOCOL_VERSION,
    ChatMessage,
    DecodingStrategy,
    Error,
    Metrics,
    ProtocolVersion,
    Request,
    Response,
    SamplingParams,
    SamplingPreset,
    StreamEvent,
    Timestamps,
    get_interface_since_version,
    is_interface_frozen,
    negotiate_version,
)

REQUEST: dict[str, Any] = {"request_id": "r", "trace_id": "t", "prompt": "p", "max_tokens": 8}
METRICS: dict[str, Any] = {
    "ttft_ms": 1.0,
    "throughput_tps": 1.0,
    "peak_mem_mb": 1,
    "error_rate": 0.0,
}
RESPONSE: dict[str, Any] = {
    "request_id": "r",
    "trace_id": "t",
    "output_text": "x",
    "output_tokens": [1],
    "finish_reason": "stop",
}


def test_an_error_names_the_field_and_the_bound_and_not_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Request.model_validate(REQUEST | {"prompt": ["a secret"], "temperature": 2.5})
    text = str(caught.value)
    assert re.search(r"temperature\n\s+Input should be less than or equal to 2 ", text)
    assert "prompt" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"prompt": ""}, ("prompt",), "messages"),
        ({"prompt": "", "messages": []}, ("prompt",), "messages"),
        ({"rank": 2, "world_size": 2}, ("rank",), "below world_size, which is 2"),
        ({"tp_rank": 3, "tp_size": 2}, ("tp_rank",), "below tp_size"),
        ({"pp_rank": 3, "pp_size": 2}, ("pp_rank",), "below pp_size"),
        (
            {"sampling_params": {"strategy": "sampling", "temperature": 0}},
            ("sampling_params", "temperature"),
            "at least 1e-05",
        ),
        (
            {"sampling_params": {"length_penalty": float("inf")}},
            ("sampling_params", "length_penalty"),
            "finite",
        ),
        ({"max_tokens": "8"}, ("max_tokens",), "valid integer"),
    ],
)
def test_strict_rejects_a_request_that_the_protocol_accepts(
    changes: dict[str, Any], place: tuple[str, ...], words: str
) -> None:
    given = REQUEST | changes
    lax = Request.model_validate(given)
    with pytest.raises(ValidationError) as caught:
        Request.model_validate(given, strict=True)
    (error,) = caught.value.errors()
    assert error["loc"] == place
    assert words in error["msg"]
    if place != ("max_tokens",):  # conversion is over by then
        with pytest.raises(ValidationError):
            lax.check()
        with pytest.raises(ValidationError):
            Request.from_proto(lax.to_proto(), strict=True)


def test_strict_reports_all_contradictions_at_once_with_their_fields() -> None:
    stamps = Timestamps(queued_at=4.0, scheduled_at=3.0, executed_at=2.0, completed_at=2.0)
    metrics = Metrics(**METRICS, itl_list=[1.0, float("nan")], timestamps=stamps)
    metrics.ttft_ms = float("inf")
    with pytest.raises(ValidationError) as caught:
        Response(**RESPONSE, metrics=metrics).check()
    assert [error["loc"] for error in caught.value.errors()] == [
        ("metrics", "ttft_ms"),
        ("metrics", "itl_list", 1),
        ("metrics", "timestamps", "scheduled_at"),
        ("metrics", "timestamps", "executed_at"),
    ]


def test_strict_accepts_valid_requests_from_python_and_json() -> None:
    given = RESPONSE | {"metrics": METRICS, "error": {"code": "unavailable", "message": "m"}}
    model = Response.model_validate(given, strict=True)
    assert Response.model_validate_json(model.model_dump_json(), strict=True) == model
    assert Response.from_proto(model.to_proto(), strict=True) == model
    assert Request(**REQUEST, rank=1, world_size=2).check().rank == 1
    with pytest.raises(ValidationError, match=r"code"):
        Error.model_validate_json('{"code": "UNAVAILABLE", "message": "m"}', strict=True)


@pytest.mark.parametrize(
    ("assign", "words"),
    [
        ({"strategy": DecodingStrategy.SAMPLING, "temperature": 0.0}, "temperature"),
        ({"strategy": DecodingStrategy.BEAM_SEARCH, "beam_size": 1}, "beam_size"),
        ({"strategy": DecodingStrategy.CONTRASTIVE, "alpha": 1.1}, "alpha"),
        ({"strategy": DecodingStrategy.CONTRASTIVE, "penalty_alpha": -1.0}, "penalty_alpha"),
        ({"strategy": DecodingStrategy.SPECULATIVE, "n_speculative_tokens": 0}, "n_spec"),
    ],
)
def test_validate_strategy_params_rejects_a_contradicting_field(
    assign: dict[str, Any], words: str
) -> None:
    params = SamplingParams()
    params.validate_strategy_params()
    for name, value in assign.items():
        setattr(params, name, value)
    with pytest.raises(ValueError, match=words):
        params.validate_strategy_params()


@pytest.mark.parametrize(
    "given",
    [
        {"strategy": DecodingStrategy.SAMPLING, "temperature": 1e-5},
        {"strategy": DecodingStrategy.BEAM_SEARCH, "beam_size": 2},
        {"strategy": DecodingStrategy.CONTRASTIVE, "alpha": 0.0, "penalty_alpha": 0.0},
        {"strategy": DecodingStrategy.CONTRASTIVE, "alpha": 1.0},
        {"strategy": DecodingStrategy.SPECULATIVE, "n_speculative_tokens": 1},
        {"strategy": DecodingStrategy.GREEDY, "beam_size": 1},
    ],
)
def test_the_limits_of_a_strategy_are_valid(given: dict[str, Any]) -> None:
    SamplingParams(**given).validate_strategy_params()


@pytest.mark.parametrize(
    ("temperature", "strategy"),
    [(0.0, "greedy"), (9e-6, "greedy"), (1e-5, "sampling"), (1.0, "sampling")],
)
def test_the_temperature_decides_an_unset_strategy(temperature: float, strategy: str) -> None:
    assert SamplingParams(temperature=temperature).strategy == strategy


def test_options_of_pydantics_validation_are_supported() -> None:
    class Marked(ChatMessage):
        @field_validator("content")
        @classmethod
        def _mark(cls, value: str, info: ValidationInfo) -> str:
            return f"{value}{info.context}"

    given = {"role": "user", "content": "a"}
    assert Marked.model_validate(given, context="!").content == "a!"
    assert Marked.model_validate_json(json.dumps(given), context="!").content == "a!"


@pytest.mark.parametrize(
    ("kind", "problem"),
    [({}, "union_tag_not_found"), ({"event": "begin"}, "union_tag_invalid")],
)
def test_an_event_is_told_by_its_kind_alone(kind: dict[str, str], problem: str) -> None:
    given = {"request_id": "r", "trace_id": "t", "engine_id": "e"} | kind
    with pytest.raises(ValidationError) as caught:
        TypeAdapter[Any](StreamEvent).validate_python(given)
    (error,) = caught.value.errors()  # not one for each field of each kind
    assert error["type"] == problem


LONE = "half of a pair: \ud83d"


@pytest.mark.parametrize(
    ("model", "given", "field"),
    [
        ("Request", REQUEST | {"prompt": LONE}, "prompt"),
        ("Request", REQUEST | {"metadata": {"a": [{"b": LONE}]}}, "metadata"),
        ("Request", REQUEST | {"metadata": {LONE: 1}}, "metadata"),
        ("ChatMessage", {"role": "user", "content": LONE}, "content"),
        ("SamplingParams", {"stop_sequences": ["\n", LONE]}, "stop_sequences"),
        ("CompletionRequest", {"model": "m", "prompt": "p", "stop": LONE}, "stop"),
        ("CompletionRequest", {"model": "m", "prompt": "p", "stop": [LONE]}, "stop"),
        ("EmbeddingRequest", {"model": "m", "input": ["é", LONE]}, "input"),
        ("ModelInfo", {"id": LONE}, "id"),
        ("OpenAIError", {"message": LONE, "type": "t"}, "message"),
    ],
)
def test_text_that_json_cannot_carry_is_rejected_with_the_field(
    model: str, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match="lone surrogate") as caught:
        getattr(smg_proto.sagellm, model).model_validate(given)
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]
    assert "half" not in str(caught.value)


def test_text_of_every_plane_and_cyclic_objects_are_accepted() -> None:
    metadata: dict[str, Any] = {"a": "é漢\U0001f600"}
    made = Request(**REQUEST, metadata=metadata)
    assert Request.model_validate_json(made.model_dump_json()) == made
    metadata["self"] = metadata
    assert Request(**REQUEST, metadata=metadata).metadata is not None


def test_presets_do_not_share_parameters() -> None:
    expected: dict[SamplingPreset, dict[str, Any]] = {
        SamplingPreset.DETERMINISTIC: {"strategy": "greedy", "temperature": 0.0},
        SamplingPreset.BALANCED: {"strategy": "sampling", "temperature": 0.7, "top_p": 0.9},
        SamplingPreset.CREATIVE: {"strategy": "sampling", "temperature": 1.2, "top_p": 0.95},
        SamplingPreset.PRECISE: {"strategy": "beam_search", "beam_size": 4, "length_penalty": 1.2},
    }
    for preset in SamplingPreset:
        params = SamplingPreset.get_params(preset)
        assert params == SamplingParams(**expected[preset]).check()
        assert params is not SamplingPreset.get_params(preset)
    assert DEFAULT_SAMPLING_PARAMS.strategy is DecodingStrategy.GREEDY


def test_versions_are_ordered_and_compatible_upwards() -> None:
    old, new = ProtocolVersion.parse("0.1"), ProtocolVersion.parse(" 0.2 ")
    assert old < new
    assert (str(new), new) == ("0.2", ProtocolVersion(0, 2))
    assert new.is_compatible_with(old)
    assert not old.is_compatible_with(new)
    assert not ProtocolVersion(1, 0).is_compatible_with(old)
    assert str(negotiate_version("0.0")) == PROTOCOL_VERSION


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("0.2", r"incompatible protocol version 0\.2: this server has 0\.1"),
        ("1.0", r"same major version"),
        ("0.1.5", r"invalid protocol version '0\.1\.5': use MAJOR\.MINOR"),
        ("", r"invalid protocol version ''"),
    ],
)
def test_an_unsupported_version_is_rejected_with_the_reason(sent: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        negotiate_version(sent)


def test_frozen_names_that_this_package_has_are_here() -> None:
    frozen = {name for name in smg_proto.sagellm.__all__ if is_interface_frozen(name)}
    assert len(frozen) == 17
    assert is_interface_frozen("QuantizationConfig")
    assert get_interface_since_version("Request") == "0.1"
    assert get_interface_since_version("SamplingParams") is None
