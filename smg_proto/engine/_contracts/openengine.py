"""openengine.v1: a contract for any engine. TensorRT-LLM serves it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from smg_proto import openengine_pb2 as pb
from smg_proto.engine._contracts.base import Call, Contract, Reader, under
from smg_proto.engine._errors import from_status
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Health, Info, Load, Logprob, Piece, Usage

_REASONS = {pb.FINISH_REASON_LENGTH: "length", pb.FINISH_REASON_CANCELLED: "abort"}  # else "stop"
# The equivalent gRPC status.
_CODES = {
    pb.ERROR_CODE_INVALID_ARGUMENT: "INVALID_ARGUMENT",
    pb.ERROR_CODE_UNSUPPORTED_FEATURE: "FAILED_PRECONDITION",
    pb.ERROR_CODE_ROLE_MISMATCH: "FAILED_PRECONDITION",
    pb.ERROR_CODE_MODEL_NOT_FOUND: "NOT_FOUND",
    pb.ERROR_CODE_OVERLOADED: "RESOURCE_EXHAUSTED",
    pb.ERROR_CODE_REQUEST_NOT_FOUND: "NOT_FOUND",
    pb.ERROR_CODE_DUPLICATE_REQUEST: "ALREADY_EXISTS",
    pb.ERROR_CODE_KV_SESSION_NOT_FOUND: "NOT_FOUND",
    pb.ERROR_CODE_CANCELLED: "CANCELLED",
}
_CONTROL = "/openengine.v1.Control"


class OpenEngine(Contract):
    name = "openengine.v1"
    service = "openengine.v1.Inference"
    has_text = True
    fields: ClassVar[Mapping[str, str]] = {
        "prompt": "prompt",
        "token_ids": "token_ids.ids",
        "lora": "lora_name",
        "model": "model",
        **under(
            "sampling",
            *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
            *("repetition_penalty", "seed"),
            n="num_sequences",
        ),
        **under("stopping", "max_tokens", "min_tokens", "ignore_eos"),
        **under(
            "guided",
            *("json_schema", "regex", "structural_tag"),
            grammar="ebnf_grammar",
            choice="choice.choices",
        ),
    }
    handled = frozenset(("stop", "stop_token_ids", "json_object", "logprobs", "prompt_logprobs"))
    why: ClassVar[Mapping[str, str]] = {
        "top_k=0": "the contract does not say which number means all tokens; leave it out"
    }

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        if params.get("top_k") == 0:
            raise self.unsupported("top_k=0")
        request = pb.GenerateRequest(request_id=params["request_id"])
        self.fill(request, params)
        for text in params.get("stop", ()):
            request.stopping.conditions.add(stop_text=text)
        for token in params.get("stop_token_ids", ()):
            request.stopping.conditions.add(stop_token_id=token)
        if "json_object" in params:
            request.guided.json_object.SetInParent()
        if "logprobs" in params:
            request.response.return_output_logprobs = True
            if params["logprobs"]:
                request.response.output_candidates.top_n = params["logprobs"]
        if "prompt_logprobs" in params:
            request.response.return_prompt_logprobs = True
            if params["prompt_logprobs"]:
                request.response.prompt_candidates.top_n = params["prompt_logprobs"]
        return self.call("Generate", request, pb.GenerateResponse)

    def reader(self, params: CheckedParams, stream: bool, facts: Any) -> "OpenReader":
        return OpenReader("logprobs" in params)

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        tokens = message.prompt.tokens
        return tuple(_logprob(one) if one.HasField("logprob") else None for one in tokens)

    def abort(self, request_id: str) -> Call:
        return Call(f"{_CONTROL}/Abort", pb.AbortRequest(request_id=request_id), pb.AbortResponse)

    def info_calls(self) -> Sequence[Call]:
        return (
            Call(f"{_CONTROL}/GetModelInfo", pb.GetModelInfoRequest(), pb.ModelInfo),
            Call(f"{_CONTROL}/GetServerInfo", pb.GetServerInfoRequest(), pb.ServerInfo),
        )

    def info(self, replies: Sequence[Any]) -> Info:
        model, server = replies
        context = model.max_context_length if model.HasField("max_context_length") else None
        return Info(
            self.name,
            model.served_model_name or model.model_id,
            f"{server.engine_name} {server.engine_version}".strip(),
            context,
            replies=tuple(replies),
        )

    def load_call(self) -> Call:
        return Call(f"{_CONTROL}/GetLoad", pb.GetLoadRequest(), pb.LoadInfo)

    def load(self, reply: Any) -> Load:
        usage = None
        if reply.HasField("used_kv_blocks") and reply.total_kv_blocks:
            usage = reply.used_kv_blocks / reply.total_kv_blocks
        return Load(
            reply.running_requests if reply.HasField("running_requests") else None,
            reply.queued_requests if reply.HasField("queued_requests") else None,
            usage,
            (reply,),
        )

    def health_call(self) -> Call:
        return Call(f"{_CONTROL}/Health", pb.HealthRequest(), pb.HealthResponse)

    def health(self, reply: Any) -> Health:
        state = pb.HealthState.Name(reply.state).removeprefix("HEALTH_STATE_")
        return Health(state in ("READY", "DEGRADED"), state)


class OpenReader(Reader):
    def __init__(self, logprobs: bool) -> None:
        self._with_logprobs = logprobs
        self._seen: dict[int, int] = {}  # sequence to its tokens so far

    def read(self, message: Any) -> Iterable[Piece]:
        kind = message.WhichOneof("event")
        if kind == "token":
            new = message.token
            index, tokens = new.output_index, new.tokens
            self._seen[index] = self._seen.get(index, 0) + len(tokens)
            logprobs = tuple(map(_logprob, tokens)) if self._with_logprobs else ()
            return (Piece(index, new.text, tuple([one.token_id for one in tokens]), logprobs),)
        if kind == "finished":
            return (self._last(message),)
        if kind == "error":
            code = _CODES.get(message.error.code, "INTERNAL")
            raise from_status(code, message.error.message, "openengine.v1")
        return ()

    def _last(self, message: Any) -> Piece:
        end, usage = message.finished, message.usage
        known = message.HasField("usage")
        cached = known and usage.HasField("cached_prompt_tokens")
        matched = end.stop_match.WhichOneof("match")
        return Piece(
            end.output_index,
            finish_reason=_REASONS.get(end.reason, "stop"),
            # The model's end token is not one of the request's stops.
            matched_stop=(
                getattr(end.stop_match, matched) if matched not in (None, "eos_token_id") else None
            ),
            usage=Usage(
                usage.prompt_tokens if known else None,
                self._seen.get(end.output_index, 0),
                usage.cached_prompt_tokens if cached else None,
            ),
        )


def _logprob(token: Any) -> Logprob:
    top = tuple((one.token_id, one.logprob) for one in token.candidates)
    return Logprob(token.token_id, token.logprob, top)


CONTRACT = OpenEngine()
