"""vLLM's own protocol, `vllm.Inference` and `vllm.Control`, for a client that speaks
`vllm.grpc.engine`: requests and replies are translated.

What the protocol cannot say is refused by name before anything is sent.
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
    """The RPC that stands for one of VllmEngine, and its request."""
    if rpc == "Generate":
        streams = request.stream or request.sampling_params.n > 1
        return "GenerateStream" if streams else rpc, generate_request(request)
    if rpc in _CONTROL:
        return rpc, _CONTROL[rpc](request)
    raise VLLMGrpcUnimplementedError(
        f"vLLM's own protocol has no {rpc}: the server was started with --grpc-port; `vllm serve "
        "--grpc` with smg-grpc-servicer offers it",
        code="UNIMPLEMENTED",
    )


_CONTROL: Final[dict[str, Callable[[Any], Message]]] = {
    "HealthCheck": lambda _: _Health(),
    "GetModelInfo": lambda _: control.GetModelInfoRequest(),
    "GetServerInfo": lambda _: control.GetServerInfoRequest(),
    "Abort": lambda request: control.AbortRequest(request_ids=request.request_ids),
}
SHARED: Final = frozenset({"Generate", *_CONTROL})
"""RPCs that every server of either protocol has, under one name or another."""


def methods(channel: Any) -> dict[str, tuple[Any, bool]]:
    """The RPCs of the protocol by name, and whether they stream."""
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
    asked = request.sampling_params
    _refuse(request)
    made = inference.GenerateRequest(
        request_id=request.request_id,
        temperature=asked.temperature if asked.HasField("temperature") else 1.0,
        sampling=inference.RandomSampling(
            num_sequences=asked.n,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            seed=asked.seed if asked.HasField("seed") else None,
        ),
        decoding=inference.DecodingParameters(
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            repetition_penalty=asked.repetition_penalty,
            logit_bias=dict(asked.logit_bias),
        ),
        stopping=inference.StoppingCriteria(
            max_new_tokens=asked.max_tokens,
            min_new_tokens=asked.min_tokens,
            stop_token_ids=asked.stop_token_ids,
            stop_strings=asked.stop,
            include_stop_strings=asked.include_stop_str_in_output,
            ignore_eos=asked.ignore_eos,
        ),
        response=_response(asked),
        truncate_prompt_tokens=max(asked.truncate_prompt_tokens, 0),
    )
    if request.HasField("text"):
        made.text = request.text
    else:
        made.token_ids.ids.extend(request.tokenized.input_ids)
    constraint = asked.WhichOneof("constraint")
    if constraint == "choice":
        made.decoding.choice.choices.extend(asked.choice.choices)
    elif constraint is not None:
        setattr(made.decoding, _CONSTRAINTS[constraint], getattr(asked, constraint))
    if asked.grammar_from_first_token:
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


def _refuse(request: pb.GenerateRequest) -> None:
    asked = request.sampling_params
    for param, given in {
        "mm_inputs": request.HasField("mm_inputs"),
        "data_parallel_rank": request.HasField("data_parallel_rank"),
        "spaces_between_special_tokens": not asked.spaces_between_special_tokens,
        "truncate_prompt_tokens": asked.HasField("truncate_prompt_tokens")
        and not asked.truncate_prompt_tokens,
    }.items():
        if given:
            raise VLLMGrpcValidationError(
                param, 'vLLM\'s own protocol (protocol="inference") has nothing for this value'
            )


def _response(asked: pb.SamplingParams) -> inference.ResponseOptions:
    made = inference.ResponseOptions(
        output_text=True,
        output_token_ids=True,
        output_logprobs=asked.HasField("logprobs"),
        prompt_logprobs=asked.HasField("prompt_logprobs"),
        prompt_token_ids=asked.HasField("prompt_logprobs"),
        skip_special_tokens=asked.skip_special_tokens,
    )
    for count, wanted in (
        (asked.logprobs, made.output_candidates),
        (asked.prompt_logprobs, made.prompt_candidates),
    ):
        if count > 0:
            wanted.top_n = count
        elif count < 0:
            wanted.all = True
    return made


# Replies.


def engine_messages(
    message: inference.GenerateResponse, prompt: inference.PromptInfo
) -> list[pb.GenerateResponse]:
    """The same in the engine's messages: what is new of a choice, and then its end."""
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
        # Nothing stands before the first token.
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


def engine_reply(told: Any) -> Any:
    """The one reply of an RPC that does not stream."""
    if isinstance(told, control.ModelInfo):
        return pb.GetModelInfoResponse(
            model_path=told.model_id,
            served_model_name=told.served_model_name,
            supports_vision=told.supports_multimodal,
            is_generation=True,
        )
    if isinstance(told, control.ServerInfo):
        return pb.GetServerInfoResponse(
            data_parallel_size=told.parallelism.data_parallel_size,
            block_size=told.kv_block_size,
            max_num_seqs=told.max_running_requests,
        )
    if isinstance(told, _HealthReply):
        healthy = told.status == _HealthReply.SERVING
        return pb.HealthCheckResponse(healthy=healthy, message="" if healthy else "not serving")
    return told
