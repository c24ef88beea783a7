"""Log lines and OpenTelemetry spans, without prompts, completions, tokens or metadata values."""

import logging
import os
from collections.abc import Sequence
from typing import Any, Final

from smg_proto import __version__
from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import Metadata
from smg_proto.vllm._errors import VLLMGrpcError

LOGGER: Final = logging.getLogger("smg_proto.vllm")


def set_up_logging() -> None:
    """Configure logging as VLLM_GRPC_LOG says, if it is set."""
    level = os.environ.get("VLLM_GRPC_LOG", "").upper()
    if level in ("DEBUG", "INFO", "WARNING") and not LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.setLevel(level)


def log_generate(requests: Sequence[pb.GenerateRequest]) -> None:
    if not LOGGER.isEnabledFor(logging.DEBUG):
        return
    for request in requests:
        LOGGER.debug(
            "call started rpc=Generate request_id=%s prompt=%s stream=%s n=%d",
            request.request_id,
            f"{len(request.tokenized.input_ids)} token ids" if not request.text else "text",
            request.stream,
            request.sampling_params.n,
        )


def log_call(rpc: str) -> None:
    LOGGER.debug("call started rpc=%s", rpc)


def log_retry(error: VLLMGrpcError, delay: float) -> None:
    LOGGER.info(
        "call failed, retrying delay=%.2fs code=%s request_id=%s",
        delay,
        error.code,
        error.request_id or "-",
    )


def log_no_tokenizer(reason: str) -> None:
    LOGGER.warning("results have no text, because there is no tokenizer: %s", reason)


class Span:
    """The span of one operation."""

    __slots__ = ("_span",)

    def __init__(self, span: Any) -> None:
        self._span = span

    def metadata(self) -> Metadata:
        """The trace context to send to the server."""
        from opentelemetry import propagate, trace

        if not self._span.get_span_context().is_valid:
            return ()
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(self._span))
        return tuple(carrier.items())

    def recording(self) -> bool:
        """False if there is no SDK, or the trace is not sampled."""
        return bool(self._span.is_recording())

    def result(
        self, request_id: str, model: str, prompt: int, completion: int, reasons: Sequence[str]
    ) -> None:
        self._span.set_attribute("gen_ai.usage.input_tokens", prompt)
        self._span.set_attribute("gen_ai.usage.output_tokens", completion)
        self._span.set_attribute("gen_ai.response.finish_reasons", list(reasons))
        self._span.set_attribute("gen_ai.response.model", model)
        self._span.set_attribute("gen_ai.response.id", request_id)

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            kind = getattr(error, "code", None) or type(error).__name__
            self._span.set_attribute("error.type", kind)
            self._span.set_status(Status(StatusCode.ERROR, kind))
        self._span.end()


class Telemetry:
    """Makes spans for one server, following the semantic conventions for generative AI."""

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

    def begin(self, operation: str, model: str, params: Any) -> Span | None:
        """A span for a request with these parameters, or None if spans are not collected."""
        if isinstance(self._provider(), self._idle):
            return None
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
            "rpc.system": "grpc",
            **self._server,
        }
        for key, name in _ATTRIBUTES.items():
            if key in params.model_fields_set:
                attributes[name] = getattr(params, key)
        if model:
            attributes["gen_ai.request.model"] = model
        name = f"{operation} {model}".rstrip()
        return Span(self._tracer.start_span(name, kind=self._kind, attributes=attributes))


_ATTRIBUTES: Final = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}


def telemetry_of(target: str, enabled: bool) -> Telemetry | None:
    """None if disabled, or if OpenTelemetry is not installed."""
    try:
        return Telemetry(target) if enabled else None
    except ImportError:
        return None
