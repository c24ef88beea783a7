"""tokenspeed.grpc.scheduler: what TokenSpeed serves."""

from collections.abc import Mapping
from typing import ClassVar

from smg_proto import tokenspeed_scheduler_pb2 as pb
from smg_proto.engine._contracts.base import Call, under
from smg_proto.engine._contracts.chunks import SchedulerContract
from smg_proto.engine._request import CheckedParams


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
        "prompt_logprobs": "the reply has no field for them",
        "prompt": "the contract takes only token ids; pass token_ids",
        "top_k=0": "the contract does not say which number means all tokens; leave it out",
    }

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        if params.get("top_k") == 0:
            raise self.unsupported("top_k=0")
        request = pb.GenerateRequest(request_id=params["request_id"], stream=stream)
        self.logit_bias(request.sampling_params, params)
        if "logprobs" in params:
            request.return_logprob = True
            request.top_logprobs_num = params["logprobs"]
        self.fill(request, params)
        return self.call("Generate", request, pb.GenerateResponse)


CONTRACT = TokenSpeed()
