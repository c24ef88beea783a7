"""mlx.grpc.engine: what the MLX worker serves."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from smg_proto import mlx_engine_pb2 as pb
from smg_proto.engine._contracts.base import Call, known, under
from smg_proto.engine._contracts.chunks import ChunkContract
from smg_proto.engine._request import Asked
from smg_proto.engine._types import Health, Info


class MlxEngine(ChunkContract):
    name = "mlx.grpc.engine"
    service = "mlx.grpc.engine.MlxEngine"
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
        "n": "it generates one sequence a request",
        "stop": "it has no stop strings; use stop_token_ids, or cut the text yourself",
        "logprobs=0": "0 returns none; ask for 1 or more",
    }

    def generate(self, asked: Asked, stream: bool) -> Call:
        if asked.n > 1:
            raise self.unsupported("n")
        if asked.get("logprobs") == 0:
            raise self.unsupported("logprobs=0")
        request = pb.GenerateRequest(request_id=asked["request_id"], stream=stream)
        self.fill(request, asked)
        return self.call("Generate", request, pb.GenerateResponse)

    def abort(self, request_id: str) -> Call:
        request = pb.AbortRequest(request_ids=[request_id])
        return self.call("Abort", request, pb.AbortResponse)

    def info_calls(self) -> Sequence[Call]:
        return (
            self.call("GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse),
            self.call("GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse),
        )

    def info(self, replies: Sequence[Any]) -> Info:
        model, _ = replies
        return Info(
            self.name,
            model.served_model_name or model.model_path,
            "MLX",
            known(model.max_context_length),
            known(model.vocab_size),
            tuple(model.eos_token_ids),
            tuple(replies),
        )

    def health_call(self) -> Call:
        return self.call("HealthCheck", pb.HealthCheckRequest(), pb.HealthCheckResponse)

    def health(self, reply: Any) -> Health:
        return Health(reply.healthy, reply.message)


CONTRACT = MlxEngine()
