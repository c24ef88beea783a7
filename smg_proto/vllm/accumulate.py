"""From the messages of Generate to chunks and completions, for one prompt.

The rules of the wire are here and nowhere else: chunks are appended; the message that ends a
choice repeats the last chunk's tokens, so its own are used only where no chunk came; counts of a
message are of that message alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.errors import VLLMGrpcInternalError
from smg_proto.vllm.results import (
    CompletionLogprobs,
    input_logprobs,
    kv_transfer_params,
    output_logprobs,
    stop_reason,
    token_name,
    usage,
)
from smg_proto.vllm.text import ChoiceText, TextPlan


@dataclass(slots=True)
class Counts:
    """What usage is made of. The prompt counts once, however many choices it has."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    accepted: int = 0
    drafted: int = 0

    @classmethod
    def total(cls, several: "Sequence[Counts]") -> "Counts":
        return cls(
            sum(counts.prompt for counts in several),
            sum(counts.completion for counts in several),
            sum(counts.cached for counts in several),
            sum(counts.accepted for counts in several),
            sum(counts.drafted for counts in several),
        )

    def usage(self) -> dict[str, object]:
        """As CompletionUsage takes it."""
        return usage(self.prompt, self.completion, self.cached, self.accepted, self.drafted)


class _Choice:
    """One choice so far."""

    __slots__ = ("complete", "logprobs", "parts", "prompt_logprobs", "text", "token_ids")

    def __init__(self, text: ChoiceText | None) -> None:
        self.text = text
        self.token_ids: list[int] = []
        self.parts: list[str] = []
        self.logprobs: CompletionLogprobs | None = None
        self.prompt_logprobs: CompletionLogprobs | None = None
        self.complete: pb.GenerateComplete | None = None


Delta = dict[str, object]
"""What a message adds, as CompletionChunkChoice takes it."""


class Accumulator:
    """What the messages of one Generate amount to."""

    __slots__ = ("_choices", "_n", "_offset", "_text", "counts")

    def __init__(self, n: int, *, offset: int = 0, text: TextPlan | None = None) -> None:
        self._n = n
        self._offset = offset  # index of this prompt's first choice among those of all prompts
        self._text = text
        self._choices: dict[int, _Choice] = {}
        self.counts: Counts = Counts()

    def add(self, message: pb.GenerateResponse) -> Delta | None:
        """Take in one message: what it adds. None: nothing that is known."""
        if message.HasField("chunk"):
            chunk = message.chunk
            choice = self._choices.get(chunk.index) or self._begin(chunk)
            return self._extend(choice, chunk, list(chunk.token_ids))
        if message.HasField("complete"):
            return self._end(message.complete)
        return None

    def _begin(self, message: pb.GenerateStreamChunk | pb.GenerateComplete) -> _Choice:
        choice = _Choice(self._text.new() if self._text is not None else None)
        self._choices[message.index] = choice
        choice.prompt_logprobs = input_logprobs(message)
        if choice.prompt_logprobs is not None:
            self._name(choice.prompt_logprobs)
        self._count(message)
        return choice

    def _count(self, message: pb.GenerateStreamChunk | pb.GenerateComplete) -> None:
        """The figures about the prompt, which any message may lack."""
        self.counts.prompt = max(self.counts.prompt, message.prompt_tokens)
        self.counts.cached = max(self.counts.cached, message.cached_tokens)

    def _end(self, complete: pb.GenerateComplete) -> Delta:
        choice = self._choices.get(complete.index)
        delta: Delta = {"index": self._offset + complete.index}
        if choice is None:  # no chunk has brought the tokens
            choice = self._begin(complete)
            delta = self._extend(choice, complete, list(complete.output_ids))
        choice.complete = complete
        stopped_by = stop_reason(complete)
        if choice.text is not None:
            rest = choice.text.finish(stopped_by)
            choice.parts.append(rest)
            delta["delta_text"] = f"{delta.get('delta_text', '')}{rest}"
        delta["finish_reason"], delta["stop_reason"] = complete.finish_reason or "stop", stopped_by
        self._count(complete)
        self.counts.accepted += complete.spec_accepted_tokens
        self.counts.drafted += complete.spec_draft_tokens
        return delta

    def _extend(
        self,
        choice: _Choice,
        message: pb.GenerateStreamChunk | pb.GenerateComplete,
        ids: list[int],
    ) -> Delta:
        choice.token_ids += ids
        self.counts.completion += len(ids)
        delta: Delta = {"index": self._offset + message.index, "delta_token_ids": ids}
        logprobs = output_logprobs(message)
        if choice.text is not None:
            text = self._decode(choice.text, ids, logprobs)
            if text:
                choice.parts.append(text)
                delta["delta_text"] = text
        if logprobs is not None:
            self._name(logprobs)
            if choice.logprobs is None:
                choice.logprobs = CompletionLogprobs()
            for name in CompletionLogprobs.model_fields:
                getattr(choice.logprobs, name).extend(getattr(logprobs, name))
            delta["logprobs"] = logprobs
        return delta

    def _decode(self, text: ChoiceText, ids: list[int], logprobs: CompletionLogprobs | None) -> str:
        """The text that the tokens add; with logprobs, also where each token's text begins."""
        if logprobs is None or logprobs.token_ids != ids:
            return text.feed(ids)
        pieces: list[str] = []
        for token in ids:
            logprobs.text_offset.append(text.length)
            pieces.append(text.feed([token]))
        return "".join(pieces)

    def _name(self, logprobs: CompletionLogprobs) -> None:
        """Show tokens as text, now that there is a decoder; `token_id:N` stays where it isn't."""
        if self._text is None:
            return
        decoder = self._text.decoder

        def name(token: int) -> str:
            return decoder.decode([token], skip_special_tokens=False) or token_name(token)

        logprobs.tokens = [name(token) for token in logprobs.token_ids]
        logprobs.top_logprobs = [
            None if top is None else {name(token): top[token] for token in reversed(top)}
            for top in logprobs.top_ids
        ]

    def choices(self) -> list[dict[str, object]]:
        """Every choice so far, by index, as CompletionChoice takes it."""
        return [self._result(index) for index in sorted(self._choices)]

    def _result(self, index: int) -> dict[str, object]:
        choice = self._choices[index]
        result: dict[str, object] = {
            "index": self._offset + index,
            "text": "".join(choice.parts),
            "token_ids": choice.token_ids,
            "logprobs": choice.logprobs,
            "prompt_logprobs": choice.prompt_logprobs,
        }
        if (complete := choice.complete) is not None:
            result["finish_reason"] = complete.finish_reason or "stop"
            result["stop_reason"] = stop_reason(complete)
            result["kv_transfer_params"] = kv_transfer_params(complete)
            result["raw"] = complete
        return result

    def check_complete(self, request_id: str) -> None:
        """A call that ended well must have ended every choice."""
        for index in {*range(self._n), *self._choices}:
            choice = self._choices.get(index)
            if choice is None or choice.complete is None:
                raise VLLMGrpcInternalError(
                    f"the server ended the call without ending choice {index}",
                    code="INTERNAL",
                    request_id=request_id,
                )
