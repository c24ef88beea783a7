"""What the client tells of itself: logs and spans, and what it keeps to itself."""

import logging
import re
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from vllm_kit import Both, metadata_of, text_of, used

from smg_proto import __version__
from smg_proto.testing import Address, FakeVllmEngine, Fault
from smg_proto.vllm import TokenDecoder, VLLMGrpcError
from smg_proto.vllm._params import CompletionRequest
from smg_proto.vllm._telemetry import telemetry_of

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
        both.run(client.tokenizer.download())
    ours = [r for r in caplog.records if r.name == "smg_proto.vllm"]
    text = "\n".join(record.getMessage() for record in ours)
    assert "call started rpc=Generate request_id=mine prompt=text stream=False n=1" in text
    assert "code=UNAVAILABLE request_id=mine" in text and "rpc=HealthCheck" in text
    assert "rpc=GetTokenizer" in text
    for secret in (PROMPT, "my-token", "private", text_of([result])):
        assert secret not in text


def test_the_environment_switches_logs_on(address: Address[FakeVllmEngine]) -> None:
    sync = f"""
from smg_proto.vllm import VLLMGrpcClient
with VLLMGrpcClient(target={str(address)!r}) as client:
    client.completions.create(prompt={PROMPT!r}, max_tokens=1)
"""
    later = f"""
import asyncio
from smg_proto.vllm import AsyncVLLMGrpcClient
async def main():
    async with AsyncVLLMGrpcClient(target={str(address)!r}) as client:
        await client.completions.create(prompt={PROMPT!r}, max_tokens=1)
asyncio.run(main())
"""
    cases = [(sync, "debug", True), (sync, "", False), (later, "debug", True), (later, "", False)]
    for program, level, shown in cases:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env={"VLLM_GRPC_LOG": level},
        )
        assert done.returncode == 0, done.stderr
        line = (
            r"^[-\d]{10} [\d:,]+ DEBUG smg_proto\.vllm: call started rpc=Generate request_id=cmpl-"
        )
        assert bool(re.search(line, done.stderr, re.MULTILINE)) == shown, done.stderr
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
    # Also the last of several calls, which may be late when another has failed.
    address.servicer.script.add(Fault(grpc.StatusCode.INTERNAL), rpc="Generate", times=None)
    for read in (both.create, both.final):
        for prompt in (PROMPT, [PROMPT, PROMPT]):
            spans.clear()
            with pytest.raises(VLLMGrpcError):
                read(client, prompt=prompt)
            (span,) = spans.get_finished_spans()
            assert dict(span.attributes or {})["error.type"] == "INTERNAL"
            assert not span.status.is_ok
    address.servicer.script.clear()
    spans.clear()
    both.each(both.stream(client, prompt=PROMPT), lambda _: True)
    (span,) = spans.get_finished_spans()
    assert "error.type" not in dict(span.attributes or {})


def test_a_span_says_what_was_asked_and_what_came(
    both: Both, address: Address[FakeVllmEngine], spans: InMemorySpanExporter
) -> None:
    """And nothing else."""
    asked: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.75, "top_k": 40, "max_tokens": 3, "frequency_penalty": 0.25,
        "presence_penalty": -0.25, "seed": 7, "n": 2,
    }  # fmt: skip
    result = both.create(both.make(address), prompt=PROMPT, model="mine", request_id="r", **asked)
    (span,) = spans.get_finished_spans()
    host, _, port = address.rpartition(":")
    names = {"n": "choice.count"}
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "vllm",
        "rpc.system": "grpc",
        "server.address": host,
        "server.port": int(port),
        "gen_ai.request.model": "mine",
        **{f"gen_ai.request.{names.get(name, name)}": value for name, value in asked.items()},
        "gen_ai.usage.input_tokens": used(result).prompt_tokens,
        "gen_ai.usage.output_tokens": used(result).completion_tokens,
        "gen_ai.response.finish_reasons": tuple(c.finish_reason or "" for c in result.choices),
        "gen_ai.response.model": "mine",
        "gen_ai.response.id": "r",
    }
    assert span.name == "text_completion mine"
    assert span.kind is trace.SpanKind.CLIENT
    assert span.instrumentation_scope is not None
    scope = span.instrumentation_scope
    assert (scope.name, scope.version) == ("smg_proto.vllm", __version__)


def test_a_span_without_a_known_model_has_the_operations_name(
    both: Both, address: Address[FakeVllmEngine], spans: InMemorySpanExporter
) -> None:
    both.create(both.make(address), prompt=PROMPT, max_tokens=1, decoder=None)
    (span,) = spans.get_finished_spans()
    assert span.name == "text_completion"
    assert "gen_ai.request.model" not in dict(span.attributes or {})


def test_a_call_that_cannot_begin_ends_its_span(
    both: Both, address: Address[FakeVllmEngine], spans: InMemorySpanExporter
) -> None:
    def token() -> str:
        raise KeyError("no token")

    for read in (both.create, both.stream):
        spans.clear()
        with pytest.raises(KeyError, match="no token"):
            read(both.make(address, token=token), prompt=PROMPT)
        (span,) = spans.get_finished_spans()
        assert dict(span.attributes or {})["error.type"] == "KeyError"
        assert (span.status.status_code.name, span.status.description) == ("ERROR", "KeyError")


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [("h:5", "h", 5), ("[::1]:5", "[::1]", 5), ("unix:/s", "unix", None), ("h", "h", None)],
)
def test_a_span_names_the_server(
    target: str, host: str, port: int | None, spans: InMemorySpanExporter
) -> None:
    telemetry = telemetry_of(target, True)
    assert telemetry is not None and telemetry_of(target, False) is None
    span = telemetry.begin("op", "", CompletionRequest.of({}))
    assert span is not None and span.recording()
    span.end()
    attributes = dict(spans.get_finished_spans()[0].attributes or {})
    assert (attributes["server.address"], attributes.get("server.port")) == (host, port)


def test_a_span_that_is_not_sampled_has_no_result(
    both: Both, address: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    both.create(both.make(address), prompt=PROMPT, max_tokens=1)
    parent = str(metadata_of(address.servicer, "Generate")["traceparent"])
    assert not int(parent[-2:], 16) & 1  # the server learns that nobody looks


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
