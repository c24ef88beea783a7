"""Requests of sageLLM as requests of vLLM and of the gateway, and back."""

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sagellm_models import models

from smg_proto import smg_pb2 as smg
from smg_proto import vllm_engine_pb2 as vllm
from smg_proto.sagellm import (
    BridgeError,
    ChatMessage,
    DecodingStrategy,
    Request,
    SamplingParams,
    Unknown,
    completion_metadata,
    create_arguments,
    from_completion_request,
    from_generate_request,
    to_completion_request,
    to_generate_request,
)

REQUEST = Request(request_id="r", trace_id="t", model="m", prompt="Once", max_tokens=8, stream=True)
PARAMS = SamplingParams(
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    repetition_penalty=1.1,
    presence_penalty=-0.5,
    frequency_penalty=0.25,
    stop_sequences=["\n", "END"],
    seed=0,
    skip_special_tokens=False,
)
DROPPED = [
    "kv_budget_tokens",
    "metadata",
    "phase",
    "rank",
    "world_size",
    "group_id",
    "tp_rank",
    "pp_rank",
    "tp_size",
    "pp_size",
]
# What another value wins over, or only another strategy reads: name in drop to a value.
LOST: dict[str, Any] = {
    "messages": [ChatMessage(role="system", content="a secret")],
    "temperature": 0.1,
    "top_p": 0.2,
    "sampling_params.max_tokens": 3,
    "sampling_params.beam_size": 2,
    "sampling_params.length_penalty": 2.0,
    "sampling_params.early_stopping": False,
    "sampling_params.alpha": 0.1,
    "sampling_params.penalty_alpha": 0.1,
    "sampling_params.n_speculative_tokens": 2,
}
BRIDGES = [to_generate_request, to_completion_request]


def _with(**changes: Any) -> Request:
    return REQUEST.model_copy(update=changes)


# vLLM


def test_a_bare_request_uses_the_defaults_of_vllm_except_for_its_pitfalls() -> None:
    assert to_generate_request(REQUEST) == vllm.GenerateRequest(
        request_id="r",
        text="Once",
        stream=True,
        sampling_params=vllm.SamplingParams(
            max_tokens=8,
            top_p=1.0,
            repetition_penalty=1.0,
            skip_special_tokens=True,
            spaces_between_special_tokens=True,
        ),
    )


def test_a_request_without_sampling_params_sends_its_two_settings() -> None:
    params = to_generate_request(_with(temperature=0.0, top_p=0.5)).sampling_params
    assert (params.HasField("temperature"), params.temperature, params.top_p) == (True, 0, 0.5)


def test_all_sampling_params_are_sent_to_vllm() -> None:
    message = to_generate_request(_with(sampling_params=PARAMS))
    assert message.sampling_params == vllm.SamplingParams(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        max_tokens=8,
        stop=["\n", "END"],
        seed=0,
        spaces_between_special_tokens=True,
    )


def test_greedy_is_temperature_zero_and_no_limit_is_off() -> None:
    greedy = SamplingParams(strategy="greedy", temperature=0.7, top_k=-1)  # type: ignore[arg-type]
    params = to_generate_request(_with(sampling_params=greedy)).sampling_params
    assert (params.HasField("temperature"), params.temperature, params.top_k) == (True, 0.0, 0)


@pytest.mark.parametrize(("given", "sent"), [(1e-5, 1e-5), (9.9e-6, 0.0), (5e-85, 0.0)])
def test_sampling_below_the_bound_for_greedy_is_greedy(given: float, sent: float) -> None:
    params = SamplingParams(strategy=DecodingStrategy.SAMPLING, temperature=given)
    gateway = to_completion_request(_with(sampling_params=params))
    assert gateway.temperature == sent
    back = from_completion_request(gateway, request_id="r", trace_id="t")
    assert to_completion_request(back).temperature == sent


# Six digits, of which seven would make others; and nine.
@pytest.mark.parametrize("penalty", [0.7, 1.1, 0.00097666, 0.10636929422616959])
def test_numbers_of_32_bits_are_read_as_the_shortest_equal_ones(penalty: float) -> None:
    sampling = vllm.SamplingParams(presence_penalty=penalty, max_tokens=1)
    back = from_generate_request(vllm.GenerateRequest(text="x", sampling_params=sampling))
    assert back.sampling_params is not None
    assert back.sampling_params.presence_penalty == penalty


def test_a_request_is_read_back_from_vllm_with_the_original_numbers() -> None:
    sent = to_generate_request(_with(sampling_params=PARAMS))
    back = from_generate_request(sent, trace_id="t", model="m")
    assert back == _with(sampling_params=PARAMS)


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=SLOW)
@given(request=models(Request, finite=True), data=st.data())
def test_every_request_is_converted_or_rejected_by_name(
    request: Request, data: st.DataObject
) -> None:
    params = data.draw(st.none() | models(SamplingParams, finite=True))
    request = request.model_copy(update={"sampling_params": params, "model": "m", "prompt": "p"})
    try:
        engine = to_generate_request(request, drop=[*DROPPED, *LOST])
        gateway = to_completion_request(request, drop=[*DROPPED, *LOST])
    except BridgeError as error:
        assert any(word in str(error) for word in ("strategy", "too large", "too small"))
        return
    again = from_generate_request(engine, trace_id=request.trace_id, model="m")
    assert to_generate_request(again).sampling_params.max_tokens == request.max_tokens
    back = from_completion_request(
        gateway, request_id=request.request_id, trace_id=request.trace_id, stream=request.stream
    )
    assert to_completion_request(back) == gateway


@pytest.mark.parametrize("name", DROPPED)
@pytest.mark.parametrize("bridge", BRIDGES)
def test_unsupported_fields_are_rejected_by_name_unless_dropping_is_allowed(
    bridge: Any, name: str
) -> None:
    values: dict[str, Any] = {"metadata": {}, "phase": "decode", "group_id": "g"}
    value = values.get(name, 1)
    with pytest.raises(BridgeError, match=rf"Request\.{name} has no counterpart.*drop"):
        bridge(_with(**{name: value}))
    assert bridge(_with(**{name: value}), drop=[name]) == bridge(REQUEST)


@pytest.mark.parametrize("bridge", BRIDGES)
def test_messages_without_a_prompt_and_other_strategies_are_rejected(bridge: Any) -> None:
    turn = ChatMessage(role="user", content="a secret")
    with pytest.raises(BridgeError, match="render them") as caught:
        bridge(_with(prompt="", messages=[turn]))
    assert "secret" not in str(caught.value)
    with pytest.raises(BridgeError, match="render them"):
        bridge(_with(prompt="", messages=[turn]), drop=["messages"])
    assert bridge(_with(messages=[])) == bridge(REQUEST)
    for strategy in ("beam_search", "contrastive", "speculative", Unknown(9)):
        params = SamplingParams.model_validate({"strategy": strategy})
        with pytest.raises(BridgeError, match=f"strategy {strategy}"):
            bridge(_with(sampling_params=params))


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("strategy", ["greedy", "sampling"])
@pytest.mark.parametrize("bridge", BRIDGES)
def test_values_without_effect_are_rejected_by_name_unless_dropping_is_allowed(
    bridge: Any, strategy: str, name: str
) -> None:
    params = SamplingParams.model_validate({"strategy": strategy, "temperature": 0.7})
    below, _, field = name.rpartition(".")
    if below:
        changes = {"sampling_params": params.model_copy(update={field: LOST[name]})}
    else:
        changes = {"sampling_params": params, field: LOST[name]}
    with pytest.raises(BridgeError, match=rf"Request\.{re.escape(name)} .*drop") as caught:
        bridge(_with(**changes))
    assert "secret" not in str(caught.value)
    plain = bridge(_with(sampling_params=params))
    assert bridge(_with(**changes), drop=[name]) == plain


@pytest.mark.parametrize("bridge", BRIDGES)
def test_equal_duplicate_values_are_converted(bridge: Any) -> None:
    output = PARAMS.model_copy(update={"max_tokens": REQUEST.max_tokens})
    twice = _with(temperature=0.7, top_p=0.9, sampling_params=output)
    assert bridge(twice) == bridge(_with(sampling_params=PARAMS))
    greedy = SamplingParams.model_validate({"strategy": "greedy"})
    zero = _with(temperature=0.0, sampling_params=greedy)
    assert bridge(zero) == bridge(_with(sampling_params=greedy))


@pytest.mark.parametrize("bridge", BRIDGES)
def test_numbers_out_of_range_are_rejected_by_name(bridge: Any) -> None:
    with pytest.raises(BridgeError, match=r"max_tokens cannot hold this value: it is too large"):
        bridge(_with(max_tokens=2**40))
    endless = SamplingParams(repetition_penalty=float("inf"))
    with pytest.raises(BridgeError, match=r"\.repetition_penalty cannot hold .* too large"):
        bridge(_with(sampling_params=endless))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 2**40}, r"SamplingParams\.seed cannot hold this value: it is too large"),
        ({"repetition_penalty": 1e39}, r"\.repetition_penalty cannot hold this .* too large"),
        ({"top_p": 1e-50}, r"SamplingParams\.top_p cannot hold this value: it is too small"),
    ],
)
def test_numbers_that_vllm_would_read_as_others_are_rejected(
    changes: dict[str, float], words: str
) -> None:
    params = SamplingParams.model_validate(changes)
    with pytest.raises(BridgeError, match=words):
        create_arguments(_with(sampling_params=params))
    assert to_completion_request(_with(sampling_params=params))  # its numbers have 64 bits


def test_a_number_may_become_zero_where_that_is_the_same() -> None:
    params = SamplingParams(presence_penalty=1e-50)
    assert to_generate_request(_with(sampling_params=params)).sampling_params.presence_penalty == 0
    assert to_generate_request(_with(temperature=1e-50)).sampling_params.temperature == 0
    with pytest.raises(BridgeError, match=r"top_p .*too small"):
        to_generate_request(_with(top_p=1e-50))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "a secret \ud800"}, r"(text|prompt) cannot hold .*: it has a lone surrogate"),
        ({"prompt": 5}, r"(text|prompt) cannot hold this value: it has another type"),
        ({"max_tokens": "8"}, r"max_tokens cannot hold this value: it has another type"),
        ({"temperature": "1"}, r"temperature cannot hold this value: it has another type"),
        (
            {"sampling_params": SamplingParams().model_copy(update={"stop_sequences": ["\ud800"]})},
            r"stop cannot hold this value: it has a lone surrogate",
        ),
        (
            {"sampling_params": SamplingParams().model_copy(update={"skip_special_tokens": "no"})},
            r"skip_special_tokens cannot hold this value: it has another type",
        ),
    ],
)
@pytest.mark.parametrize("bridge", BRIDGES)
def test_values_that_were_assigned_without_validation_are_rejected_by_name(
    bridge: Any, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BridgeError, match=words) as caught:
        bridge(_with(**changes))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("bridge", [*BRIDGES, create_arguments])
def test_one_name_to_drop_is_not_read_as_letters(bridge: Any) -> None:
    with pytest.raises(TypeError, match="drop takes a collection of names, not one string"):
        bridge(_with(rank=0), drop="tp_rank")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (vllm.GenerateRequest(tokenized=vllm.TokenizedInput(input_ids=[1])), "tokenized"),
        (vllm.GenerateRequest(data_parallel_rank=0), "data_parallel_rank"),
        (vllm.GenerateRequest(sampling_params=vllm.SamplingParams(min_p=0.1)), "min_p"),
        (vllm.GenerateRequest(sampling_params=vllm.SamplingParams(json_object=True)), "json_o"),
        (vllm.GenerateRequest(sampling_params=vllm.SamplingParams(n=2)), "n above 1"),
        (vllm.GenerateRequest(text="x"), "max_tokens"),
    ],
)
def test_fields_that_sagellm_lacks_are_rejected_by_name(
    message: vllm.GenerateRequest, words: str
) -> None:
    with pytest.raises(BridgeError, match=words):
        from_generate_request(message)


def test_an_empty_request_of_vllm_means_its_defaults() -> None:
    made = from_generate_request(vllm.GenerateRequest(text="x"), max_tokens=16)
    assert made.max_tokens == 16
    assert made.sampling_params == SamplingParams(skip_special_tokens=False)
    one = vllm.SamplingParams(n=1, seed=-1)  # as the defaults
    assert (
        from_generate_request(vllm.GenerateRequest(text="x", sampling_params=one), max_tokens=16)
        == made
    )
    seeded = vllm.GenerateRequest(text="x", sampling_params=vllm.SamplingParams(seed=-2))
    back = from_generate_request(seeded, max_tokens=16).sampling_params
    assert back is not None and back.seed == -2


def test_arguments_of_the_client_are_the_same_request() -> None:
    arguments = create_arguments(_with(sampling_params=PARAMS))
    assert arguments == {
        "prompt": "Once",
        "request_id": "r",
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "frequency_penalty": 0.25,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.1,
        "max_tokens": 8,
        "stop": ["\n", "END"],
        "seed": 0,
        "skip_special_tokens": False,
        "stream_options": {"include_usage": True},
    }
    bare = create_arguments(_with(stream=False))
    assert [bare[name] for name in ("temperature", "seed", "stop", "stream_options")] == [None] * 4


# The gateway


def test_a_request_for_the_gateway_has_only_the_given_fields() -> None:
    assert to_completion_request(_with(temperature=0.0, top_p=0.5)) == smg.CompletionRequest(
        model="m", prompt="Once", max_tokens=8, temperature=0.0, top_p=0.5
    )
    assert completion_metadata(REQUEST) == (("x-request-id", "r"),)
    assert completion_metadata(_with(request_id="")) == ()
    for text in ("é", "a\nb"):
        with pytest.raises(BridgeError, match=r"Request\.request_id cannot be sent as metadata"):
            completion_metadata(_with(request_id=text))
    with pytest.raises(BridgeError, match=r"Request\.model is empty"):
        to_completion_request(_with(model=""))


def test_a_request_is_read_back_from_the_gateway() -> None:
    for request in (
        REQUEST,
        _with(temperature=0.5),
        _with(temperature=0.5, top_p=0.25),
        _with(sampling_params=PARAMS, stream=False),
    ):
        back = from_completion_request(
            to_completion_request(request), request_id="r", trace_id="t", stream=request.stream
        )
        assert back == request
    assert from_completion_request(to_completion_request(REQUEST), request_id="r").stream is False


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (smg.CompletionRequest(echo=True), r"CompletionRequest\.echo"),
        (smg.CompletionRequest(user="u"), r"CompletionRequest\.user"),
        (smg.CompletionRequest(logprobs=0), r"CompletionRequest\.logprobs"),
        (smg.CompletionRequest(prompt_token_ids=smg.TokenIds()), "prompt_token_ids"),
        (smg.CompletionRequest(sampling=smg.SamplingParams(min_tokens=1)), "min_tokens"),
        (smg.CompletionRequest(prompt="x"), "max_tokens"),
    ],
)
def test_fields_of_the_gateway_that_sagellm_lacks_are_rejected_by_name(
    message: smg.CompletionRequest, words: str
) -> None:
    with pytest.raises(BridgeError, match=words):
        from_completion_request(message, request_id="r")
