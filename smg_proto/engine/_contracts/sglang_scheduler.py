"""sglang.grpc.scheduler: what SGLang serves with --smg-grpc-mode."""

from collections.abc import Mapping
from typing import ClassVar

from smg_proto import sglang_scheduler_pb2 as pb
from smg_proto.engine._contracts.base import Call, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import CheckedParams


class SglangScheduler(SchedulerContract):
    name = "sglang.grpc.scheduler"
    service = "sglang.grpc.scheduler.SglangScheduler"
    pb = pb
    engine = "SGLang"
    version = "sglang_version"
    unnumbered = True
    fields: ClassVar[Mapping[str, str]] = {
        "token_ids": "tokenized.input_ids",
        "lora": "lora_id",
        **under(
            "sampling_params",
            *("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"),
            *("repetition_penalty", "n", "stop", "stop_token_ids", "ignore_eos"),
            *("json_schema", "regex", "structural_tag"),
            max_tokens="max_new_tokens",
            min_tokens="min_new_tokens",
            grammar="ebnf_grammar",
        ),
    }
    handled = frozenset(("top_k", "logit_bias", "logprobs", "prompt_logprobs"))
    why: ClassVar[Mapping[str, str]] = {
        "prompt": "the contract takes only token ids; pass token_ids"
    }

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        request = pb.GenerateRequest(request_id=params["request_id"], stream=stream)
        sampling = request.sampling_params
        # These fields have no presence, and 0 is not their default.
        sampling.temperature = sampling.top_p = sampling.repetition_penalty = 1.0
        sampling.top_k = params.get("top_k") or -1
        self.logit_bias(sampling, params)
        request.logprob_start_len = -1
        self.request_logprobs(request, params)
        self.fill(request, params)
        return self.call("Generate", request, pb.GenerateResponse)


CONTRACT = SglangScheduler()
