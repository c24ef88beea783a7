"""From the arguments of `create` to requests, one per prompt, and what will collect the answers."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.accumulate import Accumulator, Counts
from smg_proto.vllm.checks import mapping, text
from smg_proto.vllm.decode import TokenDecoder
from smg_proto.vllm.errors import Metadata, VLLMGrpcValidationError
from smg_proto.vllm.options import CallParams, Options, split
from smg_proto.vllm.params import (
    CompletionRequest,
    Input,
    MediaRef,
    SamplingParams,
    StreamOptions,
    StructuredOutputs,
    parse_prompts,
)
from smg_proto.vllm.results import Completion, CompletionUsage, new_request_id
from smg_proto.vllm.telemetry import Span
from smg_proto.vllm.text import TextPlan

_BEFORE = 8  # tokens, or characters, of the prompt that decide how the text after it begins


class CompletionParams(CallParams, total=False):
    """What `completions.create` takes besides prompt and stream. Left out or None: not set."""

    request_id: str | None
    model: str | None
    sampling_params: SamplingParams | None
    use_model_defaults: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    skip_special_tokens: bool | None
    spaces_between_special_tokens: bool | None
    ignore_eos: bool | None
    n: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    seed: int | None
    include_stop_str_in_output: bool | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    truncate_prompt_tokens: int | None
    structured_outputs: StructuredOutputs | None
    grammar_from_first_token: bool | None
    kv_transfer_params: str | Mapping[str, Any] | None
    data_parallel_rank: int | None
    media_refs: Sequence[MediaRef] | None
    mm_inputs: pb.MultimodalInputs | Sequence[pb.MultimodalInputs] | None
    stream_options: StreamOptions | Mapping[str, bool] | None
    decoder: TokenDecoder | None


@dataclass(slots=True)
class Part:
    """One prompt of a call: its request, and what has come of it."""

    request: pb.GenerateRequest
    answer: Accumulator


@dataclass(slots=True)
class Plan:
    """All of one `create`."""

    request_id: str
    created: int
    parts: list[Part]
    options: Options
    asked: CompletionRequest
    model: str = ""  # as the caller or the server names it
    metadata: Metadata = ()  # to be sent
    span: Span | None = None
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()

    def usage(self) -> CompletionUsage:
        return CompletionUsage.model_validate(self._counted())

    def _counted(self) -> dict[str, object]:
        counts = [part.answer.counts for part in self.parts]
        return (counts[0] if len(counts) == 1 else Counts.total(counts)).usage()

    def completion(self) -> Completion:
        """What has come so far. Validated as a whole, which is cheaper than piece by piece."""
        return Completion.model_validate(
            {
                "id": self.request_id,
                "created": self.created,
                "model": self.model,
                "choices": [choice for part in self.parts for choice in part.answer.choices()],
                "usage": self._counted(),
                "initial_metadata": self.initial_metadata,
                "trailing_metadata": self.trailing_metadata,
            }
        )

    def end(self, error: BaseException | None = None) -> None:
        """Close the span, if there is one."""
        if self.span is not None and self.span.recording():
            self.span.result(self.completion())
            self.span.end(error)


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of `create` besides the prompt, checked. Never changed: it may be shared."""

    params: CompletionRequest
    sampling: pb.SamplingParams
    request_id: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Asked":
        params = CompletionRequest(**given)
        return cls(params, params.to_grpc())


def check_request(params: Mapping[str, Any]) -> tuple[CallParams, Asked]:
    """The arguments of `create`, checked. Programs ask for the same again and again: so once."""
    call, given = split({name: value for name, value in params.items() if value is not None})
    if "timeout" in params:
        call["timeout"] = params["timeout"]  # None says "no limit"
    request_id = given.pop("request_id", None)
    if "sampling_params" in given:
        given = _unpacked(given.pop("sampling_params"), given)
    try:
        # The type belongs to the key, as 1 == 1.0 == True.
        asked = _asked_before(
            tuple((name, value.__class__, value) for name, value in given.items())
        )
    except TypeError:  # a list or the like, which cannot be a key
        asked = Asked.of({name: _plain(value) for name, value in given.items()})
    if request_id is not None:
        asked = replace(asked, request_id=text("request_id", request_id))
    return call, asked


@lru_cache(maxsize=128)
def _asked_before(given: tuple[tuple[str, type, Any], ...]) -> Asked:
    return Asked.of({name: _plain(value) for name, _, value in given})


def _plain(value: object) -> object:
    """Tuples and mappings in the one form that the models take."""
    if type(value) is tuple:
        return list(cast("tuple[object, ...]", value))
    by_name = mapping(value)
    return value if by_name is None else dict(by_name)


def _unpacked(sampling: object, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a SamplingParams as if they had been given one by one."""
    if not isinstance(sampling, SamplingParams):
        raise VLLMGrpcValidationError("sampling_params", "must be a SamplingParams")
    base = {name: getattr(sampling, name) for name in sampling.model_fields_set}
    if twice := base.keys() & given.keys():
        raise VLLMGrpcValidationError(min(twice), "given twice: by itself and in sampling_params")
    return base | given


def with_model_defaults(asked: Asked, defaults: Mapping[str, object]) -> Asked:
    """The model's own sampling parameters wherever the caller set none."""
    known = {k: v for k, v in defaults.items() if k in SamplingParams.model_fields}
    params = asked.params
    given = {name: getattr(params, name) for name in params.model_fields_set}
    return replace(Asked.of(known | given), request_id=asked.request_id)


def build(
    prompt: object,
    asked: Asked,
    *,
    stream: bool,
    options: Options,
    decoder: TokenDecoder | None,
    defaults: Mapping[str, object],
) -> Plan:
    """The requests. Nothing has been sent yet, and nothing wrong will be."""
    inputs = parse_prompts(prompt)
    if defaults:
        asked = with_model_defaults(asked, defaults)
    params = asked.params
    _check_form(inputs, params)
    request_id = asked.request_id or new_request_id("cmpl")
    several = len(inputs) > 1
    parts: list[Part] = []
    for number, one in enumerate(inputs):
        request = pb.GenerateRequest(
            request_id=f"{request_id}-{number}" if several else request_id,
            tokenized=None if isinstance(one, str) else one,
            sampling_params=asked.sampling,
            stream=stream,
            data_parallel_rank=params.data_parallel_rank,
        )
        if isinstance(one, str):
            request.text = one
        if params.kv_transfer_params or params.media_refs or params.mm_inputs:
            _add_media(request, params)
        words = _text_plan(decoder, params, one) if decoder is not None else None
        parts.append(Part(request, Accumulator(params.n, offset=number * params.n, text=words)))
    return Plan(request_id, int(time.time()), parts, options, params, params.model or "")


def _check_form(inputs: Sequence[Input], params: CompletionRequest) -> None:
    """What depends on whether the prompt is text."""
    if params.media_refs or params.mm_inputs:
        if any(isinstance(one, str) for one in inputs):
            raise VLLMGrpcValidationError("prompt", "media need a prompt in token ids")
    elif params.truncate_prompt_tokens and not all(isinstance(one, str) for one in inputs):
        raise VLLMGrpcValidationError(
            "truncate_prompt_tokens", "the server cuts text prompts only; cut the token ids"
        )


def _add_media(request: pb.GenerateRequest, asked: CompletionRequest) -> None:
    kv = asked.kv_transfer_params
    if kv is not None:
        request.kv_transfer_params_json = kv if isinstance(kv, str) else json.dumps(kv)
    for ref in asked.media_refs or ():
        modality = common_pb2.Modality.Value(ref.modality.upper())
        request.media_refs.items.add(modality=modality, url=ref.url)
    if asked.mm_inputs:
        request.mm_inputs.CopyFrom(asked.mm_inputs[0])
        request.extra_mm_inputs.extend(asked.mm_inputs[1:])


def _text_plan(decoder: TokenDecoder, asked: CompletionRequest, prompt: Input) -> TextPlan:
    if isinstance(prompt, str):
        before = decoder.encode(prompt[-_BEFORE:], add_special_tokens=False)
    else:
        before = list(prompt.input_ids[-_BEFORE:])
    return TextPlan(
        decoder,
        skip_special_tokens=asked.skip_special_tokens,
        stop=asked.stop or (),
        stop_token_ids=frozenset(asked.stop_token_ids or ()),
        keep_stop=asked.include_stop_str_in_output,
        before=before,
    )


def embed_requests(
    inputs: object, request_id: str | None, decoder: TokenDecoder | None
) -> list[pb.EmbedRequest]:
    """One request per input. The server embeds token ids only."""
    base = new_request_id("emb") if request_id is None else text("request_id", request_id)
    parsed = parse_prompts(inputs, "input")
    requests: list[pb.EmbedRequest] = []
    for number, one in enumerate(parsed):
        if isinstance(one, str):
            if decoder is None:
                raise VLLMGrpcValidationError(
                    "input",
                    "the server embeds token ids only; pass ids, or give the client a decoder",
                )
            one = pb.TokenizedInput(original_text=one, input_ids=decoder.encode(one))
        requests.append(
            pb.EmbedRequest(
                request_id=base if len(parsed) == 1 else f"{base}-{number}", tokenized=one
            )
        )
    return requests
