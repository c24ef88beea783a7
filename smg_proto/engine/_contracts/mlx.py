"""mlx.grpc.engine: what the MLX worker serves."""

from collections.abc import Mapping
from typing import ClassVar

from smg_proto import mlx_engine_pb2 as pb
from smg_proto.engine._contracts.base import Call, under
from smg_proto.engine._contracts.chunks import ChunkContract
from smg_proto.engine._request import CheckedParams


class MlxEngine(ChunkContract):
    name = "mlx.grpc.engine"
    service = "mlx.grpc.engine.MlxEngine"
    pb = pb
    engine = "MLX"
    aborts_many = True
    matched = ("matched_stop_token_id",)
    ends_quietly = True
    fields: ClassVar[Mapping[str, str]] = {
        "prompt": "text",
        "token_ids": "tokenized.input_ids",
        **under(
            "sampling_params",
            *("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty"),
            *("frequency_penalty", "repetition_penalty", "logit_bias", "seed"),
            *("stop_token_ids", "ignore_eos", "logprobs"),
        ),
    }
    handled = frozenset(("n",))
    why: ClassVar[Mapping[str, str]] = {
        "n": "the engine generates one sequence per request",
        "stop": "the contract has no stop strings; use stop_token_ids, or cut the text yourself",
        "logprobs=0": "0 returns none; use at least 1",
    }

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        if params.n > 1:
            raise self.unsupported("n")
        if params.get("logprobs") == 0:
            raise self.unsupported("logprobs=0")
        request = pb.GenerateRequest(request_id=params["request_id"], stream=stream)
        self.fill(request, params)
        return self.call("Generate", request, pb.GenerateResponse)


CONTRACT = MlxEngine()
