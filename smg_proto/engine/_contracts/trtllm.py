"""trtllm: what TensorRT-LLM serves with --grpc."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from smg_proto import trtllm_service_pb2 as pb
from smg_proto.engine._contracts.base import Call, known, under
from smg_proto.engine._contracts.chunks import ChunkContract
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Health, Info, Logprob

_Guide = pb.GuidedDecodingParams
_GUIDES = {
    "json_object": _Guide.GUIDE_TYPE_JSON,
    "json_schema": _Guide.GUIDE_TYPE_JSON_SCHEMA,
    "regex": _Guide.GUIDE_TYPE_REGEX,
    "grammar": _Guide.GUIDE_TYPE_EBNF_GRAMMAR,
    "structural_tag": _Guide.GUIDE_TYPE_STRUCTURAL_TAG,
}


class Trtllm(ChunkContract):
    name = "trtllm"
    service = "trtllm.TrtllmService"
    pb = pb
    engine = "TensorRT-LLM"
    version = "version"
    index = "sequence_index"
    output = "output_token_ids"
    fields: ClassVar[Mapping[str, str]] = {
        "token_ids": "tokenized.input_token_ids",
        **{name: name for name in ("max_tokens", "stop", "stop_token_ids", "ignore_eos")},
        **under(
            "sampling_config",
            *("min_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty"),
            *("frequency_penalty", "repetition_penalty", "seed"),
            n="num_return_sequences",
        ),
        **under("output_config", "logprobs", "prompt_logprobs"),
    }
    handled = frozenset(_GUIDES)
    why: ClassVar[Mapping[str, str]] = {
        "prompt": "the contract takes only token ids; pass token_ids",
        "a request without max_tokens": "the engine reads it as 0; pass max_tokens",
        "logit_bias": "the contract takes a number for every token of the vocabulary",
        "lora": "the contract identifies adapters by number",
    }

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        if "max_tokens" not in params:
            raise self.unsupported("a request without max_tokens")
        request = pb.GenerateRequest(request_id=params["request_id"], streaming=stream)
        self.fill(request, params)
        if params.constraint is not None:
            parameter, value = params.constraint
            request.guided_decoding.guide_type = _GUIDES[parameter]
            # An empty guide is no constraint, even if the type needs no guide.
            request.guided_decoding.guide = "{}" if parameter == "json_object" else value
        return self.call("Generate", request, pb.GenerateResponse)

    def logprobs(self, message: Any) -> tuple[Logprob, ...]:
        return tuple(map(_logprob, message.logprobs))

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        end = message.complete
        found = tuple(map(_logprob, end.prompt_logprobs))
        # The engine may leave out the first token of the prompt.
        return (None,) * (end.prompt_tokens - len(found)) + found if found else ()

    def info(self, replies: Sequence[Any]) -> Info:
        model, server = replies
        return Info(
            self.name,
            model.model_id,
            self.engine_of(server),
            known(model.max_seq_len),
            known(model.vocab_size),
            replies=tuple(replies),
        )

    def health(self, reply: Any) -> Health:
        return Health(reply.status == "OK", reply.status)


def _logprob(one: Any) -> Logprob:
    top = tuple((top.token_id, top.logprob) for top in one.top_logprobs)
    return Logprob(one.token_id, one.logprob, top)


CONTRACT = Trtllm()
