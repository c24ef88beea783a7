"""sglang.grpc.scheduler: what SGLang serves with --smg-grpc-mode."""

from collections.abc import Mapping
from typing import ClassVar

from smg_proto import sglang_scheduler_pb2 as pb
from smg_proto.engine._contracts.base import Call, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import Asked


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
    why: ClassVar[Mapping[str, str]] = {"prompt": "it takes token ids alone; give token_ids"}

    def generate(self, asked: Asked, stream: bool) -> Call:
        request = pb.GenerateRequest(request_id=asked["request_id"], stream=stream)
        params = request.sampling_params
        # Fields without presence, whose 0 is another wish than none at all.
        params.temperature = params.top_p = params.repetition_penalty = 1.0
        params.top_k = asked.get("top_k") or -1
        self.logit_bias(params, asked)
        request.logprob_start_len = -1
        self.score(request, asked)
        self.fill(request, asked)
        return self.call("Generate", request, pb.GenerateResponse)


CONTRACT = SglangScheduler()
