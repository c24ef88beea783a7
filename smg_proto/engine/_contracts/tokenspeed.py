"""tokenspeed.grpc.scheduler: what TokenSpeed serves."""

from collections.abc import Mapping
from typing import ClassVar

from smg_proto import tokenspeed_scheduler_pb2 as pb
from smg_proto.engine._contracts.base import Call, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import Asked


class TokenSpeed(SchedulerContract):
    name = "tokenspeed.grpc.scheduler"
    service = "tokenspeed.grpc.scheduler.TokenSpeedScheduler"
    pb = pb
    engine = "TokenSpeed"
    version = "tokenspeed_version"
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


CONTRACT = TokenSpeed()
