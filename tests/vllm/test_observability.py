"""What the client tells of itself: logs and spans, and what it keeps to itself."""

import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from vllm_kit import Both, metadata_of, text_of

from smg_proto.testing import Address, FakeVllmEngine, Fault
from smg_proto.vllm import TokenDecoder, VLLMGrpcError

PROMPT = "the secret prompt"


def test_logs_name_requests_and_never_their_content(
    both: Both,
    address: Address[FakeVllmEngine],
    decoder: TokenDecoder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import grpc

    client = both.make(address, token="my-token", initial_backoff=0.01, decoder=decoder)
    address.servicer.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="Generate")
    with caplog.at_level(logging.DEBUG, "smg_proto.vllm"):
        result = both.create(
            client, prompt=PROMPT, max_tokens=3, request_id="mine", metadata={"x-key": "private"}
        )
        both.run(client.health.check())
    ours = [r for r in caplog.records if r.name == "smg_proto.vllm"]
    text = "\n".join(record.getMessage() for record in ours)
    assert "call started rpc=Generate request_id=mine prompt=text stream=False n=1" in text
    assert "code=UNAVAILABLE request_id=mine" in text and "rpc=HealthCheck" in text
    for secret in (PROMPT, "my-token", "private", text_of([result])):
        assert secret not in text


def test_the_environment_switches_logs_on(address: Address[FakeVllmEngine]) -> None:
    program = f"""
from smg_proto.vllm import VLLMGrpcClient
with VLLMGrpcClient(target={str(address)!r}) as client:
    client.completions.create(prompt={PROMPT!r}, max_tokens=1)
"""
    for level, shown in (("debug", True), ("", False)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env={"VLLM_GRPC_LOG": level},
        )
        assert done.returncode == 0, done.stderr
        assert ("rpc=Generate request_id=cmpl-" in done.stderr) == shown
        assert (" DEBUG smg_proto.vllm: " in done.stderr) == shown
        assert PROMPT not in done.stderr


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def test_a_completion_is_a_span(
    both: Both, address: Address[FakeVllmEngine], spans: InMemorySpanExporter
) -> None:
    client = both.make(address)
    both.run(client.models.retrieve())
    for read in (both.create, both.final):
        spans.clear()
        result = read(client, prompt=PROMPT, max_tokens=3, temperature=0.5)
        (span,) = spans.get_finished_spans()
        seen: dict[str, Any] = dict(span.attributes or {})
        assert span.name == f"text_completion {address.servicer.name}"
        assert seen["gen_ai.operation.name"] == "text_completion"
        assert seen["gen_ai.request.max_tokens"] == 3
        assert seen["gen_ai.request.temperature"] == 0.5
        assert seen["gen_ai.usage.output_tokens"] == 3
        assert result.usage is not None
        assert seen["gen_ai.usage.input_tokens"] == result.usage.prompt_tokens
        assert seen["gen_ai.response.id"] == result.id
        assert seen["gen_ai.response.finish_reasons"] == (result.choices[0].finish_reason,)
        host, _, port = address.rpartition(":")
        assert (seen["server.address"], seen["server.port"]) == (host, int(port))
        assert PROMPT not in str(seen)
        assert span.context is not None
        parent = metadata_of(address.servicer, "Generate")["traceparent"]
        assert f"{span.context.trace_id:032x}-{span.context.span_id:016x}" in str(parent)


def test_failures_and_streams_that_are_left_end_their_spans(
    both: Both, address: Address[FakeVllmEngine], spans: InMemorySpanExporter
) -> None:
    import grpc

    client = both.make(address, max_retries=0)
    for read in (both.create, both.final):
        address.servicer.script.add(Fault(grpc.StatusCode.INTERNAL), rpc="Generate")
        with pytest.raises(VLLMGrpcError):
            read(client, prompt=PROMPT)
        span = spans.get_finished_spans()[-1]
        assert dict(span.attributes or {})["error.type"] == "INTERNAL"
        assert not span.status.is_ok
    spans.clear()
    both.each(both.stream(client, prompt=PROMPT), lambda _: True)
    (span,) = spans.get_finished_spans()
    assert "error.type" not in dict(span.attributes or {})


def test_spans_can_be_switched_off(
    both: Both, address: Address[FakeVllmEngine], spans: InMemorySpanExporter
) -> None:
    both.create(both.make(address, telemetry=False), prompt=PROMPT, max_tokens=1)
    assert spans.get_finished_spans() == ()
    assert "traceparent" not in metadata_of(address.servicer, "Generate")


def test_without_opentelemetry_there_is_nothing(
    both: Both, address: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    client = both.make(address)
    assert both.create(client, prompt=PROMPT, max_tokens=1).choices
    assert client._connection.telemetry is None
