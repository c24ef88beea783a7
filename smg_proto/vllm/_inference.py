"""Translates requests and replies of `vllm.grpc.engine` to and from vLLM's own protocol,
`vllm.Inference` and `vllm.Control`.

Parameters that vLLM's own protocol does not support are rejected by name before anything is sent.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from smg_proto import vllm_control_pb2 as control
from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_inference_pb2 as inference
from smg_proto._standard import message_class
from smg_proto.common_pb2 import Modality
from smg_proto.vllm._errors import VLLMGrpcUnimplementedError, VLLMGrpcValidationError
from smg_proto.vllm_control_pb2_grpc import ControlStub
from smg_proto.vllm_inference_pb2_grpc import InferenceStub

_REASONS: Final = {
    inference.FinishInfo.LENGTH: "length",
    inference.FinishInfo.STOP: "stop",
    inference.FinishInfo.ABORTED: "abort",
}
_CONSTRAINTS: Final = {
    "json_schema": "json",
    "regex": "regex",
    "grammar": "grammar",
    "structural_tag": "structural_tag",
    "json_object": "json_object",
}
_Health: Final = message_class("grpc.health.v1.HealthCheckRequest")
_HealthReply: Final = message_class("grpc.health.v1.HealthCheckResponse")


def translated(rpc: str, request: Any) -> tuple[str, Message]:
    """The RPC that corresponds to one of VllmEngine, and its request."""
    if rpc == "Generate":
        streams = request.stream or request.sampling_params.n > 1
        return "GenerateStream" if streams else rpc, generate_request(request)
    if rpc in _CONTROL:
        return rpc, _CONTROL[rpc](request)
    raise VLLMGrpcUnimplementedError(
        f"vLLM's own protocol, which the server speaks, does not have {rpc}; use `vllm serve "
        "--grpc` with smg-grpc-servicer instead of --grpc-port",
        code="UNIMPLEMENTED",
    )


_CONTROL: Final[dict[str, Callable[[Any], Message]]] = {
    "HealthCheck": lambda _: _Health(),
    "GetModelInfo": lambda _: control.GetModelInfoRequest(),
    "GetServerInfo": lambda _: control.GetServerInfoRequest(),
    "Abort": lambda request: control.AbortRequest(request_ids=request.request_ids),
}
SHARED: Final = frozenset({"Generate", *_CONTROL})
"""RPCs that both protocols have, under the same or another name."""


def methods(channel: Any) -> dict[str, tuple[Any, bool]]:
    """The RPCs of vLLM's own protocol by name, and whether each is a stream."""
    found = {name: (method, False) for name, method in vars(ControlStub(channel)).items()}
    for name, method in vars(InferenceStub(channel)).items():
        found[name] = (method, name == "GenerateStream")
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=_Health.SerializeToString,
        response_deserializer=_HealthReply.FromString,
    )
    return found | {"HealthCheck": (check, False)}


# Requests.


def generate_request(request: pb.GenerateRequest) -> inference.GenerateRequest:
    params = request.sampling_params
    _check_supported(request)
    made = inference.GenerateRequest(
        request_id=request.request_id,
        temperature=params.temperature if params.HasField("temperature") else 1.0,
        sampling=inference.RandomSampling(
            num_sequences=params.n,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            seed=params.seed if params.HasField("seed") else None,
        ),
        decoding=inference.DecodingParameters(
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            logit_bias=dict(params.logit_bias),
        ),
        stopping=inference.StoppingCriteria(
            max_new_tokens=params.max_tokens,
            min_new_tokens=params.min_tokens,
            stop_token_ids=params.stop_token_ids,
            stop_strings=params.stop,
            include_stop_strings=params.include_stop_str_in_output,
            ignore_eos=params.ignore_eos,
        ),
        response=_response(params),
        truncate_prompt_tokens=max(params.truncate_prompt_tokens, 0),
    )
    if request.HasField("text"):
        made.text = request.text
    else:
        made.token_ids.ids.extend(request.tokenized.input_ids)
    constraint = params.WhichOneof("constraint")
    if constraint == "choice":
        made.decoding.choice.choices.extend(params.choice.choices)
    elif constraint is not None:
        setattr(made.decoding, _CONSTRAINTS[constraint], getattr(params, constraint))
    if params.grammar_from_first_token:
        made.engine_reasoning_gate.reasoning_ended = True
    if request.kv_transfer_params_json:
        try:
            ParseDict(json.loads(request.kv_transfer_params_json), made.kv.kv_transfer_params)
        except ParseError:
            raise VLLMGrpcValidationError("kv_transfer_params", "must be a JSON object") from None
    for ref in request.media_refs.items:
        kind = inference.Modality.Value(f"MODALITY_{Modality.Name(ref.modality)}")
        made.media.add(modality=kind, url=ref.url)
    return made


def _check_supported(request: pb.GenerateRequest) -> None:
    params = request.sampling_params
    for param, given in {
        "mm_inputs": request.HasField("mm_inputs"),
        "data_parallel_rank": request.HasField("data_parallel_rank"),
        "spaces_between_special_tokens": not params.spaces_between_special_tokens,
        "truncate_prompt_tokens": params.HasField("truncate_prompt_tokens")
        and not params.truncate_prompt_tokens,
    }.items():
        if given:
            raise VLLMGrpcValidationError(
                param, 'vLLM\'s own protocol (protocol="inference") does not support this value'
            )


def _response(params: pb.SamplingParams) -> inference.ResponseOptions:
    made = inference.ResponseOptions(
        output_text=True,
        output_token_ids=True,
        output_logprobs=params.HasField("logprobs"),
        prompt_logprobs=params.HasField("prompt_logprobs"),
        prompt_token_ids=params.HasField("prompt_logprobs"),
        skip_special_tokens=params.skip_special_tokens,
    )
    for count, candidates in (
        (params.logprobs, made.output_candidates),
        (params.prompt_logprobs, made.prompt_candidates),
    ):
        if count > 0:
            candidates.top_n = count
        elif count < 0:
            candidates.all = True
    return made


# Replies.


def engine_messages(
    message: inference.GenerateResponse, prompt: inference.PromptInfo
) -> list[pb.GenerateResponse]:
    """The message as messages of `vllm.grpc.engine`: a chunk, and then the end of its choice."""
    if not message.HasField("outputs"):
        return []
    output = message.outputs
    chunk = pb.GenerateStreamChunk(
        index=output.index,
        token_ids=output.token_ids,
        prompt_tokens=prompt.num_prompt_tokens,
        completion_tokens=output.num_tokens,
    )
    if output.logprobs:
        chunk.output_logprobs.CopyFrom(
            pb.OutputLogProbs(
                token_logprobs=output.logprobs,
                token_ids=output.token_ids,
                top_logprobs=_candidates(output.candidate_tokens),
            )
        )
    if prompt.logprobs:
        # The first token has no logprob, since nothing precedes it.
        values = [pb.InputTokenLogProb(value=one) for one in prompt.logprobs]
        values[0] = pb.InputTokenLogProb()
        chunk.input_logprobs.CopyFrom(
            pb.InputLogProbs(
                token_logprobs=values,
                token_ids=prompt.token_ids,
                top_logprobs=_candidates(prompt.candidate_tokens),
            )
        )
    made = [pb.GenerateResponse(chunk=chunk)]
    if output.HasField("finish_info"):
        made.append(pb.GenerateResponse(complete=_complete(output.index, output.finish_info)))
    return made


def _candidates(found: Sequence[inference.CandidateTokenInfo]) -> list[pb.TopLogProbs]:
    return [
        pb.TopLogProbs(
            values=[token.logprob for token in one.tokens], token_ids=[t.id for t in one.tokens]
        )
        for one in found
    ]


def _complete(index: int, end: inference.FinishInfo) -> pb.GenerateComplete:
    made = pb.GenerateComplete(
        index=index,
        finish_reason=_REASONS.get(end.finish_reason, ""),
        completion_tokens=end.num_output_tokens,
        cached_tokens=end.num_cached_tokens,
    )
    if end.HasField("stop_token_id"):
        made.matched_token_id = end.stop_token_id
    elif end.HasField("stop_string"):
        made.matched_stop_str = end.stop_string
    if end.HasField("kv_transfer_params"):
        made.kv_transfer_params_json = json.dumps(MessageToDict(end.kv_transfer_params))
    return made


def engine_reply(reply: Any) -> Any:
    """The reply of a unary RPC as a message of `vllm.grpc.engine`."""
    if isinstance(reply, control.ModelInfo):
        return pb.GetModelInfoResponse(
            model_path=reply.model_id,
            served_model_name=reply.served_model_name,
            supports_vision=reply.supports_multimodal,
            is_generation=True,
        )
    if isinstance(reply, control.ServerInfo):
        return pb.GetServerInfoResponse(
            data_parallel_size=reply.parallelism.data_parallel_size,
            block_size=reply.kv_block_size,
            max_num_seqs=reply.max_running_requests,
        )
    if isinstance(reply, _HealthReply):
        healthy = reply.status == _HealthReply.SERVING
        return pb.HealthCheckResponse(healthy=healthy, message="" if healthy else "not serving")
    return reply
