"""OpenTelemetry spans of RPCs, if opentelemetry-api is installed and an SDK is configured.

Names and attributes follow the semantic conventions for RPC and generative AI. A span never holds
a prompt, a reply or any header except the trace context.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, cast

import grpc
from google.protobuf.message import Message

from smg_proto import __version__

_OPERATIONS = {
    "CompletionService.Complete": "text_completion",
    "CompletionService.StreamComplete": "text_completion",
    "ChatService.Chat": "chat",
    "ChatService.StreamChat": "chat",
    "MessageService.CreateMessage": "chat",
    "MessageService.StreamMessage": "chat",
    "ResponseService.CreateResponse": "chat",
    "ResponseService.StreamResponse": "chat",
    "EmbeddingService.Embed": "embeddings",
}
_REQUEST = {
    "model": "gen_ai.request.model",
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "n": "gen_ai.request.choice.count",
    "dimensions": "gen_ai.embeddings.dimension.count",
}
_REPLY = {"id": "gen_ai.response.id", "model": "gen_ai.response.model"}
_USAGE = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}
# Names come from clients and workers; longer ones are cut.
MAX_NAME_CHARACTERS = 256


_SERVER_ERRORS = frozenset(
    ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]
)


class Span:
    """The span of one RPC. This base class records nothing."""

    # Headers that make the gateway's span a child of this one.
    headers: Mapping[str, str] = MappingProxyType({})

    def request(self, message: Message) -> None:
        """Record the attributes of a request, without its content."""

    def reply(self, message: Message) -> None:
        """Record the attributes of a reply or of the end of a stream."""

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        """End the span."""


NO_SPAN = Span()


class _Recorded(Span):
    def __init__(self, span: Any, headers: Mapping[str, str]) -> None:
        self._span = span
        self.headers = headers

    def request(self, message: Message) -> None:
        if self._span.is_recording():
            _set(self._span, message, _REQUEST)

    def reply(self, message: Message) -> None:
        names = message.DESCRIPTOR.fields_by_name
        if "end" in names and "start" in names:
            if not message.HasField("end"):
                return
            message = cast(Any, message).end
            names = message.DESCRIPTOR.fields_by_name
        _set(self._span, message, _REPLY | _USAGE)
        if "usage" in names:
            _set(self._span, cast(Any, message).usage, _USAGE)
        if reasons := _finish_reasons(message):
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            self._span.set_attribute("error.type", reason or code.name)
        # By the conventions, a client's mistake is not an error of the server's span.
        if code.name in _SERVER_ERRORS:
            self._span.set_status(Status(StatusCode.ERROR, reason or code.name))
        self._span.end()


class Telemetry:
    """Creates a span for each RPC if an OpenTelemetry SDK is configured."""

    def __init__(self) -> None:
        self._tracer: Any = None
        if find_spec("opentelemetry") is not None:
            from opentelemetry import trace

            self._tracer = trace.get_tracer("smg_proto.frontdoor", __version__)
            self._idle = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)

    def start(self, method: str, context: Any) -> Span:
        """Start the span of an RPC. `method` is a name like "ChatService.Chat"."""
        if self._tracer is None:
            return NO_SPAN
        from opentelemetry import propagate, trace
        from opentelemetry.context import Context

        if isinstance(trace.get_tracer_provider(), self._idle):
            return NO_SPAN  # no SDK is configured
        service, _, rpc = method.partition(".")
        attributes: dict[str, Any] = {
            "rpc.system": "grpc",
            "rpc.service": f"smg.v1.{service}",
            "rpc.method": rpc,
        }
        if operation := _OPERATIONS.get(method):
            attributes["gen_ai.operation.name"] = operation
            attributes["gen_ai.provider.name"] = "smg"
        metadata: Any = context.invocation_metadata() or ()
        carrier: dict[str, str] = {
            key: value for key, value in reversed(metadata) if isinstance(value, str)
        }
        span = self._tracer.start_span(
            f"smg.v1.{service}/{rpc}",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        )
        headers: dict[str, str] = {}
        # Forward only the trace of the client's context, no baggage.
        propagate.inject(headers, context=trace.set_span_in_context(span, Context()))
        return _Recorded(span, headers)


def _set(span: Any, message: Message, names: Mapping[str, str]) -> None:
    """Set attributes from the set fields of a message."""
    for field, value in message.ListFields():
        if name := names.get(field.name):
            is_text = isinstance(value, str)
            span.set_attribute(name, value[:MAX_NAME_CHARACTERS] if is_text else value)


def _finish_reasons(message: Any) -> list[str]:
    if choices := getattr(message, "choices", ()):
        return [str(choice.finish_reason) for choice in choices]
    reason = getattr(message, "finish_reason", "")
    return [str(reason)] if reason else []
