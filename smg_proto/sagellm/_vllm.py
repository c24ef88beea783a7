"""Requests of sageLLM and of vLLM's gRPC server.

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
    prompt_of,
    put,
    put_plain_sampling,
    refuse_the_rest,
    sampling_of,
    shortest,
)
from smg_proto.sagellm._models import Request, SamplingParams

_TARGET = "vLLM's GenerateRequest"
# Fields of vLLM's SamplingParams that sageLLM can say, or that have no effect on the answer.
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "max_tokens",
    "stop",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "n",
)


def to_generate_request(request: Request, *, drop: Collection[str] = ()) -> vllm.GenerateRequest:
    """The same request for vLLM.

    `trace_id` and `model` are not in it: vLLM serves one model. Other fields that vLLM cannot be
    told raise BridgeError, except those named in drop.
    """
    message = vllm.GenerateRequest(
        request_id=request.request_id,
        text=prompt_of(request, _TARGET, drop),
        stream=request.stream,
    )
    # vLLM reads unset as false; what is meant is its own default, as the gateway sends it.
    out = message.sampling_params
    out.skip_special_tokens = out.spaces_between_special_tokens = True
    out.top_p = out.repetition_penalty = 1.0  # not every server takes 0 for off
    put(out, "max_tokens", request.max_tokens)
    params = sampling_of(request, _TARGET, drop)
    if params is None:
        put_plain_sampling(out, request)
        return message
    out.temperature, out.top_p = params.temperature, params.top_p
    put(out, "top_k", max(params.top_k, 0))
    out.repetition_penalty = params.repetition_penalty
    out.presence_penalty, out.frequency_penalty = params.presence_penalty, params.frequency_penalty
    out.stop.extend(params.stop_sequences or ())
    if params.seed is not None:
        put(out, "seed", params.seed)
    out.skip_special_tokens = params.skip_special_tokens
    return message


def create_arguments(request: Request, *, drop: Collection[str] = ()) -> dict[str, Any]:
    """The same request as arguments of `client.completions.create` of smg_proto.vllm.

    `stream` is not among them: the call says it. A request for a stream also asks for the counts
    of tokens at its end.
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
    """A request for vLLM as one of sageLLM; max_tokens is for requests that leave it open.

    BridgeError names a field that sageLLM does not have; pydantic's ValidationError a value that
    it does not allow, such as a repetition_penalty below 1.
    """
    refuse_the_rest(message, "request_id", "text", "sampling_params", "stream")
    given = message.sampling_params
    refuse_the_rest(given, *_SAMPLING)
    if given.n > 1:
        raise BridgeError("SamplingParams.n above 1 has no place in a sageLLM request")
    params: dict[str, Any] = {
        "temperature": shortest(given.temperature) if given.HasField("temperature") else 1.0,
        "top_p": shortest(given.top_p) or 1.0,
        "top_k": given.top_k,
        "frequency_penalty": shortest(given.frequency_penalty),
        "presence_penalty": shortest(given.presence_penalty),
        "repetition_penalty": shortest(given.repetition_penalty) or 1.0,
        "stop_sequences": list(given.stop) or None,
        "seed": given.seed if given.HasField("seed") and given.seed != -1 else None,
        "skip_special_tokens": given.skip_special_tokens,
    }
    limit = given.max_tokens if given.HasField("max_tokens") else None
    return Request(
        request_id=message.request_id,
        trace_id=trace_id,
        model=model,
        prompt=message.text,
        max_tokens=max_tokens_of(limit, max_tokens),
        stream=message.stream,
        sampling_params=SamplingParams(**params),
    )
