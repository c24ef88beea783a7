"""GenerateService over sockets: in front a client of sagellm.v1, behind a vLLM engine."""

import asyncio
import logging
import re
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from support import async_eventually

from smg_proto import sagellm_pb2 as pb
from smg_proto import sagellm_pb2_grpc
from smg_proto.sagellm import (
    AnyStreamEvent,
    GenerateServicer,
    Request,
    Response,
    SamplingParams,
    StreamEventEnd,
    stream_event_from_proto,
)
from smg_proto.testing import FakeVllmEngine, Fault, serve_vllm_engine
from smg_proto.vllm import AsyncVLLMGrpcClient, TokenDecoder

Code = grpc.StatusCode
REQUEST = Request(
    request_id="r",
    trace_id="t",
    prompt="Once upon a time",
    max_tokens=8,
    sampling_params=SamplingParams(temperature=0.0),
)

LONG = REQUEST.model_copy(update={"max_tokens": 5000})


class Calls:
    """The client's completions, with the arguments of each call and a delay before it."""

    def __init__(self, client: AsyncVLLMGrpcClient) -> None:
        self.completions = self
        self.arguments: list[dict[str, Any]] = []
        self.delay = 0.0
        self._create: Any = client.completions.create

    async def create(self, **arguments: Any) -> Any:
        self.arguments.append(arguments)
        await asyncio.sleep(self.delay)
        return await self._create(**arguments)


@dataclass
class Served:
    stub: "sagellm_pb2_grpc.GenerateServiceAsyncStub"
    engine: FakeVllmEngine
    decoder: TokenDecoder
    calls: Calls


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve_vllm_engine(FakeVllmEngine(token_delay=0.001)) as address:
        host, _, port = address.rpartition(":")
        async with AsyncVLLMGrpcClient(host, int(port), max_retries=0) as client:
            decoder = await TokenDecoder.afrom_client(client)
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            calls: Any = Calls(client)
            servicer = GenerateServicer(calls, decoder, engine_id="e", models=["m"])
            sagellm_pb2_grpc.add_GenerateServiceServicer_to_server(servicer, server)
            front = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{front}") as channel:
                    stub = sagellm_pb2_grpc.GenerateServiceStub(channel)
                    yield Served(stub, address.servicer, decoder, calls)
            finally:
                await server.stop(None)


async def _failure(served: Served, message: pb.Request) -> grpc.aio.AioRpcError:
    """Of both RPCs, which must agree."""
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await served.stub.Generate(message)
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        async for _ in served.stub.StreamGenerate(message):
            pass
    assert unary.value.code() is streamed.value.code()
    assert unary.value.details() == streamed.value.details()
    return unary.value


async def test_the_unary_reply_and_the_stream_have_the_same_content(served: Served) -> None:
    began = time.perf_counter()
    response = Response.from_proto(await served.stub.Generate(REQUEST.to_proto()), strict=True)
    took = 1000 * (time.perf_counter() - began)
    events = [
        stream_event_from_proto(message, strict=True)
        async for message in served.stub.StreamGenerate(REQUEST.to_proto())
    ]
    start, *deltas, end = events
    assert (start.event, start.request_id, start.trace_id, start.engine_id) == (
        "start",
        "r",
        "t",
        "e",
    )
    assert {delta.event for delta in deltas} == {"delta"}
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.output_tokens, end.finish_reason, end.prompt_tokens) == (
        response.output_text,
        response.output_tokens,
        response.finish_reason,
        response.prompt_tokens,
    )
    assert response.prompt_tokens == len(served.decoder.encode(REQUEST.prompt)) > 0
    assert served.decoder.decode(response.output_tokens) == response.output_text != ""
    assert 0 < response.metrics.ttft_ms < took
    assert response.metrics.ttft_ms + sum(response.metrics.itl_list) < took


async def test_the_time_starts_with_the_call_and_the_text_is_the_decoders(served: Served) -> None:
    served.calls.delay = 0.2
    response = await served.stub.Generate(REQUEST.to_proto())
    assert response.metrics.ttft_ms >= 200
    (arguments,) = served.calls.arguments
    assert arguments["decoder"] is served.decoder


async def test_unknown_fields_of_a_newer_client_are_logged_without_a_warning(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    message = REQUEST.to_proto()
    for number in range(60, 71):  # eleven fields
        message.MergeFromString(bytes([number << 3 & 0x7F | 0x80, number >> 4, 7]))  # varint 7
    caplog.set_level(logging.INFO, "smg_proto.sagellm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response = await served.stub.Generate(message)
    assert len(response.output_tokens) == 8
    (record,) = [r for r in caplog.records if r.name == "smg_proto.sagellm"]
    assert record.getMessage().endswith("; field 69 of sagellm.v1.Request")  # not the eleventh
    assert "=field 60 of sagellm.v1.Request; " in record.getMessage()
    assert REQUEST.prompt not in record.getMessage()


@pytest.mark.parametrize("name", ["models", "drop"])
async def test_one_name_is_not_read_as_letters(name: str) -> None:
    client: Any = None
    with pytest.raises(TypeError, match=f"{name} takes a collection of names, not one string"):
        GenerateServicer(client, client, **{name: "rank"})


async def test_the_contract_decides_which_of_two_values_has_an_effect(
    served: Served,
) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=3, length_penalty=2.0, beam_size=2)
    request = REQUEST.model_copy(
        update={"temperature": 1.5, "top_p": 0.5, "sampling_params": params}
    )
    plain = await served.stub.Generate(REQUEST.to_proto())
    assert (await served.stub.Generate(request.to_proto())).output_tokens == plain.output_tokens


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (pb.Request(prompt="a secret"), Code.INVALID_ARGUMENT, "max_tokens: .*greater than 0"),
        (pb.Request(max_tokens=1, top_p=2.0), Code.INVALID_ARGUMENT, "top_p: .*equal to 1"),
        (pb.Request(max_tokens=1, metadata_json="{"), Code.INVALID_ARGUMENT, "metadata_json"),
        (pb.Request(max_tokens=1), Code.INVALID_ARGUMENT, "prompt"),
        (pb.Request(max_tokens=1, prompt="p", rank=0), Code.UNIMPLEMENTED, "Request.rank"),
        (
            pb.Request(
                max_tokens=1,
                prompt="p",
                messages=pb.ChatMessageList(
                    items=[pb.ChatMessage(role=pb.ROLE_SYSTEM, content="a secret")]
                ),
            ),
            Code.UNIMPLEMENTED,
            "Request.messages",
        ),
        (pb.Request(max_tokens=1, prompt="p", model="x"), Code.NOT_FOUND, "model"),
    ],
)
async def test_unsupported_requests_are_rejected_with_the_reason(
    served: Served, message: pb.Request, code: grpc.StatusCode, words: str
) -> None:
    failure = await _failure(served, message)
    assert failure.code() is code
    details = failure.details() or ""
    assert re.search(words, details)
    assert "secret" not in details


async def test_a_failure_of_the_engine_is_a_failure_of_the_call(served: Served) -> None:
    for status in (Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNAVAILABLE):
        served.engine.script.add(Fault(status, after=2), rpc="Generate", times=2)
        assert (await _failure(served, REQUEST.to_proto())).code() is status


async def test_the_end_before_a_failure_has_what_was_generated(served: Served) -> None:
    served.engine.script.add(Fault(Code.UNAVAILABLE, after=3), rpc="Generate")
    call = served.stub.StreamGenerate(REQUEST.to_proto())
    events: list[AnyStreamEvent] = []
    with pytest.raises(grpc.aio.AioRpcError):
        async for message in call:
            events.append(stream_event_from_proto(message))
    end = events[-1]
    assert isinstance(end, StreamEventEnd)
    assert end.error is not None
    assert (end.error.code, len(end.output_tokens)) == ("unavailable", 3)
    assert await call.code() is Code.UNAVAILABLE


async def test_cancelling_or_the_deadline_stops_generation_in_the_engine(
    served: Served,
) -> None:
    counters = served.engine.record.counters
    served.engine.token_delay = 0.5  # the answer has 31 tokens: it outlasts the limit below
    call = served.stub.StreamGenerate(LONG.to_proto())
    async for message in call:
        if message.WhichOneof("event") == "delta":
            break
    assert counters.running == 1
    call.cancel()
    await async_eventually(lambda: counters.cancelled + counters.aborted == 1)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.Generate(LONG.to_proto(), timeout=2)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    await async_eventually(lambda: counters.cancelled + counters.aborted == 2)
    await async_eventually(lambda: counters.running == 0)
