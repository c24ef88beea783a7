"""Completions without I/O: from the arguments of `create` to requests, and from the server's
messages to chunks and results.

The rules of the wire are here and nowhere else: chunks are appended; the message that ends a choice
repeats the last chunk's tokens, so its own are used only where no chunk came; counts of a message
are of that message alone.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm._config import Options, json_object, json_text, text
from smg_proto.vllm._errors import Metadata, VLLMGrpcInternalError, VLLMGrpcValidationError
from smg_proto.vllm._params import CompletionRequest, Input, parse_prompts
from smg_proto.vllm._telemetry import Span
from smg_proto.vllm._text import ByHand, ChoiceText, TextPlan, drops_last
from smg_proto.vllm._tokenizer import TokenDecoder
from smg_proto.vllm._types import (
    Completion,
    CompletionChunk,
    CompletionLogprobs,
    CompletionUsage,
    new_request_id,
)

Message: TypeAlias = pb.GenerateStreamChunk | pb.GenerateComplete
Delta: TypeAlias = dict[str, Any]
"""What a message adds, as CompletionChunkChoice takes it."""
ResultT = TypeVar("ResultT")
ChunkT = TypeVar("ChunkT")

_BEFORE: Final = 8  # tokens of the prompt that decide how the text after it begins


# Requests.


def requests(
    inputs: Sequence[Input], request: CompletionRequest, request_id: str, stream: bool
) -> list[pb.GenerateRequest]:
    """One request per prompt. Nothing has been sent yet, and nothing wrong will be."""
    media = request.media_refs or request.mm_inputs
    cut = request.truncate_prompt_tokens
    if media and any(isinstance(one, str) for one in inputs):
        raise VLLMGrpcValidationError("prompt", "media need a prompt in token ids")
    if not media and cut not in (None, -1) and not all(isinstance(one, str) for one in inputs):
        raise VLLMGrpcValidationError(
            "truncate_prompt_tokens", "the server cuts text prompts only; cut the token ids"
        )
    sampling = request.to_grpc()
    made: list[pb.GenerateRequest] = []
    for number, one in enumerate(inputs):
        wire = pb.GenerateRequest(
            request_id=request_id if len(inputs) == 1 else f"{request_id}-{number}",
            tokenized=None if isinstance(one, str) else one,
            sampling_params=sampling,
            stream=stream,
            data_parallel_rank=request.data_parallel_rank,
        )
        if isinstance(one, str):
            wire.text = one
        if request.kv_transfer_params or media:
            _add_media(wire, request)
        made.append(wire)
    return made


def _add_media(wire: pb.GenerateRequest, request: CompletionRequest) -> None:
    kv = request.kv_transfer_params
    if kv is not None:
        as_text = kv if isinstance(kv, str) else json_text("kv_transfer_params", kv)
        wire.kv_transfer_params_json = as_text
    for ref in request.media_refs or ():
        modality = common_pb2.Modality.Value(ref.modality.upper())
        wire.media_refs.items.add(modality=modality, url=ref.url)
    if request.mm_inputs:
        wire.mm_inputs.CopyFrom(request.mm_inputs[0])
        wire.extra_mm_inputs.extend(request.mm_inputs[1:])


def text_plan(request: CompletionRequest, prompt: Input) -> TextPlan:
    return TextPlan(
        skip_special_tokens=request.skip_special_tokens,
        stop=request.stop or (),
        stop_token_ids=frozenset(request.stop_token_ids or ()),
        keep_stop=request.include_stop_str_in_output,
        before=prompt if isinstance(prompt, str) else prompt.input_ids[-_BEFORE:],
    )


def embed_requests(
    inputs: object, request_id: str | None, decoder: TokenDecoder | None
) -> list[pb.EmbedRequest]:
    """One request per input. The server embeds token ids only."""
    base = new_request_id("emb") if request_id is None else text("request_id", request_id)
    parsed = parse_prompts(inputs, "input")
    made: list[pb.EmbedRequest] = []
    for number, one in enumerate(parsed):
        if isinstance(one, str):
            if decoder is None:
                raise VLLMGrpcValidationError(
                    "input",
                    "the server embeds token ids only; pass ids, or give the client a decoder",
                )
            one = pb.TokenizedInput(original_text=one, input_ids=decoder.encode(one))
        name = base if len(parsed) == 1 else f"{base}-{number}"
        made.append(pb.EmbedRequest(request_id=name, tokenized=one))
    return made


# What comes back, for one prompt.


@dataclass(slots=True)
class Counts:
    """What usage is made of. The prompt counts once, however many choices it has."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    accepted: int = 0
    drafted: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.accepted + other.accepted,
            self.drafted + other.drafted,
        )

    def usage(self) -> dict[str, object]:
        """As CompletionUsage takes it."""
        result: dict[str, object] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "cached_tokens": self.cached,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }
        if self.drafted:
            result["completion_tokens_details"] = {
                "accepted_prediction_tokens": self.accepted,
                "rejected_prediction_tokens": max(self.drafted - self.accepted, 0),
            }
        return result


class _Choice:
    """One choice so far."""

    __slots__ = ("complete", "logprobs", "pieces", "prompt_logprobs", "text", "token_ids")

    def __init__(self, words: ChoiceText | None) -> None:
        self.text = words
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        self.logprobs: CompletionLogprobs | None = None
        self.prompt_logprobs: CompletionLogprobs | None = None
        self.complete: pb.GenerateComplete | None = None


class Answer:
    """What the messages of one Generate amount to. With a decoder, also as text."""

    __slots__ = ("_choices", "_n", "_offset", "_plan", "_request_id", "counts", "decoder")

    def __init__(self, request_id: str, n: int, offset: int, plan: TextPlan) -> None:
        self._request_id = request_id
        self._n = n
        self._offset = offset  # index of this prompt's first choice among those of all prompts
        self._plan = plan
        self._choices: dict[int, _Choice] = {}
        self.decoder: TokenDecoder | None = None
        self.counts = Counts()

    def add(self, message: pb.GenerateResponse) -> Delta | None:
        """Add one message and return what is new; None for an unknown kind."""
        if message.HasField("chunk"):
            chunk = message.chunk
            choice = self._choices.get(chunk.index)
            if choice is None:
                choice = self._begin(chunk)
            elif choice.complete is not None:
                raise self._broken(f"sent more of choice {chunk.index} after its end")
            return self._extend(choice, chunk, list(chunk.token_ids))
        if message.HasField("complete"):
            return self._end(message.complete)
        return None

    def _begin(self, message: Message) -> _Choice:
        if message.index >= self._n:
            raise self._broken(f"sent a choice {message.index} of {self._n}")
        words = self._plan.new(self.decoder) if self.decoder is not None else None
        choice = self._choices[message.index] = _Choice(words)
        choice.prompt_logprobs = _input_logprobs(message)
        if choice.prompt_logprobs is not None:
            self._name(choice.prompt_logprobs)
        self._count(message)
        return choice

    def _count(self, message: Message) -> None:
        """The figures about the prompt, which any message may lack."""
        self.counts.prompt = max(self.counts.prompt, message.prompt_tokens)
        self.counts.cached = max(self.counts.cached, message.cached_tokens)

    def _end(self, complete: pb.GenerateComplete) -> Delta:
        choice = self._choices.get(complete.index)
        reason, stopped_by = complete.finish_reason, stop_reason(complete)
        if choice is None:  # no chunk has brought the tokens
            choice = self._begin(complete)
            ends = drops_last(reason, stopped_by)
            delta = self._extend(choice, complete, list(complete.output_ids), ends=ends)
        elif choice.complete is not None:
            raise self._broken(f"ended choice {complete.index} twice")
        else:
            delta = {"index": self._offset + complete.index}
        choice.complete = complete
        if choice.text is not None:
            rest = choice.text.finish(reason, stopped_by)
            choice.pieces.append(rest)
            delta["delta_text"] = delta.get("delta_text", "") + rest
        delta["finish_reason"], delta["stop_reason"] = reason, stopped_by
        self._count(complete)
        self.counts.accepted += complete.spec_accepted_tokens
        self.counts.drafted += complete.spec_draft_tokens
        return delta

    def _extend(
        self, choice: _Choice, message: Message, ids: list[int], *, ends: bool = False
    ) -> Delta:
        choice.token_ids += ids
        self.counts.completion += len(ids)
        delta: Delta = {"index": self._offset + message.index, "delta_token_ids": ids}
        logprobs = _output_logprobs(message)
        if choice.text is not None:
            words = _decode(choice.text, ids, logprobs, ends)
            if words:
                choice.pieces.append(words)
            delta["delta_text"] = words
        if logprobs is not None:
            self._name(logprobs)
            if choice.logprobs is None:
                choice.logprobs = CompletionLogprobs()
            for name in CompletionLogprobs.model_fields:
                getattr(choice.logprobs, name).extend(getattr(logprobs, name))
            delta["logprobs"] = logprobs
        return delta

    def _name(self, logprobs: CompletionLogprobs) -> None:
        """Show tokens as text, now that there is a decoder; `token_id:N` stays where it isn't."""
        decoder = self.decoder
        if decoder is None:
            return

        def name(token: int) -> str:
            return decoder.decode([token], skip_special_tokens=False) or _token_name(token)

        logprobs.tokens = [name(token) for token in logprobs.token_ids]
        logprobs.top_logprobs = [
            None if top is None else {name(token): top[token] for token in reversed(top)}
            for top in logprobs.top_ids
        ]

    def choices(self) -> list[dict[str, Any]]:
        """Every choice so far, by index, as CompletionChoice takes it. Later messages do not
        change it."""
        return [self._result(index) for index in sorted(self._choices)]

    def _result(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        result: dict[str, Any] = {
            "index": self._offset + index,
            "text": "".join(choice.pieces) if choice.text is not None else None,
            "token_ids": list(choice.token_ids),
            "logprobs": _copied(choice.logprobs),
            "prompt_logprobs": choice.prompt_logprobs,
        }
        if (complete := choice.complete) is not None:
            result["finish_reason"] = complete.finish_reason
            result["stop_reason"] = stop_reason(complete)
            if complete.HasField("kv_transfer_params_json"):
                result["kv_transfer_params"] = json_object(complete.kv_transfer_params_json)
            result["raw"] = complete
        return result

    def reasons(self) -> list[str]:
        """Why each choice has ended so far."""
        ends = (self._choices[index].complete for index in sorted(self._choices))
        return [end.finish_reason if end is not None else "" for end in ends]

    def check_complete(self) -> None:
        """A call that ended well must have ended every choice."""
        for index in range(self._n):
            choice = self._choices.get(index)
            if choice is None or choice.complete is None:
                raise self._broken(f"ended the call without ending choice {index}")

    def _broken(self, what: str) -> VLLMGrpcInternalError:
        return VLLMGrpcInternalError(
            f"the server {what}", code="INTERNAL", request_id=self._request_id
        )


def _decode(
    words: ChoiceText, ids: list[int], logprobs: CompletionLogprobs | None, ends: bool
) -> str:
    """The text that the tokens add; with logprobs, also where each token's text begins."""
    if logprobs is None or logprobs.token_ids != ids:
        return words.feed(ids, hold=ends)
    pieces: list[str] = []
    for place, token in enumerate(ids, 1):
        pieces.append(words.release())
        logprobs.text_offset.append(words.length)
        pieces.append(words.feed([token], hold=ends and place == len(ids)))
    return "".join(pieces)


def stop_reason(complete: pb.GenerateComplete) -> int | str | None:
    match complete.WhichOneof("matched_stop"):
        case "matched_token_id":
            return complete.matched_token_id
        case "matched_stop_str":
            return complete.matched_stop_str
        case _:
            return None


def _token_name(token_id: int) -> str:
    """How a token is shown when nothing can decode it."""
    return f"token_id:{token_id}"


def _logprobs(
    wire: pb.OutputLogProbs | pb.InputLogProbs, values: list[float | None]
) -> CompletionLogprobs:
    by_id = [
        dict(zip(top.token_ids, top.values, strict=False)) or None for top in wire.top_logprobs
    ]
    by_name = [
        None if top is None else {_token_name(i): value for i, value in top.items()}
        for top in by_id
    ]
    ids = list(wire.token_ids)
    return CompletionLogprobs(
        tokens=[_token_name(i) for i in ids],
        token_ids=ids,
        token_logprobs=values,
        top_logprobs=by_name,
        top_ids=by_id,
    )


def _output_logprobs(message: Message) -> CompletionLogprobs | None:
    if not message.HasField("output_logprobs"):
        return None
    wire = message.output_logprobs
    return _logprobs(wire, list(wire.token_logprobs))


def _input_logprobs(message: Message) -> CompletionLogprobs | None:
    if not message.HasField("input_logprobs"):
        return None
    wire = message.input_logprobs
    values = [one.value if one.HasField("value") else None for one in wire.token_logprobs]
    return _logprobs(wire, values)


def _copied(logprobs: CompletionLogprobs | None) -> CompletionLogprobs | None:
    if logprobs is None:
        return None
    lists: dict[str, Any] = {
        name: list(getattr(logprobs, name)) for name in CompletionLogprobs.model_fields
    }
    return CompletionLogprobs.model_construct(**lists)


# What comes back, for all prompts of one call of `create`.


@dataclass(slots=True)
class Part:
    """One prompt of a job: its request, and what has come back."""

    request: pb.GenerateRequest
    answer: Answer


class Shape(ABC, Generic[ResultT, ChunkT]):
    """What chunks and results look like to the caller."""

    operation: ClassVar[str]
    """In the terms of OpenTelemetry."""
    prefix: ClassVar[str]
    """Of the request ids."""

    @abstractmethod
    def chunk(self, fields: dict[str, Any], delta: Delta | None) -> ChunkT:
        """A chunk; delta None: the last one, with the usage."""

    @abstractmethod
    def whole(self, fields: dict[str, Any], choices: list[dict[str, Any]]) -> ResultT:
        """The result, as far as it has come. The choices are as CompletionChoice takes them."""

    @abstractmethod
    def words(self, chunk: ChunkT) -> str | None:
        """The text that a chunk adds to the first choice."""


# What model_validate() calls. A stream makes thousands of chunks, and its own cost would show.
_make_chunk: Callable[[object], CompletionChunk]
_make_chunk = CompletionChunk.__pydantic_validator__.validate_python


class CompletionShape(Shape[Completion, CompletionChunk]):
    operation = "text_completion"
    prefix = "cmpl"

    def __init__(self, hand: ByHand) -> None:
        self._hand = hand

    def chunk(self, fields: dict[str, Any], delta: Delta | None) -> CompletionChunk:
        fields["choices"] = (delta,) if delta is not None else ()
        chunk = _make_chunk(fields)
        chunk.__dict__["_decoding"] = self._hand
        return chunk

    def whole(self, fields: dict[str, Any], choices: list[dict[str, Any]]) -> Completion:
        result = Completion.model_validate({**fields, "choices": choices})
        result.__dict__["_decoding"] = self._hand
        return result

    def words(self, chunk: CompletionChunk) -> str | None:
        return chunk.choices[0].delta_text if chunk.choices and not chunk.choices[0].index else ""


@dataclass(slots=True)
class Job(Generic[ResultT, ChunkT]):
    """One call of `create`: its requests, and what they have returned so far."""

    request_id: str
    request: CompletionRequest
    parts: list[Part]
    options: Options
    shape: Shape[ResultT, ChunkT]
    model: str  # as the caller or the server names it
    metadata: Metadata  # to be sent
    span: Span | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()

    def head(self) -> dict[str, Any]:
        return {"id": self.request_id, "created": self.created, "model": self.model}

    def counts(self) -> Counts:
        if len(self.parts) == 1:
            return self.parts[0].answer.counts
        return sum((part.answer.counts for part in self.parts), Counts())

    def usage(self) -> CompletionUsage:
        return CompletionUsage.model_validate(self.counts().usage())

    def chunk(self, delta: Delta, message: pb.GenerateResponse) -> ChunkT:
        fields = self.head()
        fields["raw"] = message
        asked = self.request.stream_options
        if asked is not None and asked.continuous_usage_stats:
            fields["usage"] = self.counts().usage()
        return self.shape.chunk(fields, delta)

    def last_chunk(self) -> ChunkT | None:
        """The usage, after all else, if it was asked for."""
        asked = self.request.stream_options
        if asked is None or not asked.include_usage:
            return None
        return self.shape.chunk({**self.head(), "usage": self.counts().usage()}, None)

    def result(self) -> ResultT:
        """What has come so far. Validated as a whole, which is cheaper than piece by piece."""
        fields = self.head()
        fields["usage"] = self.counts().usage()
        fields["initial_metadata"] = self.initial_metadata
        fields["trailing_metadata"] = self.trailing_metadata
        choices = [choice for part in self.parts for choice in part.answer.choices()]
        return self.shape.whole(fields, choices)

    def decode_with(self, decoder: TokenDecoder | None) -> None:
        for part in self.parts:
            part.answer.decoder = decoder

    def end(self, error: BaseException | None = None) -> None:
        """Close the span, if there is one."""
        span, self.span = self.span, None
        if span is not None and span.recording():
            counts = self.counts()
            reasons = [reason for part in self.parts for reason in part.answer.reasons()]
            span.result(self.request_id, self.model, counts.prompt, counts.completion, reasons)
            span.end(error)


def completion_job(
    prompt: object,
    request: CompletionRequest,
    *,
    request_id: str | None,
    stream: bool,
    options: Options,
) -> Job[Completion, CompletionChunk]:
    """The job for `completions.create`."""
    inputs = parse_prompts(prompt)
    hand = ByHand([text_plan(request, one) for one in inputs], request.n)
    return job(inputs, request, CompletionShape(hand), request_id, stream, options)


def job(
    inputs: Sequence[Input],
    request: CompletionRequest,
    shape: Shape[ResultT, ChunkT],
    request_id: str | None,
    stream: bool,
    options: Options,
) -> Job[ResultT, ChunkT]:
    if request_id is None:
        request_id = new_request_id(shape.prefix)
    parts = [
        Part(wire, Answer(wire.request_id, request.n, number * request.n, text_plan(request, one)))
        for number, (wire, one) in enumerate(
            zip(requests(inputs, request, request_id, stream), inputs, strict=True)
        )
    ]
    return Job(request_id, request, parts, options, shape, request.model or "", options.metadata)
