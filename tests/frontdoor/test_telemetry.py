"""Spans of the front door: whose child, whose parent, and what is in them."""

import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from frontdoor.calls import REQUESTS, call, failure, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from smg_proto import smg_pb2 as smg

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
MARK = "marked-content"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def only(spans: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    (span,) = spans.get_finished_spans()
    spans.clear()
    return span, dict(span.attributes or {})


async def test_a_span_is_the_client_s_child_and_the_upstream_s_parent(
    spans: InMemorySpanExporter, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("chat")
    metadata = (("traceparent", TRACEPARENT), ("tracestate", "a=b"), ("baggage", f"k={MARK}"))
    ask = stub(channel, "ChatService.Chat")
    await ask(REQUESTS["ChatService.Chat"], metadata=metadata)
    span, _ = only(spans)
    assert span.parent and span.context
    assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    headers = {name.lower(): value for name, value in upstream.sent[0].headers.items()}
    own = f"{span.context.span_id:016x}"
    assert headers["traceparent"] == f"00-{TRACE}-{own}-01"
    assert headers["tracestate"] == "a=b"
    assert "baggage" not in headers


async def test_a_span_has_the_request_and_the_usage(
    spans: InMemorySpanExporter, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("chat")
    request = smg.ChatRequest(max_tokens=9, temperature=0.5, seed=0)
    request.MergeFrom(REQUESTS["ChatService.Chat"])
    reply = await call(channel, "ChatService.Chat", request)
    span, found = only(spans)
    assert (span.name, span.kind) == ("smg.v1.ChatService/Chat", trace.SpanKind.SERVER)
    expected = {
        "rpc.system": "grpc",
        "rpc.service": "smg.v1.ChatService",
        "rpc.method": "Chat",
        "rpc.grpc.status_code": 0,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "smg",
        "gen_ai.request.model": "demo-model",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 0,
        "gen_ai.response.id": reply.id,
        "gen_ai.response.model": reply.model,
        "gen_ai.response.finish_reasons": (reply.choices[0].finish_reason,),
        "gen_ai.usage.input_tokens": reply.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": reply.usage.completion_tokens,
    }
    assert found == expected
    assert span.status.is_ok or span.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize(
    ("name", "exchange", "operation"),
    [
        ("ChatService.StreamChat", "chat_stream_usage", "chat"),
        ("CompletionService.StreamComplete", "completion_stream_usage", "text_completion"),
    ],
)
async def test_the_span_of_a_stream_has_the_usage_of_its_end(
    name: str,
    exchange: str,
    operation: str,
    spans: InMemorySpanExporter,
    upstream: Upstream,
    channel: grpc.aio.Channel,
) -> None:
    upstream.replay(exchange)
    end = (await call(channel, name))[-1].end
    usage = end.usage if "usage" in end.DESCRIPTOR.fields_by_name else end
    _, found = only(spans)
    assert found["gen_ai.operation.name"] == operation
    assert found["gen_ai.usage.input_tokens"] == usage.prompt_tokens > 0
    assert found["gen_ai.usage.output_tokens"] == usage.completion_tokens > 0
    assert found["gen_ai.response.finish_reasons"]


@pytest.mark.parametrize(
    ("status", "code", "at_fault"),
    [(503, grpc.StatusCode.UNAVAILABLE, True), (400, grpc.StatusCode.INVALID_ARGUMENT, False)],
)
async def test_a_failure_is_an_error_of_the_span_if_it_is_the_server_s(
    status: int,
    code: grpc.StatusCode,
    at_fault: bool,
    spans: InMemorySpanExporter,
    upstream: Upstream,
    channel: grpc.aio.Channel,
) -> None:
    upstream.answer(status, {"error": {"message": MARK}})
    found = await failure(channel, "ChatService.Chat")
    assert found.code is code
    span, attributes = only(spans)
    assert attributes["rpc.grpc.status_code"] == code.value[0]
    assert attributes["error.type"] == found.reason
    assert (span.status.status_code is trace.StatusCode.ERROR) == at_fault
    assert MARK not in span.to_json()


async def test_no_content_and_no_key_is_in_a_span(
    spans: InMemorySpanExporter, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    event = [None, {"id": "1", "choices": [{"index": 0, "delta": {"content": MARK}}]}]
    upstream.stream(sse(event), *map(sse, EXCHANGES["chat_stream_usage"]["response"]["events"]))
    request = smg.ChatRequest(model="m", user=MARK, stop=[MARK])
    request.messages.add(role=smg.ROLE_USER, content=MARK)
    metadata = (("authorization", f"Bearer {MARK}"), ("x-smg-tenant-id", MARK))
    events = stub(channel, "ChatService.StreamChat")(request, metadata=metadata)
    assert MARK in str([event async for event in events])
    span, _ = only(spans)
    assert MARK not in span.to_json()


async def test_a_long_name_is_cut(
    spans: InMemorySpanExporter, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(404, {"error": {"message": "no", "code": "model_not_found"}})
    await failure(channel, "ModelService.GetModel", smg.GetModelRequest(id="x" * 5000))
    await failure(
        channel, "CompletionService.Complete", smg.CompletionRequest(model="x" * 5000, prompt="a")
    )
    for span in spans.get_finished_spans():
        assert not re.search("x{257}", span.to_json())


async def test_without_a_collector_the_client_s_trace_is_forwarded_unchanged(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("chat")
    ask = stub(channel, "ChatService.Chat")
    await ask(REQUESTS["ChatService.Chat"], metadata=(("traceparent", TRACEPARENT),))
    headers = {name.lower(): value for name, value in upstream.sent[0].headers.items()}
    assert headers["traceparent"] == TRACEPARENT
