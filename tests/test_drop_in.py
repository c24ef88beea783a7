"""Software built on the published package works unmodified with this one in its place.

The published servicer runs in an environment with this wheel, and, to show that the test tells of
the package and not of itself, in one with the package it was made for.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from peers.start import PUBLISHED, Servicer, published_servicer, servicer_environment
from support import ROOT, eventually, run

import smg_proto
from smg_proto import common_pb2, vllm_engine_pb2, vllm_engine_pb2_grpc

pytestmark = pytest.mark.packaging
END = 256
ENGINES = ["vllm_engine", "sglang_scheduler", "mlx_engine", "tokenspeed_scheduler"]


@pytest.fixture(scope="module", params=["this package", "published package"])
def servicer(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servicer]:
    ours = request.param == "this package"
    folder = tmp_path_factory.mktemp("servicer")
    python = servicer_environment(folder / "env", wheel if ours else PUBLISHED)
    with published_servicer(python, folder) as running:
        expected = smg_proto.__version__ if ours else PUBLISHED.partition("==")[2]
        assert running.proto_version == expected
        yield running


@pytest.fixture(scope="module")
def channel(servicer: Servicer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(servicer.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> vllm_engine_pb2_grpc.VllmEngineStub:
    return vllm_engine_pb2_grpc.VllmEngineStub(channel)


def test_servicers_of_all_engines_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    python = servicer_environment(tmp_path / "env", wheel)
    output = json.loads(run(python, ROOT / "tests" / "peers" / "old_imports.py", cwd=tmp_path))
    assert output["uses"] > 100
    assert {f"{engine}_pb2_grpc" for engine in ENGINES} <= set(output["modules"])
    assert not output["missing"]


def request(
    text: str, request_id: str = "", *, stream: bool = True, **params: object
) -> vllm_engine_pb2.GenerateRequest:
    return vllm_engine_pb2.GenerateRequest(
        request_id=request_id,
        tokenized=vllm_engine_pb2.TokenizedInput(input_ids=list(text.encode())),
        sampling_params=vllm_engine_pb2.SamplingParams(**params),  # type: ignore[arg-type]
        stream=stream,
    )


def test_streams_deltas(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> None:
    *chunks, last = stub.Generate(request("hello"))
    assert [list(answer.chunk.token_ids) for answer in chunks] == [
        [104, 101],
        [108, 108],
        [111, END],
    ]
    assert {answer.chunk.prompt_tokens for answer in chunks} == {5}
    assert last.complete.finish_reason == "stop"
    assert list(last.complete.output_ids) == [111, END]  # the last delta again


def test_a_unary_reply_has_every_choice(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> None:
    answers = [answer.complete for answer in stub.Generate(request("hello", stream=False, n=3))]
    assert [(answer.index, bytes(answer.output_ids[:-1])) for answer in answers] == [
        (0, b"hello"),
        (1, b"ello"),
        (2, b"llo"),
    ]


def test_logprobs_and_stops_arrive(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> None:
    sent = request("one two", stream=False, logprobs=2, prompt_logprobs=1, stop=["e t"])
    (answer,) = (answer.complete for answer in stub.Generate(sent))
    assert bytes(answer.output_ids) == b"one t"
    assert answer.WhichOneof("matched_stop") == "matched_stop_str"
    assert answer.matched_stop_str == "e t"
    assert list(answer.output_logprobs.top_logprobs[0].token_ids) == [ord("o"), ord("o") + 1]
    assert not answer.input_logprobs.token_logprobs[0].HasField("value")
    assert answer.input_logprobs.token_logprobs[1].value == -(ord("n") % 8) / 8
    sent = request("one two", stream=False, stop_token_ids=[ord("e")])
    (answer,) = (answer.complete for answer in stub.Generate(sent))
    assert answer.matched_token_id == ord("e")


def test_the_engine_gets_the_parameters(
    stub: vllm_engine_pb2_grpc.VllmEngineStub, servicer: Servicer
) -> None:
    constraint = vllm_engine_pb2.ChoiceConstraint(choices=["a", "b"])
    sent = request("ab", "sent", temperature=0.0, seed=0, max_tokens=1, choice=constraint)
    sent.data_parallel_rank = 0
    *_, last = stub.Generate(sent, metadata=(("traceparent", "00-1-1-00"),))
    assert last.complete.finish_reason == "length"
    (result,) = (
        event
        for event in servicer.events()
        if event.get("request_id") == "sent" and event["event"] == "generate"
    )
    params = result["sampling_params"]
    assert (params["temperature"], params["top_p"], params["seed"]) == (0.0, 1.0, 0)
    assert params["structured_outputs"] == {"choice": ["a", "b"]}
    assert result["data_parallel_rank"] == 0
    assert result["trace_headers"] == {"traceparent": "00-1-1-00"}


def test_abort_ends_a_stream(stub: vllm_engine_pb2_grpc.VllmEngineStub, servicer: Servicer) -> None:
    answers = stub.Generate(request("!hold", "aborted"))
    assert next(answers).HasField("chunk")
    stub.Abort(vllm_engine_pb2.AbortRequest(request_ids=["aborted", "unknown"]))
    assert list(answers)[-1].complete.finish_reason == "abort"
    assert {"event": "aborted", "request_id": "aborted"} in servicer.events()


def test_cancelling_reaches_the_engine(
    stub: vllm_engine_pb2_grpc.VllmEngineStub, servicer: Servicer
) -> None:
    answers = stub.Generate(request("!hold", "dropped"))
    assert next(answers).HasField("chunk")
    answers.cancel()
    eventually(lambda: {"event": "cancelled", "request_id": "dropped"} in servicer.events())


@pytest.mark.parametrize(
    ("sent", "code", "chunks"),
    [
        (request(""), grpc.StatusCode.INVALID_ARGUMENT, 0),
        (request("a", temperature=3.0), grpc.StatusCode.INVALID_ARGUMENT, 0),
        (request("!fail:client"), grpc.StatusCode.INVALID_ARGUMENT, 0),
        (request("!fail:not_found"), grpc.StatusCode.NOT_FOUND, 0),
        (request("!fail:overload"), grpc.StatusCode.RESOURCE_EXHAUSTED, 0),
        (request("!fail:unavailable"), grpc.StatusCode.UNAVAILABLE, 0),
        (request("!fail:other@4"), grpc.StatusCode.INTERNAL, 2),
    ],
    ids=lambda value: str(value) if isinstance(value, grpc.StatusCode) else "",
)
def test_failures_arrive_as_statuses(
    stub: vllm_engine_pb2_grpc.VllmEngineStub,
    sent: vllm_engine_pb2.GenerateRequest,
    code: grpc.StatusCode,
    chunks: int,
) -> None:
    seen: list[vllm_engine_pb2.GenerateResponse] = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in stub.Generate(sent):
            seen.append(answer)
    assert isinstance(caught.value, grpc.Call) and caught.value.code() is code
    assert len(seen) == chunks


def test_the_other_rpcs_answer(
    stub: vllm_engine_pb2_grpc.VllmEngineStub, channel: grpc.Channel
) -> None:
    assert stub.HealthCheck(vllm_engine_pb2.HealthCheckRequest()).healthy
    model = stub.GetModelInfo(vllm_engine_pb2.GetModelInfoRequest())
    assert (model.served_model_name, list(model.eos_token_ids)) == ("echo", [END])
    assert stub.GetServerInfo(vllm_engine_pb2.GetServerInfoRequest()).max_num_seqs == 8
    assert stub.GetLoads(vllm_engine_pb2.GetLoadsRequest()).dp_rank_count == 1
    tokenized = vllm_engine_pb2.TokenizedInput(input_ids=[0, 1, 1, 2])
    embedded = stub.Embed(vllm_engine_pb2.EmbedRequest(tokenized=tokenized))
    assert list(embedded.embedding) == [0.25, 0.5, 0.25, 0, 0, 0, 0, 0]
    assert stub.FlushCache(common_pb2.FlushCacheRequest()).success
    assert stub.StartProfile(common_pb2.StartProfileRequest()).success
    assert stub.StopProfile(common_pb2.StopProfileRequest()).success
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    health = check(health_pb2.HealthCheckRequest(service="vllm.grpc.engine.VllmEngine"))
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_the_tokenizer_arrives_complete(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> None:
    chunks = list(stub.GetTokenizer(common_pb2.GetTokenizerRequest()))
    archive = b"".join(chunk.data for chunk in chunks)
    assert chunks[-1].sha256 == hashlib.sha256(archive).hexdigest()
    assert "tokenizer.json" in zipfile.ZipFile(io.BytesIO(archive)).namelist()


def test_an_engine_error_can_end_with_ok(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> None:
    *_, last = stub.Generate(request("!finish:error"))
    assert last.complete.finish_reason == "error"


def test_a_prompt_seen_before_is_cached_until_flushed(
    stub: vllm_engine_pb2_grpc.VllmEngineStub,
) -> None:
    def cached() -> int:
        (answer,) = stub.Generate(request("x" * 40, stream=False))
        return answer.complete.cached_tokens

    assert [cached(), cached()] == [0, 32]
    assert stub.FlushCache(common_pb2.FlushCacheRequest()).success
    assert cached() == 0


def test_events_are_off(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest()))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
