"""tokenspeed.grpc.scheduler: what TokenSpeed serves."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from smg_proto import tokenspeed_scheduler_pb2 as pb
from smg_proto.engine._contracts.base import Call, known, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import Asked
from smg_proto.engine._types import Info


class TokenSpeed(SchedulerContract):
    name = "tokenspeed.grpc.scheduler"
    service = "tokenspeed.grpc.scheduler.TokenSpeedScheduler"
    pb = pb
    fields: ClassVar[Mapping[str, str]] = {
        "token_ids": "tokenized.input_ids",
        **under(
            "sampling_params",
            *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
            *("repetition_penalty", "n", "stop", "stop_token_ids", "ignore_eos"),
            *("json_schema", "regex", "structural_tag"),
            max_tokens="max_new_tokens",
            min_tokens="min_new_tokens",
            seed="sampling_seed",
            grammar="ebnf_grammar",
        ),
    }
    handled = frozenset(("logit_bias", "logprobs"))
    why: ClassVar[Mapping[str, str]] = {
        "prompt_logprobs": "its reply has no field for them",
        "prompt": "it takes token ids alone; give token_ids",
        "top_k=0": "it does not say which number stands for all tokens; leave it out",
    }

    def generate(self, asked: Asked, stream: bool) -> Call:
        if asked.get("top_k") == 0:
            raise self.unsupported("top_k=0")
        request = pb.GenerateRequest(request_id=asked["request_id"], stream=stream)
        self.logit_bias(request.sampling_params, asked)
        if "logprobs" in asked:
            request.return_logprob = True
            request.top_logprobs_num = asked["logprobs"]
        self.fill(request, asked)
        return self.call("Generate", request, pb.GenerateResponse)

    def info(self, replies: Sequence[Any]) -> Info:
        model, server = replies
        return Info(
            self.name,
            model.served_model_name or model.model_path,
            f"TokenSpeed {server.tokenspeed_version}".strip(),
            known(model.max_context_length),
            known(model.vocab_size),
            tuple(model.eos_token_ids),
            tuple(replies),
        )


CONTRACT = TokenSpeed()
