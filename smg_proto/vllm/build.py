"""From the arguments of `create` to requests, one per prompt, and what will collect the answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from smg_proto.vllm.results import Completion, CompletionUsage, new_request_id, usage
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
        counts = sum((part.answer.counts for part in self.parts), Counts())
        return usage(
            counts.prompt, counts.completion, counts.cached, counts.accepted, counts.drafted
        )

    def completion(self) -> Completion:
        """What has come so far."""
        return Completion(
            id=self.request_id,
            created=self.created,
            model=self.model,
            choices=[choice for part in self.parts for choice in part.answer.choices()],
            usage=self.usage(),
            initial_metadata=self.initial_metadata,
            trailing_metadata=self.trailing_metadata,
        )

    def end(self, error: BaseException | None = None) -> None:
        """Close the span, if there is one."""
        if self.span is not None and self.span.recording():
            self.span.result(self.completion())
            self.span.end(error)


def check_request(params: Mapping[str, Any]) -> tuple[CallParams, CompletionRequest]:
    """The arguments of `create`, checked."""
    call, given = split({name: value for name, value in params.items() if value is not None})
    if "timeout" in params:
        call["timeout"] = params["timeout"]  # None says "no limit"
    sampling = given.pop("sampling_params", None)
    for name, value in given.items():
        if type(value) is tuple:
            given[name] = list(cast("tuple[object, ...]", value))
    if sampling is not None:
        if not isinstance(sampling, SamplingParams):
            raise VLLMGrpcValidationError("sampling_params", "must be a SamplingParams")
        base = {name: getattr(sampling, name) for name in sampling.model_fields_set}
        if twice := base.keys() & given.keys():
            raise VLLMGrpcValidationError(
                min(twice), "given twice: by itself and in sampling_params"
            )
        given = base | given
    for name in ("logit_bias", "kv_transfer_params"):
        if (by_name := mapping(given.get(name))) is not None:
            given[name] = dict(by_name)
    return call, CompletionRequest(**given)


def with_model_defaults(
    asked: CompletionRequest, defaults: Mapping[str, object]
) -> CompletionRequest:
    """The model's own sampling parameters wherever the caller set none."""
    known: dict[str, Any] = {k: v for k, v in defaults.items() if k in SamplingParams.model_fields}
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    return CompletionRequest(**(known | given))


def build(
    prompt: object,
    asked: CompletionRequest,
    *,
    stream: bool,
    options: Options,
    created: int,
    decoder: TokenDecoder | None,
    defaults: Mapping[str, object] | None = None,
) -> Plan:
    """The requests. Nothing has been sent yet, and nothing wrong will be."""
    inputs = parse_prompts(prompt)
    if defaults:
        asked = with_model_defaults(asked, defaults)
    if (asked.media_refs or asked.mm_inputs) and any(isinstance(i, str) for i in inputs):
        raise VLLMGrpcValidationError("prompt", "media need a prompt in token ids")
    if asked.truncate_prompt_tokens and not all(isinstance(i, str) for i in inputs):
        raise VLLMGrpcValidationError(
            "truncate_prompt_tokens", "the server cuts text prompts only; cut the token ids"
        )
    request_id = asked.request_id or new_request_id("cmpl")
    sampling = asked.to_grpc()
    parts: list[Part] = []
    for number, one in enumerate(inputs):
        request = pb.GenerateRequest(
            request_id=request_id if len(inputs) == 1 else f"{request_id}-{number}",
            sampling_params=sampling,
            stream=stream,
            data_parallel_rank=asked.data_parallel_rank,
        )
        if isinstance(one, str):
            request.text = one
        else:
            request.tokenized.CopyFrom(one)
        _add_media(request, asked)
        words = _text_plan(decoder, asked, one) if decoder is not None else None
        parts.append(Part(request, Accumulator(asked.n, offset=number * asked.n, text=words)))
    return Plan(request_id, created, parts, options, asked, asked.model or "")


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
