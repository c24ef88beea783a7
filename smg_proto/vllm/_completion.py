"""Completions without I/O: makes requests from the arguments of `create`, and chunks and results
from the server's messages.

Only this module knows the rules of the wire. Chunks are appended. The message that ends a choice
repeats the last chunk's tokens, so its own are used only if there was no chunk. The token counts
of a message are those of the message alone.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_inference_pb2 as inference
from smg_proto._channel import Metadata, json_object
from smg_proto._tokens.text import CallerDecoding, ChoiceText, ServedText, TextPlan, drops_last
from smg_proto.vllm._config import Options, json_text, text
from smg_proto.vllm._errors import VLLMGrpcInternalError, VLLMGrpcValidationError
from smg_proto.vllm._inference import engine_messages
from smg_proto.vllm._params import CompletionRequest, Input, parse_prompts
from smg_proto.vllm._telemetry import Span
from smg_proto.vllm._tokenizer import TokenDecoder
from smg_proto.vllm._types import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
    assembled,
    new_request_id,
)

Message: TypeAlias = pb.GenerateStreamChunk | pb.GenerateComplete
Reply: TypeAlias = pb.GenerateResponse | inference.GenerateResponse
Delta: TypeAlias = dict[str, Any]
"""The part of a choice that is new with a message, as all fields of CompletionChunkChoice."""
ResultT = TypeVar("ResultT")
ChunkT = TypeVar("ChunkT")

_NO_PROMPT: Final = inference.PromptInfo()
_BEFORE: Final = 8  # last tokens of the prompt, which affect how the text begins


# Requests.


def requests(
    inputs: Sequence[Input], request: CompletionRequest, request_id: str, stream: bool
) -> list[pb.GenerateRequest]:
    """One request per prompt, checked."""
    media = request.media_refs or request.mm_inputs
    cut = request.truncate_prompt_tokens
    if media and any(isinstance(one, str) for one in inputs):
        raise VLLMGrpcValidationError("prompt", "must be token ids if there are media")
    if not media and cut not in (None, -1) and not all(isinstance(one, str) for one in inputs):
        raise VLLMGrpcValidationError(
            "truncate_prompt_tokens", "the server cuts only text prompts; cut the token ids"
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


def text_plans(inputs: Sequence[Input], request: CompletionRequest) -> list[TextPlan]:
    """How to decode the choices of each prompt."""
    return [
        TextPlan(
            request.skip_special_tokens,
            request.stop or (),
            request.stop_token_ids or (),
            request.include_stop_str_in_output,
            one if isinstance(one, str) else one.input_ids[-_BEFORE:],
            bool(request.stop and request.min_tokens),
        )
        for one in inputs
    ]


def embed_requests(
    inputs: object, request_id: str | None, decoder: TokenDecoder | None
) -> list[pb.EmbedRequest]:
    """One request per input."""
    base = new_request_id("emb") if request_id is None else text("request_id", request_id)
    parsed = parse_prompts(inputs, "input")
    made: list[pb.EmbedRequest] = []
    for number, one in enumerate(parsed):
        if isinstance(one, str):
            if decoder is None:
                raise VLLMGrpcValidationError(
                    "input",
                    "the server embeds only token ids; pass ids, or give the client a decoder",
                )
            one = pb.TokenizedInput(original_text=one, input_ids=decoder.encode(one))
        name = base if len(parsed) == 1 else f"{base}-{number}"
        made.append(pb.EmbedRequest(request_id=name, tokenized=one))
    return made


# The reply to one prompt.


@dataclass(slots=True)
class Counts:
    """Token counts. The prompt counts once, however many choices it has."""

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

    def usage(self) -> CompletionUsage:
        details = None
        if self.drafted:
            details = CompletionTokensDetails(
                accepted_prediction_tokens=self.accepted,
                rejected_prediction_tokens=max(self.drafted - self.accepted, 0),
            )
        values: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "cached_tokens": self.cached,
            "prompt_tokens_details": assembled(PromptTokensDetails, {"cached_tokens": self.cached}),
            "completion_tokens_details": details,
        }
        return assembled(CompletionUsage, values)


class _Choice:
    """One choice so far."""

    __slots__ = (
        "complete",
        "logprobs",
        "pieces",
        "prompt_logprobs",
        "stopped_by",
        "text",
        "token_ids",
    )

    def __init__(self, words: ChoiceText | ServedText | None) -> None:
        self.text = words
        self.token_ids: list[int] = []
        self.pieces: list[str] = []
        self.logprobs: CompletionLogprobs | None = None
        self.prompt_logprobs: CompletionLogprobs | None = None
        self.complete: pb.GenerateComplete | None = None
        self.stopped_by: int | str | None = None


class Answer:
    """The choices that the messages of one Generate call add up to, with text if there is a
    decoder."""

    __slots__ = (
        "_choices", "_n", "_offset", "_plan", "_prompt", "_request_id",
        "counts", "decoder", "served",
    )  # fmt: skip

    def __init__(self, request_id: str, n: int, offset: int, plan: TextPlan) -> None:
        self._request_id = request_id
        self._n = n
        self._offset = offset  # index of this prompt's first choice among those of all prompts
        self._plan = plan
        self._choices: dict[int, _Choice] = {}
        self._prompt = _NO_PROMPT  # in vLLM's own protocol
        self.decoder: TokenDecoder | None = None
        self.served: ServedText | None = None
        self.counts = Counts()

    def add(self, message: Reply) -> Delta | None:
        """Add one message and return what is new; None for an unknown kind."""
        if isinstance(message, inference.GenerateResponse):
            return self._add_translated(message)
        if message.HasField("chunk"):
            chunk = message.chunk
            choice = self._choices.get(chunk.index) or self._begin(chunk)
            if choice.complete is not None:
                raise self._broken(f"sent more of choice {chunk.index} after its end")
            return self._extend(choice, chunk, chunk.token_ids[:])
        if message.HasField("complete"):
            return self._end(message.complete)
        return None

    def _add_translated(self, message: inference.GenerateResponse) -> Delta | None:
        if message.HasField("prompt_info"):
            self._prompt = message.prompt_info
        if self.served is not None:
            self.served.next = message.outputs.text
        deltas = [self.add(one) for one in engine_messages(message, self._prompt)]
        found = [delta for delta in deltas if delta is not None]
        if len(found) == 2:  # a chunk, and the end of its choice
            same = ("delta_token_ids", "delta_text", "logprobs")
            found[0] |= {name: value for name, value in found[1].items() if name not in same}
        return found[0] if found else None

    def _begin(self, message: Message) -> _Choice:
        if message.index >= self._n:
            raise self._broken(f"sent a choice {message.index} of {self._n}")
        words: ChoiceText | ServedText | None = self.served
        if self.decoder is not None:
            words = self._plan.new(self.decoder)
        choice = self._choices[message.index] = _Choice(words)
        choice.prompt_logprobs = _input_logprobs(message)
        if choice.prompt_logprobs is not None:
            self._name(choice.prompt_logprobs)
        self._count(message)
        return choice

    def _count(self, message: Message) -> None:
        """Update the counts of the prompt, which are missing in some messages."""
        self.counts.prompt = max(self.counts.prompt, message.prompt_tokens)
        self.counts.cached = max(self.counts.cached, message.cached_tokens)

    def _end(self, complete: pb.GenerateComplete) -> Delta:
        choice = self._choices.get(complete.index)
        reason, stopped_by = complete.finish_reason, _stop_reason(complete)
        if choice is None:  # without chunks, this message has the tokens
            choice = self._begin(complete)
            ends = drops_last(reason, stopped_by)
            delta = self._extend(choice, complete, complete.output_ids[:], ends=ends)
        elif choice.complete is not None:
            raise self._broken(f"ended choice {complete.index} twice")
        else:
            delta = self._delta(complete.index, [])
            self._count(complete)
        choice.complete, choice.stopped_by = complete, stopped_by
        if choice.text is not None:
            rest = choice.text.finish(reason, stopped_by)
            choice.pieces.append(rest)
            delta["delta_text"] = (delta["delta_text"] or "") + rest
        delta["finish_reason"], delta["stop_reason"] = reason, stopped_by
        self.counts.accepted += complete.spec_accepted_tokens
        self.counts.drafted += complete.spec_draft_tokens
        return delta

    def _extend(
        self, choice: _Choice, message: Message, ids: list[int], *, ends: bool = False
    ) -> Delta:
        choice.token_ids += ids
        self.counts.completion += len(ids)
        delta = self._delta(message.index, ids)
        logprobs = _output_logprobs(message) if message.HasField("output_logprobs") else None
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

    def _delta(self, index: int, ids: list[int]) -> Delta:
        return {
            "index": self._offset + index,
            "delta_token_ids": ids,
            "delta_text": None,
            "finish_reason": None,
            "stop_reason": None,
            "logprobs": None,
        }

    def _name(self, logprobs: CompletionLogprobs) -> None:
        """Replace `token_id:N` by the token's text, if there is a decoder."""
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
        """All fields of CompletionChoice for each choice so far. Later messages do not change
        them."""
        return [self._result(index) for index in sorted(self._choices)]

    def _result(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        complete, kv = choice.complete, None
        if complete is not None and complete.HasField("kv_transfer_params_json"):
            kv = json_object(complete.kv_transfer_params_json)
        return {
            "index": self._offset + index,
            "text": "".join(choice.pieces) if choice.text is not None else None,
            "token_ids": list(choice.token_ids),
            "finish_reason": complete.finish_reason if complete is not None else None,
            "stop_reason": choice.stopped_by,
            "logprobs": _copied(choice.logprobs),
            "prompt_logprobs": choice.prompt_logprobs,
            "kv_transfer_params": kv,
            "raw": complete,
        }

    def reasons(self) -> list[str]:
        """The finish reason of each choice; empty if it is unfinished."""
        ends = (self._choices[index].complete for index in sorted(self._choices))
        return [end.finish_reason if end is not None else "" for end in ends]

    def check_complete(self) -> None:
        """Raise an error unless every choice has ended."""
        for index in range(self._n):
            choice = self._choices.get(index)
            if choice is None or choice.complete is None:
                raise self._broken(f"ended the call without ending choice {index}")

    def _broken(self, what: str) -> VLLMGrpcInternalError:
        return VLLMGrpcInternalError(
            f"the server {what}", code="INTERNAL", request_id=self._request_id
        )


def _decode(
    words: ChoiceText | ServedText, ids: list[int], logprobs: CompletionLogprobs | None, ends: bool
) -> str:
    """The text that the tokens add. Also fills in `text_offset`, if there are logprobs."""
    if logprobs is None or logprobs.token_ids != ids or isinstance(words, ServedText):
        return words.feed(ids, hold=ends)
    pieces: list[str] = []
    for place, token in enumerate(ids, 1):
        pieces.append(words.release())
        logprobs.text_offset.append(words.length)
        pieces.append(words.feed([token], hold=ends and place == len(ids)))
    return "".join(pieces)


def _stop_reason(complete: pb.GenerateComplete) -> int | str | None:
    name = complete.WhichOneof("matched_stop")
    stop: int | str | None = None if name is None else getattr(complete, name)
    return stop


def _token_name(token_id: int) -> str:
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


def _output_logprobs(message: Message) -> CompletionLogprobs:
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
    return assembled(
        CompletionLogprobs, {name: list(value) for name, value in logprobs.__dict__.items()}
    )


# The reply to all prompts of one call of `create`.


@dataclass(slots=True)
class Part:
    """One prompt of a job: its request and its reply."""

    request: pb.GenerateRequest
    answer: Answer


class Shape(ABC, Generic[ResultT, ChunkT]):
    """Makes chunks and results of the caller's types."""

    operation: ClassVar[str]
    """OpenTelemetry's name of the operation."""
    prefix: ClassVar[str]
    """The prefix of request ids."""

    @abstractmethod
    def chunk(self, fields: dict[str, Any], delta: Delta | None) -> ChunkT:
        """A chunk. Without delta, the last one, with the usage."""

    @abstractmethod
    def whole(self, fields: dict[str, Any], choices: list[dict[str, Any]]) -> ResultT:
        """The result so far. The choices have the fields of CompletionChoice."""

    @abstractmethod
    def words(self, chunk: ChunkT) -> str | None:
        """The text that a chunk adds to the first choice."""


_CHUNK: Final[str] = CompletionChunk.model_fields["object"].default
_WHOLE: Final[str] = Completion.model_fields["object"].default


class CompletionShape(Shape[Completion, CompletionChunk]):
    operation = "text_completion"
    prefix = "cmpl"

    def __init__(self, plans: Sequence[TextPlan], n: int) -> None:
        self._decoding = CallerDecoding(plans, n)

    def chunk(self, fields: dict[str, Any], delta: Delta | None) -> CompletionChunk:
        choices: list[CompletionChunkChoice] = []
        if delta is not None:
            choices.append(assembled(CompletionChunkChoice, delta))
        return assembled(
            CompletionChunk,
            {"object": _CHUNK, **fields, "choices": choices, "_decoding": self._decoding},
        )

    def whole(self, fields: dict[str, Any], choices: list[dict[str, Any]]) -> Completion:
        made = [assembled(CompletionChoice, choice) for choice in choices]
        return assembled(
            Completion, {"object": _WHOLE, **fields, "choices": made, "_decoding": self._decoding}
        )

    def words(self, chunk: CompletionChunk) -> str | None:
        return chunk.choices[0].delta_text if chunk.choices and not chunk.choices[0].index else ""


@dataclass(slots=True)
class Job(Generic[ResultT, ChunkT]):
    """One call of `create`: its requests and their replies so far."""

    request_id: str
    request: CompletionRequest
    parts: list[Part]
    options: Options
    shape: Shape[ResultT, ChunkT]
    model: str  # the label of the caller, or the server's name
    metadata: Metadata  # of the requests
    created: int
    span: Span | None = None
    initial_metadata: Metadata = ()
    trailing_metadata: Metadata = ()

    def head(self) -> dict[str, Any]:
        return {"id": self.request_id, "created": self.created, "model": self.model}

    def counts(self) -> Counts:
        if len(self.parts) == 1:
            return self.parts[0].answer.counts
        return sum((part.answer.counts for part in self.parts), Counts())

    def usage(self) -> CompletionUsage:
        return self.counts().usage()

    def chunk(self, delta: Delta, message: Reply) -> ChunkT:
        options = self.request.stream_options
        usage = self.usage() if options is not None and options.continuous_usage_stats else None
        fields = self.head()
        fields["usage"], fields["raw"] = usage, message
        return self.shape.chunk(fields, delta)

    def last_chunk(self) -> ChunkT | None:
        """The chunk with the usage, if it was requested."""
        options = self.request.stream_options
        if options is None or not options.include_usage:
            return None
        return self.shape.chunk({**self.head(), "usage": self.usage(), "raw": None}, None)

    def result(self) -> ResultT:
        """The result so far."""
        fields = self.head()
        fields["usage"] = self.usage()
        fields["initial_metadata"] = self.initial_metadata
        fields["trailing_metadata"] = self.trailing_metadata
        choices = [choice for part in self.parts for choice in part.answer.choices()]
        return self.shape.whole(fields, choices)

    def decode_with(self, decoder: TokenDecoder | None, served: bool = False) -> None:
        """Set the decoder of the choices. served: use the text that the server sends."""
        for part in self.parts:
            part.answer.decoder = decoder
            part.answer.served = ServedText() if served else None

    def end(self, error: BaseException | None = None) -> None:
        """Close the span, if there is one."""
        span, self.span = self.span, None
        if span is not None and span.recording():
            counts = self.counts()
            reasons = [reason for part in self.parts for reason in part.answer.reasons()]
            span.result(self.request_id, self.model, counts.prompt, counts.completion, reasons)
            span.end(error)


def new_job(
    inputs: Sequence[Input],
    request: CompletionRequest,
    plans: Sequence[TextPlan],
    shape: Shape[ResultT, ChunkT],
    request_id: str | None,
    stream: bool,
    options: Options,
) -> Job[ResultT, ChunkT]:
    if request_id is None:
        request_id = new_request_id(shape.prefix)
    parts = [
        Part(wire, Answer(wire.request_id, request.n, number * request.n, plans[number]))
        for number, wire in enumerate(requests(inputs, request, request_id, stream))
    ]
    return Job(
        request_id=request_id,
        request=request,
        parts=parts,
        options=options,
        shape=shape,
        model=request.model or "",
        metadata=options.metadata,
        created=int(time.time()),
    )
