"""OpenTelemetry spans for completions, where opentelemetry-api is installed.

Names and attributes are those of the semantic conventions for generative AI. No prompt, no
completion. Without the package, or with `telemetry=False`, there is nothing here at run time.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smg_proto import __version__
from smg_proto.vllm.errors import Metadata
from smg_proto.vllm.params import CompletionRequest

if TYPE_CHECKING:
    from smg_proto.vllm.results import Completion

_ASKED = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


class Span:
    """One operation. Ended once, by whatever comes first."""

    __slots__ = ("_span",)

    def __init__(self, span: Any) -> None:
        self._span = span

    def metadata(self) -> Metadata:
        """The trace context for the server, which reads traceparent and tracestate."""
        from opentelemetry import propagate, trace

        if not self._span.get_span_context().is_valid:
            return ()
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(self._span))
        return tuple(carrier.items())

    def recording(self) -> bool:
        """False where no SDK is set up, or the trace is not sampled: then nothing is worth it."""
        return bool(self._span.is_recording())

    def result(self, completion: "Completion") -> None:
        if completion.usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", completion.usage.prompt_tokens)
            self._span.set_attribute(
                "gen_ai.usage.output_tokens", completion.usage.completion_tokens
            )
        reasons = [choice.finish_reason or "" for choice in completion.choices]
        self._span.set_attribute("gen_ai.response.finish_reasons", reasons)
        self._span.set_attribute("gen_ai.response.model", completion.model)
        self._span.set_attribute("gen_ai.response.id", completion.id)

    def end(self, error: BaseException | None = None) -> None:
        if self._span.is_recording():
            if error is not None:
                from opentelemetry.trace import Status, StatusCode

                kind = getattr(error, "code", None) or type(error).__name__
                self._span.set_attribute("error.type", kind)
                self._span.set_status(Status(StatusCode.ERROR, kind))
            self._span.end()


class Telemetry:
    """Makes spans for one server; None wherever there is no OpenTelemetry."""

    def __init__(self, target: str) -> None:
        from opentelemetry import trace

        self._tracer = trace.get_tracer("smg_proto.vllm", __version__)
        self._kind = trace.SpanKind.CLIENT
        self._provider = trace.get_tracer_provider
        self._idle = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
        host, _, port = target.rpartition(":")
        self._server: dict[str, str | int] = {"server.address": host or target}
        if port.isdecimal():
            self._server["server.port"] = int(port)

    def completion(self, asked: CompletionRequest, model: str) -> Span | None:
        if isinstance(self._provider(), self._idle):
            return None  # nobody has set OpenTelemetry up
        given = asked.model_fields_set
        values = {name: getattr(asked, field) for field, name in _ASKED.items() if field in given}
        return self._start("text_completion", model, values)

    def _start(self, operation: str, model: str, values: Mapping[str, object]) -> Span:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
            "rpc.system": "grpc",
            **self._server,
            **values,
        }
        if model:
            attributes["gen_ai.request.model"] = model
        name = f"{operation} {model}".rstrip()
        return Span(self._tracer.start_span(name, kind=self._kind, attributes=attributes))


def of(target: str, wanted: bool) -> Telemetry | None:
    if not wanted:
        return None
    try:
        return Telemetry(target)
    except ImportError:
        return None
