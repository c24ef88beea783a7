"""vllm.grpc.engine: what vLLM serves with --grpc."""

from collections.abc import Mapping
from typing import ClassVar

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.engine._contracts.base import Call, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import CheckedParams


class VllmEngine(SchedulerContract):
    name = "vllm.grpc.engine"
    service = "vllm.grpc.engine.VllmEngine"
    pb = pb
    engine = "vLLM"
    aborts_many = True
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

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        request = pb.GenerateRequest(request_id=params["request_id"], stream=stream)
        # Not every server reads 0 as "off".
        request.sampling_params.MergeFrom(pb.SamplingParams(top_p=1.0, repetition_penalty=1.0))
        self.fill(request, params)
        return self.call("Generate", request, pb.GenerateResponse)


CONTRACT = VllmEngine()
