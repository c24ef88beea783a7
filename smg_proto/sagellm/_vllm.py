"""Converts requests between sageLLM and vLLM's gRPC server.

    stream = client.completions.create(stream=True, **create_arguments(request))
    for event in stream_events(stream, request, engine_id="vllm-0"):
        ...

`client` is a smg_proto.vllm.VLLMGrpcClient.
"""

from collections.abc import Collection
from typing import Any

from smg_proto import vllm_engine_pb2 as vllm
from smg_proto.sagellm._bridge import (
    BridgeError,
    max_tokens_of,
    names,
    prompt_of,
    reject_other_fields,
    sampling_of,
    set_field,
    set_plain_sampling,
    shortest,
)
from smg_proto.sagellm._models import Request, SamplingParams

_TARGET = "vLLM's GenerateRequest"
_NUMBERS = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)
# Fields of vLLM's SamplingParams that sageLLM has, or that do not affect the reply.
_SAMPLING = (
    *_NUMBERS,
    "top_k",
    "max_tokens",
    "stop",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "n",
)


def to_generate_request(request: Request, *, drop: Collection[str] = ()) -> vllm.GenerateRequest:
    """The same request for vLLM.

    It lacks `trace_id` and `model`: vLLM serves one model. Other fields without a counterpart raise
    BridgeError, except those named in drop.
    """
    drop = names("drop", drop)
    message = vllm.GenerateRequest()
    set_field(message, "request_id", request.request_id)
    set_field(message, "text", prompt_of(request, _TARGET, drop))
    set_field(message, "stream", request.stream)
    # vLLM reads unset as false, so send its default, as the gateway does.
    out = message.sampling_params
    out.skip_special_tokens = out.spaces_between_special_tokens = True
    out.top_p = out.repetition_penalty = 1.0  # not every server reads 0 as off
    set_field(out, "max_tokens", request.max_tokens)
    params = sampling_of(request, _TARGET, drop)
    if params is None:
        set_plain_sampling(out, request)
        return message
    for name in _NUMBERS:
        set_field(out, name, getattr(params, name))
    set_field(out, "top_k", max(params.top_k, 0))
    set_field(out, "stop", params.stop_sequences or [])
    if params.seed is not None:
        set_field(out, "seed", params.seed)
    set_field(out, "skip_special_tokens", params.skip_special_tokens)
    return message


def create_arguments(request: Request, *, drop: Collection[str] = ()) -> dict[str, Any]:
    """The same request as arguments of `client.completions.create` of smg_proto.vllm.

    They lack `stream`, which the caller passes. For a streaming request, they include the token
    counts at the end of the stream.
    """
    message = to_generate_request(request, drop=drop)
    params = message.sampling_params
    return {
        "prompt": message.text,
        "request_id": message.request_id or None,
        "temperature": shortest(params.temperature) if params.HasField("temperature") else None,
        "top_p": shortest(params.top_p),
        "top_k": params.top_k,
        "frequency_penalty": shortest(params.frequency_penalty),
        "presence_penalty": shortest(params.presence_penalty),
        "repetition_penalty": shortest(params.repetition_penalty),
        "max_tokens": params.max_tokens,
        "stop": list(params.stop) or None,
        "seed": params.seed if params.HasField("seed") else None,
        "skip_special_tokens": params.skip_special_tokens,
        "stream_options": {"include_usage": True} if request.stream else None,
    }


def from_generate_request(
    message: vllm.GenerateRequest,
    *,
    trace_id: str = "",
    model: str = "",
    max_tokens: int | None = None,
) -> Request:
    """A vLLM request as a sageLLM request. max_tokens is used if the request does not set it.

    BridgeError names a field that sageLLM does not have. pydantic's ValidationError reports a value
    that sageLLM does not allow, such as a repetition_penalty below 1.
    """
    reject_other_fields(message, "request_id", "text", "sampling_params", "stream")
    sampling = message.sampling_params
    reject_other_fields(sampling, *_SAMPLING)
    if sampling.n > 1:
        raise BridgeError("SamplingParams.n above 1 has no counterpart in sageLLM; set n to 1")
    has_seed = sampling.HasField("seed") and sampling.seed != -1
    params: dict[str, Any] = {
        "temperature": shortest(sampling.temperature) if sampling.HasField("temperature") else 1.0,
        "top_p": shortest(sampling.top_p) or 1.0,
        "top_k": sampling.top_k,
        "frequency_penalty": shortest(sampling.frequency_penalty),
        "presence_penalty": shortest(sampling.presence_penalty),
        "repetition_penalty": shortest(sampling.repetition_penalty) or 1.0,
        "stop_sequences": list(sampling.stop) or None,
        "seed": sampling.seed if has_seed else None,
        "skip_special_tokens": sampling.skip_special_tokens,
    }
    limit = sampling.max_tokens if sampling.HasField("max_tokens") else None
    return Request(
        request_id=message.request_id,
        trace_id=trace_id,
        model=model,
        prompt=message.text,
        max_tokens=max_tokens_of(limit, max_tokens),
        stream=message.stream,
        sampling_params=SamplingParams(**params),
    )
