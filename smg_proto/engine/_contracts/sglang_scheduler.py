"""sglang.grpc.scheduler: what SGLang serves with --smg-grpc-mode."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from smg_proto import sglang_scheduler_pb2 as pb
from smg_proto.engine._contracts.base import Call, known, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import Asked
from smg_proto.engine._types import Info


class SglangScheduler(SchedulerContract):
    name = "sglang.grpc.scheduler"
    service = "sglang.grpc.scheduler.SglangScheduler"
    pb = pb
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

    def info(self, replies: Sequence[Any]) -> Info:
        model, server = replies
        return Info(
            self.name,
            model.served_model_name or model.model_path,
            f"SGLang {server.sglang_version}".strip(),
            known(model.max_context_length),
            known(model.vocab_size),
            tuple(model.eos_token_ids),
            tuple(replies),
        )


CONTRACT = SglangScheduler()
