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
    CompletionChunkChoice,
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


class Accumulator:
    """What the messages of one Generate amount to."""

    __slots__ = ("_choices", "_n", "_offset", "_text", "counts")

    def __init__(self, n: int, *, offset: int = 0, text: TextPlan | None = None) -> None:
        self._n = n
        self._offset = offset  # index of this prompt's first choice among those of all prompts
        self._text = text
        self._choices: dict[int, _Choice] = {}
        self.counts = Counts()

    def add(self, message: pb.GenerateResponse) -> CompletionChunkChoice | None:
        """Take in one message: what it adds. None: nothing that is known."""
        match message.WhichOneof("response"):
            case "chunk":
                return self._add_chunk(message.chunk)
            case "complete":
                return self._add_complete(message.complete)
            case _:
                return None

    def absorb(self, message: pb.GenerateResponse) -> None:
        """Take in one message of an unstreamed answer, whose deltas nobody wants."""
        if message.HasField("complete"):
            self._end_choice(message.complete)
        else:
            self.add(message)

    def _choice(self, message: pb.GenerateStreamChunk | pb.GenerateComplete) -> _Choice:
        index = message.index
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(
                self._text.new() if self._text is not None else None
            )
            choice.prompt_logprobs = input_logprobs(message)
            if choice.prompt_logprobs is not None:
                self._name(choice.prompt_logprobs)
        counts = self.counts
        if message.prompt_tokens > counts.prompt:
            counts.prompt = message.prompt_tokens
        if message.cached_tokens > counts.cached:
            counts.cached = message.cached_tokens
        return choice

    def _add_chunk(self, chunk: pb.GenerateStreamChunk) -> CompletionChunkChoice:
        choice = self._choice(chunk)
        ids, text, logprobs = self._extend(choice, chunk, list(chunk.token_ids))
        return CompletionChunkChoice(
            index=self._offset + chunk.index,
            delta_token_ids=ids,
            delta_text=text,
            logprobs=logprobs,
        )

    def _add_complete(self, complete: pb.GenerateComplete) -> CompletionChunkChoice:
        ids, text, logprobs = self._end_choice(complete)
        return CompletionChunkChoice(
            index=self._offset + complete.index,
            delta_token_ids=ids,
            delta_text=text,
            finish_reason=complete.finish_reason or "stop",
            stop_reason=stop_reason(complete),
            logprobs=logprobs,
        )

    def _end_choice(
        self, complete: pb.GenerateComplete
    ) -> tuple[list[int], str, CompletionLogprobs | None]:
        seen = complete.index in self._choices
        choice = self._choice(complete)
        choice.complete = complete
        ids: list[int] = []
        text, logprobs = "", None
        if not seen:  # no chunk has brought the tokens
            ids, text, logprobs = self._extend(choice, complete, list(complete.output_ids))
        if choice.text is not None:
            rest = choice.text.finish(stop_reason(complete))
            choice.parts.append(rest)
            text += rest
        self.counts.accepted += complete.spec_accepted_tokens
        self.counts.drafted += complete.spec_draft_tokens
        return ids, text, logprobs

    def _extend(
        self,
        choice: _Choice,
        message: pb.GenerateStreamChunk | pb.GenerateComplete,
        ids: list[int],
    ) -> tuple[list[int], str, CompletionLogprobs | None]:
        choice.token_ids += ids
        self.counts.completion += len(ids)
        logprobs = output_logprobs(message)
        if logprobs is not None:
            self._name(logprobs)
            if choice.logprobs is None:
                choice.logprobs = CompletionLogprobs()
        text = ""
        if choice.text is not None:
            if logprobs is not None and logprobs.token_ids == ids:  # each token's place is wanted
                pieces: list[str] = []
                for token in ids:
                    logprobs.text_offset.append(choice.text.length)
                    pieces.append(choice.text.feed([token]))
                text = "".join(pieces)
            else:
                text = choice.text.feed(ids)
            if text:
                choice.parts.append(text)
        if logprobs is not None and choice.logprobs is not None:
            for name in CompletionLogprobs.model_fields:
                getattr(choice.logprobs, name).extend(getattr(logprobs, name))
        return ids, text, logprobs

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
