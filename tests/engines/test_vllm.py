"""`vllm.Inference` and `vllm.Control` on our stubs: vLLM's own frontend, and the fake beside it.

Behind the frontend of vLLM 0.33 stands the small model, which the fake has too. So the two answer
alike, and what shows is the frontend's own doing: text out of tokens, stop strings, limits,
refusals, aborts.
"""

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
from smg_proto import vllm_control_pb2 as control
from smg_proto import vllm_control_pb2_grpc, vllm_inference_pb2_grpc
from smg_proto import vllm_inference_pb2 as inference
from smg_proto.testing._generation import Sampling, generate
from smg_proto.testing._model import model

REAL = pytest.param("vllm-rs", marks=pytest.mark.engines)
PROMPT = "One contract"
IDS = model().tokenizer.encode(PROMPT)
TIMEOUT = 60


@pytest.fixture(params=["fake vllm", REAL])
def engine(request: pytest.FixtureRequest, running: Running) -> Engine:
    return running(request.param)


@pytest.fixture
def channel(engine: Engine) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(engine.target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> vllm_inference_pb2_grpc.InferenceStub:
    return vllm_inference_pb2_grpc.InferenceStub(channel)


@pytest.fixture
def control_stub(channel: grpc.Channel) -> vllm_control_pb2_grpc.ControlStub:
    return vllm_control_pb2_grpc.ControlStub(channel)


def sent(**fields: Any) -> inference.GenerateRequest:
    """A request for eight greedy tokens with their ids, unless the fields say otherwise."""
    request = inference.GenerateRequest(text=PROMPT, temperature=0)
    request.stopping.max_new_tokens = 8
    request.response.output_token_ids = True
    request.MergeFrom(inference.GenerateRequest(**fields))
    return request


def long_request(**fields: Any) -> inference.GenerateRequest:
    return sent(stopping={"max_new_tokens": 2000, "ignore_eos": True}, **fields)


def output(prompt: list[int], **sampling: Any) -> list[int]:
    """The tokens that the small model says to this."""
    sent = Sampling(**{"temperature": 0.0, "max_tokens": 8, **sampling})
    return [piece.step.token for piece in generate(model(), prompt, sent)]


def status(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def refused(stub: vllm_inference_pb2_grpc.InferenceStub, **fields: Any) -> str:
    """The reason of an INVALID_ARGUMENT, unary and streamed."""
    code, details = status(lambda: stub.Generate(sent(**fields), timeout=TIMEOUT))
    assert code is grpc.StatusCode.INVALID_ARGUMENT, details
    streamed = status(lambda: list(stub.GenerateStream(sent(**fields), timeout=TIMEOUT)))
    assert streamed[0] is code
    return details


def test_a_unary_reply_is_complete(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    reply = stub.Generate(sent(response={"prompt_token_ids": True}), timeout=TIMEOUT)
    assert list(reply.prompt_info.token_ids) == IDS
    assert list(reply.outputs.token_ids) == output(IDS)
    assert reply.outputs.text == model().tokenizer.decode(output(IDS))
    finish = reply.outputs.finish_info
    assert finish.finish_reason == inference.FinishInfo.LENGTH
    assert (finish.num_output_tokens, reply.prompt_info.num_prompt_tokens) == (8, len(IDS))


def test_a_stream_is_prompt_info_then_pieces_then_finish_info(
    stub: vllm_inference_pb2_grpc.InferenceStub,
) -> None:
    first, *rest = stub.GenerateStream(sent(), timeout=TIMEOUT)
    assert first.HasField("prompt_info") and not first.HasField("outputs")
    assert [token for message in rest for token in message.outputs.token_ids] == output(IDS)
    text = "".join(message.outputs.text for message in rest)
    assert text == model().tokenizer.decode(output(IDS))
    ended = [message.outputs.HasField("finish_info") for message in rest]
    assert ended == [False] * (len(rest) - 1) + [True]


def test_token_ids_and_text_are_equal_prompts(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    request = sent(token_ids={"ids": IDS})
    assert stub.Generate(request, timeout=TIMEOUT) == stub.Generate(sent(), timeout=TIMEOUT)


def test_sampling_is_greedy_without_a_temperature(
    stub: vllm_inference_pb2_grpc.InferenceStub,
) -> None:
    request = sent()
    request.ClearField("temperature")
    assert list(stub.Generate(request, timeout=TIMEOUT).outputs.token_ids) == output(IDS)


def test_a_cancelled_stream_is_aborted_in_the_engine(
    engine: Engine, stub: vllm_inference_pb2_grpc.InferenceStub
) -> None:
    engine.pace(0.02)
    before = engine.aborts()
    call = stub.GenerateStream(long_request(), timeout=TIMEOUT)
    next(call), next(call)
    eventually(lambda: engine.running() == 1)
    call.cancel()
    eventually(lambda: engine.aborts() == before + 1, "the engine saw an abort")
    eventually(lambda: engine.running() == 0)


def test_a_unary_call_that_runs_out_of_time_is_aborted_in_the_engine(
    engine: Engine, stub: vllm_inference_pb2_grpc.InferenceStub
) -> None:
    engine.pace(0.05)
    before = engine.aborts()
    code, _ = status(lambda: stub.Generate(long_request(), timeout=1))
    # Its own timer, or the server's, which answers CANCELLED: whichever is first.
    assert code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    eventually(lambda: engine.aborts() == before + 1, "the engine saw an abort")


def test_abort_by_id_ends_the_stream_as_aborted(
    engine: Engine,
    stub: vllm_inference_pb2_grpc.InferenceStub,
    control_stub: vllm_control_pb2_grpc.ControlStub,
) -> None:
    engine.pace(0.02)
    before = engine.aborts()
    call = stub.GenerateStream(long_request(request_id="mine"), timeout=TIMEOUT)
    next(call), next(call)
    control_stub.Abort(control.AbortRequest(request_ids=["mine", "nobody's"]), timeout=TIMEOUT)
    *_, last = call
    assert last.outputs.finish_info.finish_reason == inference.FinishInfo.ABORTED
    eventually(lambda: engine.aborts() == before + 1, "the engine saw an abort")


def test_a_stop_string_cuts_the_text(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    text = model().tokenizer.decode(output(IDS))
    stop = text[9:13]
    for include in (False, True):
        stopping = {"stop_strings": [stop], "include_stop_strings": include}
        reply = stub.Generate(sent(stopping=stopping), timeout=TIMEOUT)
        assert reply.outputs.text == text[: text.index(stop)] + (stop if include else "")
        assert reply.outputs.finish_info.finish_reason == inference.FinishInfo.STOP
        assert reply.outputs.finish_info.stop_string == stop
        streamed = stub.GenerateStream(sent(stopping=stopping), timeout=TIMEOUT)
        assert "".join(message.outputs.text for message in streamed) == reply.outputs.text


def test_a_stop_token_is_named_and_leaves_no_text(
    stub: vllm_inference_pb2_grpc.InferenceStub,
) -> None:
    stop = output(IDS)[3]
    reply = stub.Generate(sent(stopping={"stop_token_ids": [stop]}), timeout=TIMEOUT)
    assert reply.outputs.finish_info.stop_token_id == stop
    assert list(reply.outputs.token_ids) == output(IDS)[:4]
    assert reply.outputs.text == model().tokenizer.decode(output(IDS)[:3])


def test_the_end_token_is_reported_separately_from_stop_tokens(
    stub: vllm_inference_pb2_grpc.InferenceStub,
) -> None:
    reply = stub.Generate(sent(stopping={"max_new_tokens": 500}), timeout=TIMEOUT)
    finish = reply.outputs.finish_info
    assert (finish.finish_reason, finish.eos_token_id) == (inference.FinishInfo.STOP, 2)
    ignored = stub.Generate(
        sent(stopping={"max_new_tokens": 500, "ignore_eos": True}), timeout=TIMEOUT
    )
    assert ignored.outputs.finish_info.num_output_tokens == 500


def test_a_seed_repeats_itself(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    def text(seed: int) -> str:
        request = sent(temperature=1.5, sampling={"seed": seed}, stopping={"max_new_tokens": 40})
        return stub.Generate(request, timeout=TIMEOUT).outputs.text

    assert text(5) == text(5)
    assert len({text(seed) for seed in range(5)}) > 1


def test_log_probabilities_of_prompt_and_output(
    stub: vllm_inference_pb2_grpc.InferenceStub,
) -> None:
    wanted = {
        "prompt_logprobs": True,
        "prompt_candidates": {"top_n": 2},
        "output_logprobs": True,
        "output_candidates": {"top_n": 2},
    }
    reply = stub.Generate(sent(response=wanted), timeout=TIMEOUT)
    pieces = list(generate(model(), IDS, Sampling(temperature=0.0, max_tokens=8, logprobs=2)))
    expected = [piece.step.logprob for piece in pieces]
    assert list(reply.outputs.logprobs) == pytest.approx(expected, abs=1e-5)
    assert list(reply.outputs.ranks) == [1] * 8
    for piece, result in zip(pieces, reply.outputs.candidate_tokens, strict=True):
        assert [token.id for token in result.tokens] == [token for token, _ in piece.step.top]
    # The first token of a prompt has nothing before it.
    assert reply.prompt_info.logprobs[0] == 0 and reply.prompt_info.ranks[0] == 0
    assert len(reply.prompt_info.logprobs) == len(IDS)


def test_log_probabilities_have_a_limit(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    wanted = {"output_logprobs": True, "output_candidates": {"top_n": 50}}
    assert "greater than max allowed: 20" in refused(stub, response=wanted)


def test_constraints_reach_the_engine(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    choice = stub.Generate(sent(decoding={"choice": {"choices": ["yes", "no"]}}), timeout=TIMEOUT)
    assert choice.outputs.text == "yes"
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    reply = stub.Generate(sent(decoding={"json": schema}), timeout=TIMEOUT)
    assert reply.outputs.text == '{"a": 0}'
    assert "invalid json schema" in refused(stub, decoding={"json": "{bad"}).lower()


def test_values_out_of_range_are_rejected(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "temperature": {"temperature": -1},
        "top_p": {"sampling": {"top_p": 0.0}},
        "num_sequences": {"sampling": {"num_sequences": 2}},
        "min_tokens": {"stopping": {"min_new_tokens": 9}},
        "vocabulary": {"token_ids": {"ids": [100_000]}},
    }
    for name, fields in wrong.items():
        assert name in refused(stub, **fields)
    empty = inference.GenerateRequest(token_ids=inference.TokenIds())
    code, _ = status(lambda: stub.Generate(empty, timeout=TIMEOUT))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_prompt_beyond_the_context_is_rejected(
    engine: Engine, stub: vllm_inference_pb2_grpc.InferenceStub
) -> None:
    assert "context" in refused(stub, token_ids={"ids": [300] * engine.context})


def test_a_message_over_four_mib_arrives(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    request = sent(text="contract " * (1 << 19))
    code, details = status(lambda: stub.Generate(request, timeout=TIMEOUT))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "context" in details


def test_another_model_is_not_found(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    code, details = status(lambda: stub.Generate(sent(model="other"), timeout=TIMEOUT))
    assert code is grpc.StatusCode.NOT_FOUND and "other" in details


def test_lora_is_refused_when_it_is_off(
    stub: vllm_inference_pb2_grpc.InferenceStub, control_stub: vllm_control_pb2_grpc.ControlStub
) -> None:
    code, _ = status(lambda: stub.Generate(sent(lora_name="adapter"), timeout=TIMEOUT))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    listing = control.ListLorasRequest()
    code, _ = status(lambda: control_stub.ListLoras(listing, timeout=TIMEOUT))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_long_stream_is_complete(stub: vllm_inference_pb2_grpc.InferenceStub) -> None:
    tokens = [
        token
        for message in stub.GenerateStream(long_request(), timeout=TIMEOUT)
        for token in message.outputs.token_ids
    ]
    assert tokens == output(IDS, max_tokens=2000, ignore_eos=True)


def test_twenty_concurrent_requests_give_the_same_output(
    stub: vllm_inference_pb2_grpc.InferenceStub,
) -> None:
    prompts = [[300 + number, *IDS] for number in range(20)]

    def tokens(prompt: list[int]) -> list[int]:
        request = sent(token_ids={"ids": prompt}, stopping={"max_new_tokens": 30})
        streamed = stub.GenerateStream(request, timeout=TIMEOUT)
        return [token for message in streamed for token in message.outputs.token_ids]

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(tokens, prompts))
    assert found == [output(prompt, max_tokens=30) for prompt in prompts]


def test_a_slow_reader_loses_nothing(
    engine: Engine, stub: vllm_inference_pb2_grpc.InferenceStub
) -> None:
    call = stub.GenerateStream(long_request(), timeout=TIMEOUT)
    next(call)
    eventually(lambda: engine.running() == 0, "the engine is done, the client is not")
    tokens = [token for message in call for token in message.outputs.token_ids]
    assert tokens == output(IDS, max_tokens=2000, ignore_eos=True)


@pytest.mark.parametrize("name", ["fake vllm", REAL])
def test_a_server_that_stops_ends_the_stream(running: Running, name: str) -> None:
    with running.fresh(name) as engine, grpc.insecure_channel(engine.target) as channel:
        engine.pace(0.02)
        stub = vllm_inference_pb2_grpc.InferenceStub(channel)
        call = stub.GenerateStream(long_request(), timeout=TIMEOUT)
        next(call), next(call)
        engine.stop()
        code, _ = status(lambda: list(call))
        # A process that is killed, or a server that cancels what is in flight.
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_health_is_of_the_server_and_of_each_service(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for service in ("", "vllm.Inference", "vllm.Control"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    unknown = health_pb2.HealthCheckRequest(service="vllm.grpc.engine.VllmEngine")
    code, _ = status(lambda: health.Check(unknown, timeout=TIMEOUT))
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("engine", [REAL], indirect=True)
def test_there_is_no_reflection(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    code, _ = status(lambda: list(stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT)))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_server_and_model_info(
    engine: Engine, control_stub: vllm_control_pb2_grpc.ControlStub
) -> None:
    server = control_stub.GetServerInfo(control.GetServerInfoRequest(), timeout=TIMEOUT)
    assert (server.api_version, server.proto_version) == ("vllm", "0.6.0")
    assert (server.max_model_len, server.max_running_requests) == (engine.context, 256)
    info = control_stub.GetModelInfo(control.GetModelInfoRequest(), timeout=TIMEOUT)
    assert info.served_model_name == engine.model
    assert info.supports_text_input and info.supports_token_ids_input and not info.supports_lora


def test_disabled_features_are_named(control_stub: vllm_control_pb2_grpc.ControlStub) -> None:
    assert not control_stub.IsSleeping(control.IsSleepingRequest(), timeout=TIMEOUT).sleeping
    assert not control_stub.IsPaused(control.IsPausedRequest(), timeout=TIMEOUT).paused


@pytest.mark.parametrize("engine", [REAL], indirect=True)
def test_tls_with_a_certificate(engine: Engine) -> None:
    assert engine.tls
    target, roots = engine.tls
    credentials = grpc.ssl_channel_credentials(roots)
    with grpc.secure_channel(target, credentials) as channel:
        stub = vllm_inference_pb2_grpc.InferenceStub(channel)
        reply = stub.Generate(sent(), timeout=TIMEOUT, wait_for_ready=True)
    assert list(reply.outputs.token_ids) == output(IDS)
    with grpc.insecure_channel(target) as channel:
        stub = vllm_inference_pb2_grpc.InferenceStub(channel)
        code, _ = status(lambda: stub.Generate(sent(), timeout=TIMEOUT))
        assert code is grpc.StatusCode.UNAVAILABLE
