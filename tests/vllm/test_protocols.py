"""The same client over both of vLLM's protocols: vllm.grpc.engine and vllm.Inference."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from vllm_inference import InferenceEngine
from vllm_kit import Both, text_of, used

from smg_proto import vllm_control_pb2, vllm_inference_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto._standard import message_class
from smg_proto.testing import Address, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.vllm import (
    CompletionChoice,
    MediaRef,
    StructuredOutputs,
    TokenDecoder,
    VLLMGrpcUnimplementedError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._inference import engine_messages, engine_reply, translated
from smg_proto.vllm._params import CompletionRequest

PROMPT = "The quick brown"
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
ASKED: dict[str, dict[str, Any]] = {
    "text": {"max_tokens": 6},
    "ids": {"prompt": [20, 21, 22], "max_tokens": 6},
    "no limit": {},
    "sampling": {
        "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 7,
        "frequency_penalty": 0.25, "presence_penalty": -0.5, "repetition_penalty": 1.5,
        "logit_bias": {30: 2.5},
    },
    "greedy": {"max_tokens": 6, "temperature": 0},
    "stop": {"max_tokens": 30, "stop": ["any", " in"], "min_tokens": 2},
    "stop that is kept": {"max_tokens": 30, "stop": "any", "include_stop_str_in_output": True},
    "stop token": {"max_tokens": 30, "stop_token_ids": [40, 41, 42, 43, 44, 45, 46, 47]},
    "special tokens": {"max_tokens": 30, "skip_special_tokens": False, "ignore_eos": True},
    "logprobs": {"max_tokens": 5, "logprobs": 3, "prompt_logprobs": 2},
    "own logprobs": {"max_tokens": 5, "logprobs": 0},
    "several choices": {"max_tokens": 5, "n": 2, "seed": 3},
    "several prompts": {"prompt": ["one", "two", [20, 21]], "max_tokens": 4},
    "schema": {"max_tokens": 40, "structured_outputs": StructuredOutputs(json_schema=SCHEMA)},
    "any object": {"max_tokens": 40, "structured_outputs": StructuredOutputs(json_object=True)},
    "choice": {
        "max_tokens": 40, "structured_outputs": StructuredOutputs(choice=["yes", "no"]),
        "grammar_from_first_token": True,
    },
    "truncated": {"max_tokens": 4, "truncate_prompt_tokens": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def inference(decoder: TokenDecoder) -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine(InferenceEngine(decoder)) as address:
        yield address


@pytest.fixture
def server(inference: Address[FakeVllmEngine]) -> InferenceEngine:
    engine = inference.servicer
    assert isinstance(engine, InferenceEngine)
    engine.record.received.clear()
    engine.taken.clear()
    return engine


def requests(engine: FakeVllmEngine) -> list[pb.GenerateRequest]:
    """What the engine was asked to do, whether as a stream or not."""
    found: list[pb.GenerateRequest] = []
    for one in engine.record.received:
        if one.rpc == "Generate":
            assert isinstance(one.request, pb.GenerateRequest)
            found.append(pb.GenerateRequest())
            found[-1].CopyFrom(one.request)
            found[-1].ClearField("stream")
    return sorted(found, key=lambda request: request.request_id)


def prompt_of(choice: CompletionChoice) -> tuple[Any, ...]:
    given = choice.prompt_logprobs
    return (given.token_ids, given.token_logprobs, given.top_ids) if given is not None else ()


@pytest.mark.parametrize("sent", ASKED.values(), ids=ASKED)
def test_both_protocols_give_the_same(
    both: Both,
    address: Address[FakeVllmEngine],
    engine: FakeVllmEngine,
    inference: Address[FakeVllmEngine],
    server: InferenceEngine,
    sent: dict[str, Any],
) -> None:
    params: dict[str, Any] = {"prompt": PROMPT, "request_id": "same", "model": "m", **sent}
    results: list[Any] = []
    for target, protocol in ((address, "engine"), (inference, "inference"), (inference, "auto")):
        client = both.make(target, protocol=protocol)
        whole, final = both.create(client, **params), both.final(client, **params)
        for result in (whole, final):
            results.append(
                [
                    (c.index, c.text, c.token_ids, c.finish_reason, c.stop_reason)
                    + ((c.logprobs.token_logprobs, c.logprobs.top_ids) if c.logprobs else ())
                    + prompt_of(c)
                    for c in result.choices
                ]
            )
            assert used(result).prompt_tokens > 0
        assert used(whole) == used(final)
        assert used(whole).completion_tokens == sum(len(c.token_ids) for c in whole.choices)
    assert all(result == results[0] for result in results)
    # Translated there and back, the request is the same.
    there, back = requests(engine), requests(server)
    for request in there:
        request.sampling_params.ClearField("truncate_prompt_tokens")
        if not request.sampling_params.HasField("temperature"):
            request.sampling_params.temperature = 1.0  # what unset means
    for request in back:
        request.sampling_params.ClearField("truncate_prompt_tokens")
    assert back == sorted(there * 2, key=lambda request: request.request_id)
    cut = {request.truncate_prompt_tokens for _, request in server.taken}
    assert cut == {sent.get("truncate_prompt_tokens", 0)}
    names = [name for name, _ in server.taken]
    assert ("Generate" in names) == ("n" not in sent)


def test_the_first_chunk_has_text_though_the_protocol_is_not_known(
    both: Both, inference: Address[FakeVllmEngine]
) -> None:
    client = both.make(inference)
    chunks = both.chunks(client, prompt=PROMPT, max_tokens=6)
    assert text_of(chunks) == both.create(client, prompt=PROMPT, max_tokens=6).choices[0].text
    several = both.chunks(both.make(inference), prompt=[PROMPT, "two"], max_tokens=3)
    assert {c.choices[0].index for c in several} == {0, 1}
    assert both.create(both.make(inference), prompt=[PROMPT, "two"], max_tokens=3).choices[1].text


def test_text_can_be_switched_off_or_made_here(
    both: Both, inference: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    for protocol in ("auto", "inference"):
        none = both.make(inference, protocol=protocol, decoder=None)
        assert both.create(none, prompt=PROMPT, max_tokens=4).choices[0].text is None
        own = both.make(inference, protocol=protocol, decoder=decoder)
        made = both.create(own, prompt=PROMPT, max_tokens=4, logprobs=0).choices[0]
        assert made.text and made.logprobs and made.logprobs.text_offset


def test_the_server_is_described_in_the_same_terms(
    both: Both, inference: Address[FakeVllmEngine], server: InferenceEngine
) -> None:
    client = both.make(inference)
    info = both.run(client.models.retrieve())
    assert (info.id, info.model_path) == (server.name, "/no/such/path")
    reported = both.run(client.health.server_info())
    assert (reported.block_size, reported.max_num_seqs, reported.data_parallel_size) == (16, 8, 2)
    assert both.run(client.is_healthy())
    both.run(client.health.abort("nobody"))
    (aborted,) = (one.request for one in server.record.received if one.rpc == "Abort")
    assert aborted == pb.AbortRequest(request_ids=["nobody"])
    assert both.create(client, prompt=PROMPT, max_tokens=1).model == server.name


def test_what_the_protocol_lacks_is_refused_by_name(
    both: Both, inference: Address[FakeVllmEngine], server: InferenceEngine
) -> None:
    client = both.make(inference, protocol="inference")
    calls: dict[str, Callable[[], Any]] = {
        "Embed": lambda: client.embeddings.create(input=[1]),
        "GetLoads": lambda: client.loads.retrieve(),
        "GetTokenizer": lambda: client.tokenizer.download(),
        "SubscribeKvEvents": lambda: client.kv_events.subscribe(),
        "FlushCache": lambda: client.admin.flush_cache(),
    }
    for name, call in calls.items():
        with pytest.raises(VLLMGrpcUnimplementedError, match=f"does not have {name}") as lacks:
            both.run(call())
        assert lacks.value.code == "UNIMPLEMENTED"
    for param, value in {
        "data_parallel_rank": 0,
        "spaces_between_special_tokens": False,
        "mm_inputs": pb.MultimodalInputs(),
    }.items():
        with pytest.raises(VLLMGrpcValidationError) as caught:
            both.create(client, prompt=[1], **{param: value})
        assert caught.value.param == param
    assert not server.taken
    with pytest.raises(VLLMGrpcValidationError, match="protocol"):
        both.make(inference, protocol="rest")


def test_chat_needs_a_tokenizer_of_the_callers(
    both: Both, inference: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    client = both.make(inference)
    with pytest.raises(FileNotFoundError, match="from_model_path"):
        both.run(client.chat.completions.create(messages=messages, max_tokens=3))
    own = both.make(inference, decoder=decoder)
    reply = both.run(own.chat.completions.create(messages=messages, max_tokens=3))
    assert reply.choices[0].message.content


def test_media_and_kv_parameters_are_translated(
    both: Both, inference: Address[FakeVllmEngine], server: InferenceEngine
) -> None:
    client = both.make(inference, protocol="inference")
    done = both.create(
        client,
        prompt=[20],
        max_tokens=2,
        kv_transfer_params={"do_remote_decode": True, "blocks": 2},
        media_refs=[MediaRef(url="http://h/a.png"), MediaRef(url="http://h/b", modality="video")],
    )
    _, request = server.taken[0]
    assert dict(request.kv.kv_transfer_params) == {"do_remote_decode": True, "blocks": 2}
    assert [(m.modality, m.url) for m in request.media] == [
        (1, "http://h/a.png"),
        (2, "http://h/b"),
    ]
    reported = done.choices[0].kv_transfer_params
    assert reported and reported["remote_engine_id"] == "fake"


def test_an_engine_is_asked_once_only(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    """What a server of the first protocol lacks does not make it one of the other."""
    client = both.make(address)
    assert client._connection.unsure
    both.create(client, prompt=PROMPT, max_tokens=1)
    assert not client._connection.unsure and not client._connection.inference
    engine.kv_events = False
    stream = both.run(client.kv_events.subscribe())
    with pytest.raises(VLLMGrpcUnimplementedError):
        both.next(stream)
    both.create(client, prompt=PROMPT, max_tokens=1)
    assert len(requests(engine)) == 2


def test_what_an_engine_says_that_it_lacks_stays_its_own_error(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(grpc.StatusCode.UNIMPLEMENTED, "not in this build"), rpc="Generate")
    client = both.make(address, decoder=None)
    sent: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 1, "model": "m"}
    with pytest.raises(VLLMGrpcUnimplementedError, match="not in this build"):
        both.create(client, **sent)
    assert both.create(client, **sent).choices[0].finish_reason == "length"


def test_a_protocol_that_was_named_is_kept_to(
    both: Both, inference: Address[FakeVllmEngine], server: InferenceEngine
) -> None:
    client = both.make(inference, protocol="engine")
    with pytest.raises(VLLMGrpcUnimplementedError):
        both.create(client, prompt=PROMPT)
    assert not server.taken


def test_a_server_of_neither_says_so(both: Both) -> None:
    class Other(FakeVllmEngine):
        def add_to_server(self, server: Any) -> None:
            pass

    with run_vllm_engine(Other()) as address:
        client = both.make(address)
        for _ in range(2):
            with pytest.raises(VLLMGrpcUnimplementedError):
                both.create(client, prompt=PROMPT)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("json_schema", "json"),
        ("regex", "regex"),
        ("grammar", "grammar"),
        ("structural_tag", "structural_tag"),
        ("json_object", "json_object"),
    ],
)
def test_each_constraint_has_a_field_in_the_other_protocol(name: str, field: str) -> None:
    value: Any = True if name == "json_object" else "[a-z]"
    params = CompletionRequest.of({}).to_grpc()
    setattr(params, name, value)
    _, made = translated("Generate", pb.GenerateRequest(sampling_params=params))
    assert isinstance(made, vllm_inference_pb2.GenerateRequest)
    assert made.decoding.WhichOneof("structured_output") == field
    assert getattr(made.decoding, field) == value


@pytest.mark.parametrize("count", [-1, 0, 1, 5])
def test_numbers_of_candidates_are_translated(count: int) -> None:
    params = CompletionRequest.of({"logprobs": count, "prompt_logprobs": count}).to_grpc()
    _, made = translated("Generate", pb.GenerateRequest(sampling_params=params))
    assert isinstance(made, vllm_inference_pb2.GenerateRequest)
    assert made.response.output_logprobs and made.response.prompt_logprobs
    for candidates in (made.response.output_candidates, made.response.prompt_candidates):
        assert (candidates.all, candidates.top_n) == (count == -1, max(count, 0))


def test_the_reply_is_asked_for_with_text_and_tokens_and_no_more() -> None:
    plain = CompletionRequest.of({}).to_grpc()
    _, made = translated("Generate", pb.GenerateRequest(sampling_params=plain))
    assert isinstance(made, vllm_inference_pb2.GenerateRequest)
    assert made.response == vllm_inference_pb2.ResponseOptions(
        output_text=True, output_token_ids=True, skip_special_tokens=True
    )
    scored = CompletionRequest.of({"logprobs": 0, "prompt_logprobs": 0}).to_grpc()
    _, made = translated("Generate", pb.GenerateRequest(sampling_params=scored))
    assert isinstance(made, vllm_inference_pb2.GenerateRequest)
    response = made.response
    assert response.output_logprobs and response.prompt_logprobs and response.prompt_token_ids
    for name in ("output_candidates", "prompt_candidates"):
        assert not response.HasField(name)  # the tokens' own are enough


def test_counts_and_reasons_are_translated() -> None:
    finish = vllm_inference_pb2.FinishInfo
    names = {finish.STOP: "stop", finish.LENGTH: "length", finish.ABORTED: "abort"}
    prompt = vllm_inference_pb2.PromptInfo(num_prompt_tokens=9)
    for reason, name in names.items():
        message = vllm_inference_pb2.GenerateResponse()
        message.outputs.token_ids.extend([5, 6])
        message.outputs.num_tokens = 2
        message.outputs.finish_info.finish_reason = reason
        message.outputs.finish_info.num_output_tokens = 7
        message.outputs.finish_info.num_cached_tokens = 3
        chunk, end = (one for one in engine_messages(message, prompt))
        assert (chunk.chunk.prompt_tokens, chunk.chunk.completion_tokens) == (9, 2)
        assert (end.complete.finish_reason, end.complete.completion_tokens) == (name, 7)
        assert end.complete.cached_tokens == 3


def test_a_prompt_cannot_be_cut_to_nothing_in_the_other_protocol() -> None:
    params = CompletionRequest.of({}).to_grpc()
    params.truncate_prompt_tokens = 0
    with pytest.raises(VLLMGrpcValidationError, match="truncate_prompt_tokens"):
        translated("Generate", pb.GenerateRequest(sampling_params=params))


def test_what_the_server_says_of_itself_is_translated() -> None:
    info = vllm_control_pb2.ModelInfo(model_id="i", served_model_name="n", supports_multimodal=True)
    assert engine_reply(info) == pb.GetModelInfoResponse(
        model_path="i", served_model_name="n", supports_vision=True, is_generation=True
    )
    health: Any = message_class("grpc.health.v1.HealthCheckResponse")
    for healthy, message in ((True, ""), (False, "not serving")):
        reply = health(status=health.SERVING if healthy else health.NOT_SERVING)
        assert engine_reply(reply) == pb.HealthCheckResponse(healthy=healthy, message=message)


def test_parameters_that_are_nested_too_deeply_are_refused() -> None:
    """A Struct holds a hundred levels."""
    deep = '{"a": ' * 200 + "1" + "}" * 200
    sent = pb.GenerateRequest(kv_transfer_params_json=deep)
    sent.sampling_params.spaces_between_special_tokens = True
    with pytest.raises(VLLMGrpcValidationError, match="kv_transfer_params"):
        translated("Generate", sent)
