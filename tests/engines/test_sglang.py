"""`sglang.runtime.v1` on our stubs: SGLang's own gRPC server, and the fake beside it.

Behind the server of SGLang 0.5.23 stands the small model, which the fake has too. What the server
itself does shows: requests as its runtime gets them, chunks as they travel, refusals, aborts.
"""

import functools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support import eventually

from engines.conftest import Running
from engines.running import Engine
from smg_proto import sglang_runtime_pb2 as pb
from smg_proto import sglang_runtime_pb2_grpc
from smg_proto.testing._generation import Sampling, generate
from smg_proto.testing._model import model

FAKE = "fake sglang.runtime.v1"
REAL = pytest.param("sglang", marks=pytest.mark.engines)
DELTAS = pytest.param("sglang incremental", marks=pytest.mark.engines)
PROMPT = "One contract"
IDS = model().tokenizer.encode(PROMPT)
TIMEOUT = 60

Stub = sglang_runtime_pb2_grpc.SglangServiceStub


@pytest.fixture(params=[FAKE, REAL])
def engine(request: pytest.FixtureRequest, running: Running) -> Engine:
    return running(request.param)


@pytest.fixture
def channel(engine: Engine) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(engine.target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


def by_text(**fields: Any) -> pb.TextGenerateRequest:
    """A request for eight greedy tokens, unless the fields say otherwise."""
    greedy = pb.SamplingParams(max_new_tokens=8, temperature=0)
    request = pb.TextGenerateRequest(text=PROMPT, sampling_params=greedy)
    request.MergeFrom(pb.TextGenerateRequest(**fields))
    return request


def by_ids(ids: list[int] = IDS, **fields: Any) -> pb.GenerateRequest:
    greedy = pb.SamplingParams(max_new_tokens=8, temperature=0)
    request = pb.GenerateRequest(input_ids=ids, sampling_params=greedy)
    request.MergeFrom(pb.GenerateRequest(**fields))
    return request


def long_request(**fields: Any) -> pb.GenerateRequest:
    sampling = {"max_new_tokens": 1000, "ignore_eos": True}
    return by_ids(sampling_params=sampling, stream=True, **fields)


def output(prompt: list[int], **sampling: Any) -> list[int]:
    """The tokens that the small model says to this."""
    sent = Sampling(**{"temperature": 0.0, "max_tokens": 8, **sampling})
    return [piece.step.token for piece in generate(model(), prompt, sent)]


def meta(message: Any) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in message.meta_info.items()}


def status(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_without_stream_one_message_has_all(stub: Stub) -> None:
    (reply,) = stub.TextGenerate(by_text(), timeout=TIMEOUT)
    assert reply.finished and reply.text == model().tokenizer.decode(output(IDS))
    result = meta(reply)
    assert (result["prompt_tokens"], result["completion_tokens"]) == (len(IDS), 8)
    assert result["finish_reason"] == {"type": "length", "length": 8}
    (tokens,) = stub.Generate(by_ids(), timeout=TIMEOUT)
    assert list(tokens.output_ids) == output(IDS)


def test_each_message_of_a_stream_repeats_all_so_far(stub: Stub) -> None:
    messages = list(stub.Generate(by_ids(stream=True), timeout=TIMEOUT))
    assert [list(one.output_ids) for one in messages] == [output(IDS)[: n + 1] for n in range(8)]
    assert [one.finished for one in messages] == [False] * 7 + [True]
    assert [meta(one)["completion_tokens"] for one in messages] == [*range(1, 9)]
    *_, last = stub.TextGenerate(by_text(stream=True), timeout=TIMEOUT)
    assert last.text == model().tokenizer.decode(output(IDS))


@pytest.mark.parametrize("engine", [DELTAS], indirect=True)
def test_started_to_stream_increments_it_sends_what_is_new(stub: Stub) -> None:
    messages = list(stub.Generate(by_ids(stream=True), timeout=TIMEOUT))
    assert [list(one.output_ids) for one in messages] == [[token] for token in output(IDS)]
    texts = [one.text for one in stub.TextGenerate(by_text(stream=True), timeout=TIMEOUT)]
    assert len(texts) == 8 and "".join(texts) == model().tokenizer.decode(output(IDS))


def test_a_cancelled_stream_is_aborted_in_the_engine(engine: Engine, stub: Stub) -> None:
    engine.pace(0.02)
    before = engine.aborts()
    call = stub.Generate(long_request(), timeout=TIMEOUT)
    next(call), next(call)
    eventually(lambda: engine.running() == 1)
    call.cancel()
    eventually(lambda: engine.aborts() == before + 1, "the engine saw an abort")
    eventually(lambda: engine.running() == 0)


def test_abort_by_id_ends_the_stream_as_cancelled(engine: Engine, stub: Stub) -> None:
    engine.pace(0.02)
    before = engine.aborts()
    call = stub.Generate(long_request(rid="mine"), timeout=TIMEOUT)
    next(call), next(call)
    assert stub.Abort(pb.AbortRequest(rid="mine"), timeout=TIMEOUT).success
    assert status(lambda: list(call)) == (grpc.StatusCode.CANCELLED, "Request aborted: mine")
    eventually(lambda: engine.aborts() == before + 1, "the engine saw an abort")


def test_abort_all_ends_every_stream(engine: Engine, stub: Stub) -> None:
    engine.pace(0.02)
    calls = [stub.Generate(long_request(), timeout=TIMEOUT) for _ in range(3)]
    for call in calls:
        next(call)
    assert stub.Abort(pb.AbortRequest(abort_all=True), timeout=TIMEOUT).success
    for call in calls:
        code, _ = status(functools.partial(list, call))
        assert code is grpc.StatusCode.CANCELLED
    code, _ = status(lambda: stub.Abort(pb.AbortRequest(), timeout=TIMEOUT))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_aborting_an_unknown_request_succeeds(stub: Stub) -> None:
    assert stub.Abort(pb.AbortRequest(rid="nobody's"), timeout=TIMEOUT).success


def test_a_stop_string_cuts_the_text(stub: Stub) -> None:
    text = model().tokenizer.decode(output(IDS))
    stop = text[9:13]
    request = by_text(sampling_params={"stop": ["never", stop]})
    (reply,) = stub.TextGenerate(request, timeout=TIMEOUT)
    assert reply.text == text[: text.index(stop)]
    assert meta(reply)["finish_reason"] == {"type": "stop", "matched": stop}


def test_a_stop_token_is_named(stub: Stub) -> None:
    stop = output(IDS)[3]
    (reply,) = stub.Generate(by_ids(sampling_params={"stop_token_ids": [stop]}), timeout=TIMEOUT)
    assert meta(reply)["finish_reason"] == {"type": "stop", "matched": stop}
    assert list(reply.output_ids) == output(IDS)[:4]


def test_several_sequences_come_without_an_index(stub: Stub) -> None:
    sampling = {"n": 3, "temperature": 1.5, "max_new_tokens": 30}
    replies = list(stub.TextGenerate(by_text(sampling_params=sampling), timeout=TIMEOUT))
    assert [one.finished for one in replies] == [False, False, True]
    assert len({one.text for one in replies}) > 1


def test_a_seed_repeats_itself(stub: Stub) -> None:
    def text(seed: int) -> str:
        sampling = {"seed": seed, "temperature": 1.5, "max_new_tokens": 30}
        (reply,) = stub.TextGenerate(by_text(sampling_params=sampling), timeout=TIMEOUT)
        return reply.text

    assert text(2**40) == text(2**40)
    assert len({text(seed) for seed in range(5)}) > 1


def test_log_probabilities_travel_as_json(stub: Stub) -> None:
    sent = {"return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True}
    (reply,) = stub.TextGenerate(by_text(**sent), timeout=TIMEOUT)
    result = meta(reply)
    pieces = list(generate(model(), IDS, Sampling(temperature=0.0, max_tokens=8, logprobs=2)))
    for piece, row, top in zip(
        pieces, result["output_token_logprobs"], result["output_top_logprobs"], strict=True
    ):
        assert row[0] == pytest.approx(piece.step.logprob) and row[1] == piece.step.token
        assert row[2] == model().tokenizer.decode([piece.step.token])
        assert [token for _, token, _ in top] == [token for token, _ in piece.step.top]


def test_constraints_reach_the_engine(stub: Stub) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    for sampling in ({"json_schema": schema}, {"guided_decoding": {"json_schema": schema}}):
        (reply,) = stub.TextGenerate(by_text(sampling_params=sampling), timeout=TIMEOUT)
        assert reply.text == '{"a": 0}'
    choice = {"guided_decoding": {"choice": {"values": ["a.b (c)", "no"]}}}
    (reply,) = stub.TextGenerate(by_text(sampling_params=choice), timeout=TIMEOUT)
    assert reply.text == "a.b (c)"


def test_rejections_by_the_runtime_are_internal(engine: Engine, stub: Stub) -> None:
    for reason, request in {
        "temperature must be": by_ids(sampling_params={"temperature": -1}),
        "top_p must be": by_ids(sampling_params={"top_p": 1.5}),
        "outside of the vocabulary": by_ids([engine.vocabulary]),
        "is empty": by_ids([]),
        "longer than the model's context": by_ids([300] * engine.context),
        "LoRA is not enabled": by_ids(lora_path="adapter"),
    }.items():
        code, details = status(functools.partial(list, stub.Generate(request, timeout=20)))
        assert (code, reason in details) == (grpc.StatusCode.INTERNAL, True), details


def test_a_message_over_four_mib_arrives(stub: Stub) -> None:
    request = by_text(text="contract " * (1 << 19))
    code, details = status(lambda: list(stub.TextGenerate(request, timeout=TIMEOUT)))
    assert code is grpc.StatusCode.INTERNAL and "longer than the model's context" in details


def test_a_long_stream_is_complete(stub: Stub) -> None:
    *_, last = stub.Generate(long_request(), timeout=TIMEOUT)
    assert list(last.output_ids) == output(IDS, max_tokens=1000, ignore_eos=True)


def test_twenty_concurrent_requests_give_the_same_output(stub: Stub) -> None:
    prompts = [[300 + number, *IDS] for number in range(20)]

    def tokens(prompt: list[int]) -> list[int]:
        request = by_ids(prompt, sampling_params={"max_new_tokens": 30}, stream=True)
        *_, last = stub.Generate(request, timeout=TIMEOUT)
        return list(last.output_ids)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(tokens, prompts))
    assert found == [output(prompt, max_tokens=30) for prompt in prompts]


def test_a_slow_reader_loses_nothing(engine: Engine, stub: Stub) -> None:
    call = stub.Generate(long_request(), timeout=TIMEOUT)
    next(call)
    (reply,) = stub.Generate(by_ids(), timeout=TIMEOUT)  # others go on meanwhile
    assert list(reply.output_ids) == output(IDS)
    *_, last = call
    assert list(last.output_ids) == output(IDS, max_tokens=1000, ignore_eos=True)
    eventually(lambda: engine.running() == 0)


@pytest.mark.parametrize("name", [FAKE, REAL])
def test_a_server_that_stops_ends_the_stream(running: Running, name: str) -> None:
    with running.fresh(name) as engine, grpc.insecure_channel(engine.target) as channel:
        engine.pace(0.02)
        call = Stub(channel).Generate(long_request(), timeout=TIMEOUT)
        next(call), next(call)
        engine.stop()
        code, _ = status(lambda: list(call))
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_health_is_an_rpc_of_its_own(stub: Stub) -> None:
    assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=TIMEOUT).healthy


@pytest.mark.parametrize("engine", [REAL], indirect=True)
def test_the_standard_services_are_not_there(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    code, _ = status(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    code, _ = status(lambda: list(stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT)))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_server_and_model_info(engine: Engine, stub: Stub) -> None:
    info = stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=TIMEOUT)
    assert json.loads(info.json_info)["served_model_name"] == engine.model
    assert info.model_path == json.loads(info.json_info)["model_path"]
    server = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=TIMEOUT)
    assert json.loads(server.json_info)["version"] == "0.5.23"
    (card,) = stub.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT).models
    assert (card.id, card.max_model_len) == (engine.model, engine.context)


def test_load_travels_as_json(engine: Engine, stub: Stub) -> None:
    engine.pace(0.02)
    call = stub.Generate(long_request(), timeout=TIMEOUT)
    next(call)
    (load,) = json.loads(stub.GetLoad(pb.GetLoadRequest(), timeout=TIMEOUT).json_info)
    assert load["num_running_reqs"] == 1
    call.cancel()
    eventually(lambda: engine.running() == 0)


def test_tokens_both_ways(stub: Stub) -> None:
    reply = stub.Tokenize(pb.TokenizeRequest(text=PROMPT), timeout=TIMEOUT)
    assert (list(reply.tokens), reply.count) == (IDS, len(IDS))
    assert stub.Detokenize(pb.DetokenizeRequest(tokens=IDS), timeout=TIMEOUT).text == PROMPT


def test_embeddings_of_text_and_of_token_ids(stub: Stub) -> None:
    by_text = stub.TextEmbed(pb.TextEmbedRequest(text=PROMPT), timeout=TIMEOUT)
    by_ids = stub.Embed(pb.EmbedRequest(input_ids=IDS), timeout=TIMEOUT)
    assert list(by_text.embedding) == list(by_ids.embedding)
    assert list(by_ids.embedding) == pytest.approx(model().embed(IDS), abs=1e-6)


def test_the_cache_is_flushed(stub: Stub) -> None:
    assert stub.FlushCache(pb.FlushCacheRequest(), timeout=TIMEOUT).success
