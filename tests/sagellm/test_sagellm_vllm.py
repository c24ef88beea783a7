"""The bridges with the real client and an engine behind a socket."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from smg_proto import vllm_engine_pb2_grpc
from smg_proto.sagellm import (
    ErrorCode,
    Request,
    SamplingParams,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
    astream_events,
    create_arguments,
    response_from_events,
    stream_events,
    to_generate_request,
)
from smg_proto.testing import Address, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.vllm import AsyncVLLMGrpcClient, TokenDecoder, VLLMGrpcClient, VLLMGrpcInternalError

REQUEST = Request(
    request_id="r",
    trace_id="t",
    prompt="Once upon a time",
    max_tokens=8,
    stream=True,
    sampling_params=SamplingParams(temperature=0.0),
)


@pytest.fixture
def engine() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine() as address:
        yield address


@pytest.fixture
def client(engine: Address[FakeVllmEngine]) -> Iterator[VLLMGrpcClient]:
    host, _, port = engine.rpartition(":")
    with VLLMGrpcClient(host, int(port), max_retries=0) as client:
        yield client


def test_a_stream_of_the_client_becomes_events_with_measured_metrics(
    client: VLLMGrpcClient,
) -> None:
    decoder = TokenDecoder.from_client(client)
    arguments = create_arguments(REQUEST)
    at_once: dict[str, Any] = arguments | {"stream_options": None}
    whole = client.completions.create(stream=False, decoder=decoder, **at_once)
    began = time.perf_counter()
    stream = client.completions.create(stream=True, decoder=decoder, **arguments)
    start, *deltas, end = stream_events(stream, REQUEST, engine_id="e", started=began)
    took = 1000 * (time.perf_counter() - began)
    assert isinstance(start, StreamEventStart)
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.output_tokens) == (whole.choices[0].text, whole.choices[0].token_ids)
    assert "".join(d.content for d in deltas if isinstance(d, StreamEventDelta)) == end.content
    assert len(end.output_tokens) == 8
    assert (end.finish_reason, end.prompt_tokens) == ("length", len(decoder.encode(REQUEST.prompt)))
    metrics = end.check().metrics
    assert len(metrics.itl_list) == len(deltas) - 1
    assert 0 < metrics.ttft_ms < metrics.ttft_ms + sum(metrics.itl_list) < took
    assert metrics.tpot_ms == pytest.approx(sum(metrics.itl_list) / 7)
    assert metrics.throughput_tps > 8000 / took


async def test_the_async_client_returns_the_same_result(
    client: VLLMGrpcClient, engine: Address[FakeVllmEngine]
) -> None:
    arguments = create_arguments(REQUEST)
    stream = client.completions.create(stream=True, **arguments)
    expected = response_from_events(stream_events(stream, REQUEST, engine_id="e"))
    host, _, port = engine.rpartition(":")
    async with AsyncVLLMGrpcClient(host, int(port)) as aio:
        chunks = await aio.completions.create(stream=True, **arguments)
        events = [event async for event in astream_events(chunks, REQUEST, engine_id="e")]
    got = response_from_events(events)
    assert got.model_dump(exclude={"metrics"}) == expected.model_dump(exclude={"metrics"})
    assert got.output_tokens


def test_a_failure_of_the_engine_ends_the_events_with_its_error(
    client: VLLMGrpcClient, engine: Address[FakeVllmEngine]
) -> None:
    arguments = create_arguments(REQUEST)
    engine.servicer.script.add(Fault(grpc.StatusCode.UNAVAILABLE, after=3))
    stream = client.completions.create(stream=True, **arguments)
    *_, end = stream_events(stream, REQUEST, engine_id="e")
    assert isinstance(end, StreamEventEnd)
    assert end.error is not None
    assert (end.error.code, len(end.output_tokens)) == (ErrorCode.UNAVAILABLE, 3)

    engine.servicer.script.add(Fault(grpc.StatusCode.INTERNAL, after=3))
    stream = client.completions.create(stream=True, **arguments)
    with pytest.raises(VLLMGrpcInternalError):
        list(stream_events(stream, REQUEST, engine_id="e"))


def test_the_message_alone_is_understood_by_the_engine(engine: Address[FakeVllmEngine]) -> None:
    with grpc.insecure_channel(engine) as channel:
        stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        *_, last = stub.Generate(to_generate_request(REQUEST))
    assert last.complete.finish_reason == "length"
    assert last.complete.prompt_tokens > 0
