"""vllm.grpc.engine: what vLLM serves with --grpc."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.engine._contracts.base import Call, known, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import Asked
from smg_proto.engine._types import Info


class VllmEngine(SchedulerContract):
    name = "vllm.grpc.engine"
    service = "vllm.grpc.engine.VllmEngine"
    pb = pb
    fields: ClassVar[Mapping[str, str]] = {
        "prompt": "text",
        "token_ids": "tokenized.input_ids",
        **under(
            "sampling_params",
            *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p"),
            *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
            *("seed", "n", "stop", "stop_token_ids", "ignore_eos", "logprobs"),
            "prompt_logprobs",
            *("json_schema", "json_object", "regex", "grammar", "structural_tag"),
            choice="choice.choices",
        ),
    }

    def generate(self, asked: Asked, stream: bool) -> Call:
        request = pb.GenerateRequest(request_id=asked["request_id"], stream=stream)
        # Not every server takes 0 for "off".
        request.sampling_params.MergeFrom(pb.SamplingParams(top_p=1.0, repetition_penalty=1.0))
        self.fill(request, asked)
        return self.call("Generate", request, pb.GenerateResponse)

    def abort(self, request_id: str) -> Call:
        request = pb.AbortRequest(request_ids=[request_id])
        return self.call("Abort", request, pb.AbortResponse)

    def info(self, replies: Sequence[Any]) -> Info:
        model, _ = replies
        return Info(
            self.name,
            model.served_model_name or model.model_path,
            "vLLM",
            known(model.max_context_length),
            known(model.vocab_size),
            tuple(model.eos_token_ids),
            tuple(replies),
        )


CONTRACT = VllmEngine()
