"""vllm: vLLM's own contract, served with --grpc-port."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, ClassVar

from smg_proto import vllm_control_pb2 as control
from smg_proto import vllm_inference_pb2 as pb
from smg_proto._standard import message_class
from smg_proto.engine._contracts.base import Call, Contract, Reader, known, under
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Health, Info, Logprob, Piece, Usage

_Finish = pb.FinishInfo
_REASONS = {_Finish.LENGTH: "length", _Finish.STOP: "stop", _Finish.ABORTED: "abort"}
_HealthRequest: Any = message_class("grpc.health.v1.HealthCheckRequest")
_HealthResponse: Any = message_class("grpc.health.v1.HealthCheckResponse")
_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


class Vllm(Contract):
    name = "vllm"
    service = "vllm.Inference"
    has_text = True
    fields: ClassVar[Mapping[str, str]] = {
        "prompt": "text",
        "token_ids": "token_ids.ids",
        "temperature": "temperature",
        "lora": "lora_name",
        "model": "model",
        **under("sampling", "top_k", "top_p", "min_p", "seed", n="num_sequences"),
        **under(
            "decoding",
            *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
            *("regex", "grammar", "json_object", "structural_tag"),
            json_schema="json",
            choice="choice.choices",
        ),
        **under(
            "stopping",
            *("stop_token_ids", "ignore_eos"),
            max_tokens="max_new_tokens",
            min_tokens="min_new_tokens",
            stop="stop_strings",
        ),
    }
    handled = frozenset(("logprobs", "prompt_logprobs"))

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        request = pb.GenerateRequest(request_id=params["request_id"])
        self.fill(request, params)
        request.response.output_token_ids = True
        if "logprobs" in params:
            request.response.output_logprobs = True
            if params["logprobs"]:
                request.response.output_candidates.top_n = params["logprobs"]
        if "prompt_logprobs" in params:
            request.response.prompt_logprobs = request.response.prompt_token_ids = True
            if params["prompt_logprobs"]:
                request.response.prompt_candidates.top_n = params["prompt_logprobs"]
        # A stream also for complete(): both clients can cancel it.
        return self.call("GenerateStream", request, pb.GenerateResponse)

    def reader(self, params: CheckedParams, stream: bool, facts: Any) -> "VllmReader":
        return VllmReader()

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        return (None, *_logprobs(message.prompt_info)[1:]) if message.prompt_info.logprobs else ()

    def abort(self, request_id: str) -> Call:
        request = control.AbortRequest(request_ids=[request_id])
        return Call("/vllm.Control/Abort", request, control.AbortResponse)

    def info_calls(self) -> Sequence[Call]:
        return (
            Call("/vllm.Control/GetModelInfo", control.GetModelInfoRequest(), control.ModelInfo),
            Call("/vllm.Control/GetServerInfo", control.GetServerInfoRequest(), control.ServerInfo),
        )

    def info(self, replies: Sequence[Any]) -> Info:
        model, server = replies
        return Info(
            self.name,
            model.served_model_name or model.model_id,
            f"vLLM {server.engine_version}".strip(),
            known(server.max_model_len),
            replies=tuple(replies),
        )

    def health_call(self) -> Call:
        request = _HealthRequest(service=self.service)
        return Call("/grpc.health.v1.Health/Check", request, _HealthResponse)

    def health(self, reply: Any) -> Health:
        return Health(reply.status == 1, _STATES.get(reply.status, str(reply.status)))


class VllmReader(Reader):
    def __init__(self) -> None:
        self._prompt_tokens: int | None = None

    def read(self, message: Any) -> Iterable[Piece]:
        if message.HasField("prompt_info"):
            self._prompt_tokens = message.prompt_info.num_prompt_tokens
        if not message.HasField("outputs"):
            return ()
        new = message.outputs
        logprobs = _logprobs(new) if new.logprobs else ()
        if not new.HasField("finish_info"):
            return (Piece(new.index, new.text, tuple(new.token_ids), logprobs),)
        end = new.finish_info
        matched = end.WhichOneof("stop_reason")
        return (
            Piece(
                new.index,
                new.text,
                tuple(new.token_ids),
                logprobs,
                _REASONS.get(end.finish_reason, f"{end.finish_reason}"),
                # The model's end token is not one of the request's stops.
                getattr(end, matched) if matched and matched != "eos_token_id" else None,
                Usage(
                    self._prompt_tokens,
                    end.num_output_tokens,
                    end.num_cached_tokens if end.HasField("num_cached_tokens") else None,
                ),
            ),
        )


def _logprobs(new: Any) -> tuple[Logprob, ...]:
    tops = (tuple((one.id, one.logprob) for one in at.tokens) for at in new.candidate_tokens)
    return tuple(map(Logprob, new.token_ids, new.logprobs, chain(tops, repeat(()))))


CONTRACT = Vllm()
