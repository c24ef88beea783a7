"""What is sent for what was asked, and what is refused before it is sent."""

import inspect
import json
import math
import re
import struct
from typing import Any

import pytest
from pydantic import ValidationError
from vllm_kit import Both, ScriptedEngine, complete, metadata_of, sent

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import FakeVllmEngine
from smg_proto.vllm import (
    NOT_GIVEN,
    AsyncVLLMGrpcClient,
    ChoiceConstraint,
    MediaRef,
    SamplingParams,
    StreamOptions,
    StructuredOutputs,
    TokenDecoder,
    TokenizedInput,
    VLLMGrpcClient,
    VLLMGrpcInvalidArgumentError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._params import (
    ChatParams,
    CompletionParams,
    CompletionRequest,
    EmbeddingParams,
)

ALL: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "frequency_penalty": -1.5,
    "presence_penalty": 1.5, "repetition_penalty": 1.25, "max_tokens": 3, "min_tokens": 1,
    "stop": ["one", "two"], "stop_token_ids": [4, 5], "skip_special_tokens": False,
    "spaces_between_special_tokens": False, "ignore_eos": True, "n": 2, "logprobs": 1,
    "prompt_logprobs": 0, "seed": 0, "include_stop_str_in_output": True,
    "logit_bias": {3: -100.0, 4: 2.5}, "truncate_prompt_tokens": 2,
    "grammar_from_first_token": True,
}  # fmt: skip
ONLY_OFF = pb.SamplingParams(
    top_p=1.0,
    repetition_penalty=1.0,
    n=1,
    skip_special_tokens=True,
    spaces_between_special_tokens=True,
)


def test_every_sampling_parameter_arrives(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    both.create(client, prompt="some words to cut", **ALL)
    wire = sent(engine).sampling_params
    assert wire == pb.SamplingParams(**ALL)
    assert {f.name for f in wire.DESCRIPTOR.fields if not f.containing_oneof or f.name in ALL} == {
        *ALL
    }
    both.create(client, prompt="some words to cut", sampling_params=SamplingParams(**ALL))
    assert sent(engine).sampling_params == wire


def test_what_is_not_asked_for_stays_unset(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    both.create(client, prompt="x")
    request = sent(engine)
    assert request.sampling_params == ONLY_OFF
    assert not request.HasField("data_parallel_rank")
    assert not request.HasField("kv_transfer_params_json")
    nothing = dict.fromkeys([*ALL, "structured_outputs", "media_refs", "model"])
    both.create(client, prompt="x", **nothing)
    assert sent(engine).sampling_params == ONLY_OFF


def test_forms_that_people_use_are_understood(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    both.create(
        client, prompt="x", stop="end", stop_token_ids=(4,), top_k=-1, logit_bias={"7": -1},
        temperature=1, max_tokens=1,
    )  # fmt: skip
    wire = sent(engine).sampling_params
    assert list(wire.stop) == ["end"] and list(wire.stop_token_ids) == [4]
    assert wire.top_k == 0 and dict(wire.logit_bias) == {7: -1.0} and wire.temperature == 1.0


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ({"json_schema": {"type": "object"}}, {"json_schema": '{"type": "object"}'}),
        ({"json_schema": '{"type":"object"}'}, {"json_schema": '{"type":"object"}'}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"structural_tag": {"a": 1}}, {"structural_tag": '{"a": 1}'}),
        ({"json_object": True}, {"json_object": True}),
        ({"choice": ["a", "b"]}, {"choice": pb.ChoiceConstraint(choices=["a", "b"])}),
        (
            {"choice": ChoiceConstraint(choices=["a"])},
            {"choice": pb.ChoiceConstraint(choices=["a"])},
        ),
    ],
    ids=lambda value: next(iter(value)),
)
def test_each_constraint_arrives(
    constraint: dict[str, Any],
    expected: dict[str, Any],
    both: Both,
    scripted: ScriptedEngine,
    scripted_client: Any,
) -> None:
    scripted.messages = [complete(1)]
    both.create(scripted_client, prompt="x", structured_outputs=StructuredOutputs(**constraint))
    wanted, wire = pb.SamplingParams(**expected), sent(scripted).sampling_params
    name = wanted.WhichOneof("constraint")
    assert name is not None and wire.WhichOneof("constraint") == name
    assert getattr(wire, name) == getattr(wanted, name)


def test_every_form_of_prompt_arrives(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    wire = pb.TokenizedInput(original_text="five", input_ids=[5])
    for prompt, expected in (
        ("text", pb.GenerateRequest(text="text")),
        ([5], pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[5]))),
        (TokenizedInput(original_text="five", input_ids=[5]), pb.GenerateRequest(tokenized=wire)),
        (wire, pb.GenerateRequest(tokenized=wire)),
    ):
        both.create(client, prompt=prompt, max_tokens=1)
        request = sent(engine)
        assert request.WhichOneof("input") == expected.WhichOneof("input")
        assert (request.text, request.tokenized) == (expected.text, expected.tokenized)


def test_media_and_transfer_parameters_arrive(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [complete(1)]

    def arrives(**params: Any) -> pb.GenerateRequest:
        both.create(scripted_client, prompt=[5, 6], **params)
        return sent(scripted)

    first, second = pb.MultimodalInputs(mm_hashes=["a"]), pb.MultimodalInputs(mm_hashes=["b"])
    request = arrives(mm_inputs=[first, second], data_parallel_rank=0)
    assert request.mm_inputs == first and list(request.extra_mm_inputs) == [second]
    assert request.HasField("data_parallel_rank") and request.data_parallel_rank == 0
    request = arrives(mm_inputs=first, kv_transfer_params={"do_remote_decode": True})
    assert request.mm_inputs == first and not request.extra_mm_inputs
    assert json.loads(request.kv_transfer_params_json) == {"do_remote_decode": True}
    assert arrives(kv_transfer_params='{"a":1.0}').kv_transfer_params_json == '{"a":1.0}'
    refs = [MediaRef(url="https://x/y.png"), MediaRef(url="u", modality="audio")]
    items = arrives(media_refs=refs).media_refs.items
    assert [(i.url, i.modality) for i in items] == [
        ("https://x/y.png", common_pb2.IMAGE),
        ("u", common_pb2.AUDIO),
    ]


def test_the_models_own_defaults_are_applied_where_asked_for(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    defaults = both.run(client.models.retrieve()).default_sampling_params
    assert defaults, "the fake model should have some"
    both.create(client, prompt="x", max_tokens=1, use_model_defaults=True)
    wire = sent(engine).sampling_params
    for name, value in defaults.items():
        assert getattr(wire, name) == pytest.approx(value)
    both.create(
        client, prompt="x", max_tokens=1, use_model_defaults=True, temperature=0.75,
        request_id="mine", model="label",
    )  # fmt: skip
    assert sent(engine).sampling_params.temperature == 0.75
    assert sent(engine).request_id == "mine"
    both.create(client, prompt="x", max_tokens=1)
    assert sent(engine).sampling_params.ListFields() != wire.ListFields()


def nested() -> dict[str, Any]:
    """Deeper than JSON can be written."""
    value: dict[str, Any] = {}
    for _ in range(20_000):
        value = {"a": value}
    return value


SECRET = "tell nobody about the treasure"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": "warm"}, "temperature"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 2**32}, "max_tokens"),
    ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
    ({"n": 0}, "n"),
    ({"n": 2, "temperature": 0}, "n"),
    ({"logprobs": -2}, "logprobs"),
    ({"prompt_logprobs": True}, "prompt_logprobs"),
    ({"seed": 2**31}, "seed"),
    ({"stop": ""}, "stop.0"),
    ({"stop": [1]}, "stop.0"),
    ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
    ({"logit_bias": {1: float("inf")}}, "logit_bias.1"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"structured_outputs": "a+"}, "structured_outputs"),
    ({"data_parallel_rank": -1}, "data_parallel_rank"),
    ({"kv_transfer_params": "[1]"}, "kv_transfer_params"),
    ({"kv_transfer_params": "{"}, "kv_transfer_params"),
    ({"media_refs": []}, "media_refs"),
    ({"media_refs": [MediaRef(url="u")], "mm_inputs": pb.MultimodalInputs()}, "media_refs"),
    ({"request_id": ""}, "request_id"),
    ({"stream_options": {"more": True}}, "stream_options.more"),
    ({"stream_options": {1: True}}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"structured_outputs": {1: 2}}, "structured_outputs"),
    ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice.0"),
    ({"structured_outputs": {"json_schema": "{"}}, "structured_outputs.json_schema"),
    ({"media_refs": [{1: "u"}]}, "media_refs"),
    ({"media_refs": [{"url": "u"}, {"url": ""}]}, "media_refs.1.url"),
    ({"mm_inputs": []}, "mm_inputs"),
    ({"kv_transfer_params": 5}, "kv_transfer_params"),
    ({"repetition_penalty": 3.5e38}, "repetition_penalty"),
    ({"logit_bias": {1: 3.5e38}}, "logit_bias.1"),
    ({"logit_bias": {1: -3.5e38}}, "logit_bias.1"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {2**31: 1}}, "logit_bias.2147483648"),
    ({"logit_bias": {-1: 1}}, "logit_bias.-1"),
    ({"stop_token_ids": [2**32]}, "stop_token_ids.0"),
    ({"decoder": "gpt2"}, "decoder"),
    ({"sampling_params": {"n": 1}}, "sampling_params"),
    ({"sampling_params": SamplingParams(n=1), "n": 1}, "n"),
    ({"n": 10**9}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"best_of": 2, "n": 1}, "best_of"),
    ({"suffix": "x"}, "suffix"),
    ({"user": 7}, "user"),
    ({"extra_headers": {"Bad Name": "x"}}, "extra_headers"),
    ({"extra_headers": "x"}, "extra_headers"),
    ({"extra_query": {"a": 1}}, "extra_query"),
    ({"extra_body": {"a": 1}}, "extra_body"),
    ({"max_retries": 1000}, "max_retries"),
    ({"wait_for_ready": "yes"}, "wait_for_ready"),
    ({"timeout": 10**400}, "timeout"),
    ({"stop": "half \ud800"}, "stop.0"),
    ({"request_id": "half \ud800"}, "request_id"),
    ({"model": "half \ud800"}, "model"),
    ({"user": "half \ud800"}, "user"),
    ({"structured_outputs": StructuredOutputs(json_schema={"a": {1, 2}})},
     "structured_outputs.json_schema"),
    ({"kv_transfer_params": {"a": float("nan")}}, "kv_transfer_params"),
    ({"kv_transfer_params": {"a": object()}}, "kv_transfer_params"),
    ({"kv_transfer_params": nested()}, "kv_transfer_params"),
    ({"kv_transfer_params": '{"a":' * 100_000 + "}" * 100_000}, "kv_transfer_params"),
    ({"echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"temprature": 1}, "temprature"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": "long"}, "timeout"),
    ({"max_retries": -1}, "max_retries"),
    ({"metadata": {"Bad Name": "x"}}, "metadata"),
    ({"metadata": {"x": "ünsendable"}}, "metadata"),
    ({"metadata": "x"}, "metadata"),
    ({"traceparent": "00-1-2-3"}, "traceparent"),
]  # fmt: skip


INT32, UINT32 = 2**31 - 1, 2**32 - 1
RANGES: list[tuple[str, float, float, float]] = [  # the least, the most, and what is beyond by
    ("temperature", 0.0, 2.0, 0.001),
    ("top_p", 0.001, 1.0, 0.001),
    ("top_k", -1, INT32, 1),
    ("min_p", 0.0, 1.0, 0.001),
    ("frequency_penalty", -2.0, 2.0, 0.001),
    ("presence_penalty", -2.0, 2.0, 0.001),
    ("max_tokens", 1, UINT32, 1),
    ("min_tokens", 0, UINT32, 1),
    ("n", 1, 16384, 1),
    ("logprobs", -1, INT32, 1),
    ("prompt_logprobs", -1, INT32, 1),
    ("seed", -INT32 - 1, INT32, 1),
    ("truncate_prompt_tokens", -1, INT32, 1),
    ("data_parallel_rank", 0, INT32, 1),
]


@pytest.mark.parametrize(("name", "least", "most", "step"), RANGES, ids=[r[0] for r in RANGES])
def test_ranges_include_their_ends(name: str, least: float, most: float, step: float) -> None:
    for value in (least, most):
        request = CompletionRequest.of({name: value})
        assert getattr(request, name) == value
        request.to_grpc()
    for value in (least - step, most + step):
        with pytest.raises(VLLMGrpcValidationError) as caught:
            CompletionRequest.of({name: value})
        assert caught.value.param == name


def test_rules_that_join_parameters_hold_at_their_ends() -> None:
    assert CompletionRequest.of({"n": 2, "temperature": 1e-5}).n == 2
    with pytest.raises(VLLMGrpcValidationError, match="n: must be 1 for greedy"):
        CompletionRequest.of({"n": 2, "temperature": 9e-6})
    assert CompletionRequest.of({"min_tokens": 3, "max_tokens": 3}).min_tokens == 3
    request = CompletionRequest.of({"top_k": 5})
    assert request.with_defaults({"unknown": 1}) is request
    replaced = request.with_defaults({"top_k": 1, "top_p": 0.5, "unknown": 1})
    assert (replaced.top_k, replaced.top_p) == (5, 0.5)


@pytest.mark.parametrize("prompt", [[True], [1, False], [[5], [True]]])
def test_booleans_are_no_token_ids(prompt: Any, both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="token ids must be whole numbers"):
        both.create(client, prompt=prompt)


@pytest.mark.parametrize(("prompt", "kind"), [(b"x", "bytes"), (5, "int"), (["x", {}], "dict")])
def test_a_prompt_of_another_type_is_described(
    prompt: Any, kind: str, both: Both, client: Any
) -> None:
    with pytest.raises(VLLMGrpcValidationError, match=f"must be text, a sequence .*, not {kind}"):
        both.create(client, prompt=prompt)


def test_the_largest_float_can_be_sent() -> None:
    most = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
    for given in (most, -most):
        assert CompletionRequest.of({"logit_bias": {1: given}}).to_grpc().logit_bias[1] == given
        with pytest.raises(VLLMGrpcValidationError, match=r"logit_bias\.1"):
            CompletionRequest.of({"logit_bias": {1: math.nextafter(given, given * 2)}})


@pytest.mark.parametrize(
    ("params", "name"), WRONG, ids=[f"{n}-{i}" for i, (_, n) in enumerate(WRONG)]
)
def test_what_is_wrong_is_named_and_not_sent(
    params: dict[str, Any], name: str, both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    with pytest.raises(VLLMGrpcValidationError) as caught:
        both.create(client, prompt=SECRET, **params)
    assert caught.value.param == name
    assert str(caught.value).startswith(f"{name}: ")
    assert SECRET not in str(caught.value)
    assert not engine.record.received


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        (),
        ["", "x"],
        [[]],
        [SECRET, 5],
        [5, SECRET],
        [5, None],
        SECRET.encode(),
        SECRET + "\ud800",
        [SECRET + "\ud800"],
        [2**32],
        [10**400],
        pb.TokenizedInput(),
    ],
)
def test_prompts_that_cannot_be_are_refused_without_showing_them(
    prompt: Any, both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="prompt") as caught:
        both.create(client, prompt=prompt)
    assert SECRET not in str(caught.value) and not engine.record.received


def test_media_and_cuts_need_the_right_kind_of_prompt(both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="must be token ids if there are media"):
        both.create(client, prompt="x", media_refs=[MediaRef(url="u")])
    with pytest.raises(VLLMGrpcValidationError, match="cuts only text prompts"):
        both.create(client, prompt=[5], truncate_prompt_tokens=3)


NOTHING: list[dict[str, Any]] = [
    {"echo": False, "best_of": 1, "suffix": "", "user": "u"},
    {"best_of": 2, "n": 2, "seed": 1},
    {"extra_headers": None, "extra_query": {}, "extra_body": {}},
    {"temperature": NOT_GIVEN, "timeout": NOT_GIVEN, "stop": NOT_GIVEN, "metadata": NOT_GIVEN},
    dict.fromkeys(["echo", "best_of", "suffix", "user", "extra_query", "extra_headers"]),
]


@pytest.mark.parametrize("requested", NOTHING)
def test_what_asks_for_nothing_is_accepted(
    requested: dict[str, Any], both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    """As programs written for OpenAI's library do."""
    both.create(client, prompt="x", max_tokens=1, **requested)
    expected = pb.SamplingParams()
    expected.CopyFrom(ONLY_OFF)
    expected.max_tokens = 1
    if "n" in requested:
        expected.n, expected.seed = 2, 1
    assert sent(engine).sampling_params == expected


def test_extra_headers_are_metadata(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    both.create(
        client, prompt="x", max_tokens=1, extra_headers={"X-Team": "a"}, metadata={"b": "c"}
    )
    got = metadata_of(engine, "Generate")
    assert (got["x-team"], got["b"]) == ("a", "c")
    both.run(client.models.retrieve(extra_headers={"x-team": "b"}))
    assert metadata_of(engine, "GetModelInfo")["x-team"] == "b"


def test_the_prompts_cut_can_be_switched_off(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    both.create(client, prompt="one two three", max_tokens=1, truncate_prompt_tokens=-1)
    assert sent(engine).sampling_params.truncate_prompt_tokens == -1
    both.create(client, prompt=[5, 6], max_tokens=1, truncate_prompt_tokens=-1)


@pytest.mark.parametrize("kind", [VLLMGrpcClient, AsyncVLLMGrpcClient])
def test_help_describes_every_parameter(kind: Any) -> None:
    client = kind("localhost")
    for create, accepted in (
        (client.completions.create, CompletionParams),
        (client.chat.completions.create, ChatParams),
        (client.embeddings.create, EmbeddingParams),
    ):
        words = set(re.findall(r"\w+", create.__doc__))
        assert set(accepted.__annotations__) - words == set()
    settings = set(inspect.signature(kind).parameters)
    assert settings - set(re.findall(r"\w+", kind.__doc__)) == set()


HINTS: dict[str, tuple[object, str]] = {
    "best_of": (2, "vLLM does not support best_of; request n choices with logprobs and choose"),
    "echo": (True, "the server does not echo the prompt; put it in front of the text yourself"),
    "suffix": ("x", "vLLM does not insert text between prompt and suffix"),
    "extra_query": ({"a": 1}, "gRPC requests do not have a URL; use metadata="),
    "extra_body": (
        {"a": 1},
        "gRPC requests do not have a JSON body; pass the parameter by its name",
    ),
    "response_format": ({}, "use structured_outputs=StructuredOutputs(json_schema=…)"),
    "store": (True, "the server stores nothing"),
    "dimensions": (3, "the server returns whole vectors; cut them yourself"),
    "encoding_format": ("base64", "vectors are always returned as floats"),
    "temprature": (1, "unknown parameter"),
    "best_off": (False, "unknown parameter"),
}


@pytest.mark.parametrize(("name", "value", "hint"), [(k, *v) for k, v in HINTS.items()], ids=HINTS)
def test_what_openais_library_has_and_this_server_lacks_is_explained(
    name: str, value: object, hint: str
) -> None:
    with pytest.raises(VLLMGrpcValidationError) as caught:
        CompletionRequest.of({name: value})
    assert caught.value.message == f"{name}: {hint}"
    assert (caught.value.param, caught.value.problem) == (name, hint)


def test_no_op_values_have_the_type_of_their_parameter() -> None:
    assert CompletionRequest.of({"store": False, "encoding_format": "float"}).n == 1
    wrong: dict[str, Any] = {"best_of": True, "store": 0, "echo": 0, "extra_body": []}
    for name, value in wrong.items():
        with pytest.raises(VLLMGrpcValidationError, match=name):
            CompletionRequest.of({name: value})


def test_messages_of_pydantic_are_kept_but_for_the_first_letter() -> None:
    with pytest.raises(VLLMGrpcValidationError) as caught:
        CompletionRequest.of({"max_tokens": 0})
    assert caught.value.problem == "input should be greater than or equal to 1"
    with pytest.raises(VLLMGrpcValidationError) as caught:
        CompletionRequest.of({"stop": {"hush": 1}})  # short, since pydantic cuts long values
    assert caught.value.__context__ is not None
    assert "hush" not in f"{caught.value}{caught.value.__context__}"
    with pytest.raises(VLLMGrpcValidationError, match="should be a finite number"):
        CompletionRequest.of({"logit_bias": {1: math.nan}})


def test_parameter_objects_have_documented_defaults() -> None:
    assert SamplingParams().model_dump() == {
        "temperature": None, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "frequency_penalty": 0.0,
        "presence_penalty": 0.0, "repetition_penalty": 1.0, "max_tokens": None, "min_tokens": 0,
        "stop": None, "stop_token_ids": None, "skip_special_tokens": True,
        "spaces_between_special_tokens": True, "ignore_eos": False, "n": 1, "logprobs": None,
        "prompt_logprobs": None, "seed": None, "include_stop_str_in_output": False,
        "logit_bias": None, "truncate_prompt_tokens": None, "structured_outputs": None,
        "grammar_from_first_token": False,
    }  # fmt: skip
    assert CompletionRequest.of({}).use_model_defaults is False
    assert StreamOptions().model_dump() == {
        "include_usage": False,
        "continuous_usage_stats": False,
    }
    assert MediaRef(url="u").modality == "image"
    assert TokenizedInput(input_ids=[0]).original_text == ""
    assert TokenizedInput(input_ids=[UINT32]).input_ids == [UINT32]
    for wrong in (-1, UINT32 + 1):
        with pytest.raises(VLLMGrpcValidationError, match=r"input_ids\.0"):
            TokenizedInput(input_ids=[wrong])
    assert ChoiceConstraint().choices == []
    with pytest.raises(VLLMGrpcValidationError, match=r"structured_outputs\.choice: is empty"):
        StructuredOutputs(choice=ChoiceConstraint())
    with pytest.raises(VLLMGrpcValidationError, match="none"):
        StructuredOutputs()
    one = StructuredOutputs(regex="a")
    with pytest.raises(ValidationError, match="frozen"):
        setattr(one, "regex", "b")  # noqa: B010 (type checkers refuse it too)


def test_parameter_objects_check_themselves() -> None:
    with pytest.raises(VLLMGrpcValidationError, match="n: must be 1 for greedy"):
        SamplingParams(n=3, temperature=0)
    with pytest.raises(VLLMGrpcValidationError, match="url"):
        MediaRef(url="")
    with pytest.raises(VLLMGrpcValidationError, match="input_ids"):
        TokenizedInput(input_ids=[])
    with pytest.raises(VLLMGrpcValidationError, match="json_schema: must be the JSON text"):
        StructuredOutputs(json_schema="{")
    secret = f'{{"{SECRET}"'
    with pytest.raises(VLLMGrpcValidationError) as caught:
        StructuredOutputs(json_schema=secret)
    assert SECRET not in str(caught.value)


def test_what_only_the_server_can_judge_comes_back_typed(
    both: Both, client: Any, decoder: TokenDecoder
) -> None:
    with pytest.raises(VLLMGrpcInvalidArgumentError) as caught:
        both.create(client, prompt=[5] * 100_000, max_tokens=1)
    assert not isinstance(caught.value, VLLMGrpcValidationError)
    assert caught.value.request_id
