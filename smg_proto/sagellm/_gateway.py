"""Converts requests between sageLLM and the gateway's completion API (smg.v1.CompletionService).

call = stub.Complete(to_completion_request(request), metadata=completion_metadata(request))
"""

from collections.abc import Collection

from smg_proto import smg_pb2 as smg
from smg_proto.sagellm._bridge import (
    BridgeError,
    max_tokens_of,
    names,
    prompt_of,
    reject_other_fields,
    sampling_of,
    set_field,
    set_plain_sampling,
    values_set,
)
from smg_proto.sagellm._models import Request, SamplingParams

_TARGET = "smg.v1.CompletionRequest"
_COMMON = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")
_LESS_COMMON = ("repetition_penalty", "skip_special_tokens")


def to_completion_request(request: Request, *, drop: Collection[str] = ()) -> smg.CompletionRequest:
    """The same request for the gateway. Send its ids as metadata; `stream` selects the RPC.

    Other fields without a counterpart raise BridgeError, except those named in drop.
    """
    drop = names("drop", drop)
    prompt = prompt_of(request, _TARGET, drop)
    if not request.model:
        raise BridgeError("Request.model is empty: the gateway requires it; set a model")
    message = smg.CompletionRequest()
    set_field(message, "model", request.model)
    set_field(message, "prompt", prompt)
    set_field(message, "max_tokens", request.max_tokens)
    params = sampling_of(request, _TARGET, drop)
    if params is None:
        set_plain_sampling(message, request)
        return message
    for name in _COMMON:
        if (value := getattr(params, name)) is not None:
            set_field(message, name, value)
    message.top_k = params.top_k or -1  # the gateway rejects 0; -1 means all
    set_field(message, "stop", params.stop_sequences or [])
    for name in _LESS_COMMON:
        set_field(message.sampling, name, getattr(params, name))
    return message


def completion_metadata(request: Request) -> tuple[tuple[str, str], ...]:
    """gRPC metadata with the id of the request, if it has one.

    Metadata is printable ASCII: BridgeError for other ids.
    """
    if not (request.request_id.isascii() and request.request_id.isprintable()):
        raise BridgeError("Request.request_id cannot be sent as metadata: use printable ASCII")
    return (("x-request-id", request.request_id),) if request.request_id else ()


def from_completion_request(
    message: smg.CompletionRequest,
    *,
    request_id: str,
    trace_id: str = "",
    stream: bool = False,
    max_tokens: int | None = None,
) -> Request:
    """A gateway request as a sageLLM request. max_tokens is used if the request does not set it.

    If more than temperature and top_p is set, every unset setting takes sageLLM's default, not the
    model's. BridgeError names a field that sageLLM does not have.
    """
    handled = ("model", "prompt", "max_tokens", "stop", "sampling", *_COMMON)
    reject_other_fields(message, *handled)
    reject_other_fields(message.sampling, *_LESS_COMMON)
    values = values_set(message, _COMMON) | values_set(message.sampling, _LESS_COMMON)
    if message.stop:
        values["stop_sequences"] = list(message.stop)
    simple = values.keys() <= {"temperature", "top_p"}
    limit = message.max_tokens if message.HasField("max_tokens") else None
    return Request(
        request_id=request_id,
        trace_id=trace_id,
        model=message.model,
        prompt=message.prompt,
        max_tokens=max_tokens_of(limit, max_tokens),
        stream=stream,
        sampling_params=None if simple else SamplingParams(**values),
        temperature=values.get("temperature") if simple else None,
        top_p=values.get("top_p") if simple else None,
    )
