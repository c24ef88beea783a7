"""SGLang's runtime as its gRPC server calls it: requests and chunks are dictionaries.

FakeSglang uses it, and so does the stand-in for the runtime behind SGLang's own server in the
tests.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smg_proto.testing._generation import Piece, Sampling, Step, score
from smg_proto.testing._json_schema import smallest_text
from smg_proto.testing._model import model

_DEFAULT_TOKENS = 128

Params = dict[str, Any]


def prompt_of(params: Params) -> list[int]:
    """The prompt's token ids. ValueError, with SGLang's message: it rejects the prompt."""
    ids: list[int] | None = params.get("input_ids")
    prompt = model().tokenizer.encode(params["text"]) if ids is None else ids
    maximum = model().context_length
    if not prompt:
        raise ValueError("The input is empty.")
    if len(prompt) >= maximum:
        raise ValueError(
            f"The input ({len(prompt)} tokens) is longer than the model's context length "
            f"({maximum} tokens)."
        )
    if any(not 0 <= token < model().tokenizer.vocab_size for token in prompt):
        raise ValueError("The input_ids contain values outside of the vocabulary.")
    if params.get("lora_path"):
        raise ValueError("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.")
    return prompt


def sampling_of(params: Params, answer: str | None = None) -> Sampling:
    """The parameters. ValueError: one is out of range."""
    sampling: Params = params.get("sampling_params") or {}
    temperature, top_p = sampling.get("temperature", 1.0), sampling.get("top_p", 1.0)
    maximum, minimum = (
        sampling.get("max_new_tokens", _DEFAULT_TOKENS),
        sampling.get("min_new_tokens", 0),
    )
    if temperature < 0:
        raise ValueError(f"temperature must be non-negative, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
    if not 0 <= sampling.get("min_p", 0.0) <= 1:
        raise ValueError(f"min_p must be in [0, 1], got {sampling['min_p']}.")
    if not 0 <= minimum <= maximum:
        raise ValueError(
            f"min_new_tokens must be in [0, max_new_tokens({maximum})], got {minimum}."
        )
    return Sampling(
        max_tokens=maximum,
        temperature=temperature,
        top_p=top_p,
        top_k=max(sampling.get("top_k", -1), 0),
        min_p=sampling.get("min_p", 0.0),
        frequency_penalty=sampling.get("frequency_penalty", 0.0),
        presence_penalty=sampling.get("presence_penalty", 0.0),
        repetition_penalty=sampling.get("repetition_penalty", 1.0),
        seed=sampling.get("sampling_seed", 0),
        min_tokens=minimum,
        stop=tuple(sampling.get("stop", ())),
        stop_token_ids=tuple(sampling.get("stop_token_ids", ())),
        ignore_eos=sampling.get("ignore_eos", False),
        logprobs=params.get("top_logprobs_num", 0),
        replacement=_constrained(sampling) if answer is None else answer,
    )


def count_of(params: Params) -> int:
    """The number of sequences to generate."""
    sampling: Params = params.get("sampling_params") or {}
    count: int = sampling.get("n", 1)
    return max(count, 1)


def _constrained(sampling: Params) -> str | None:
    """A text that matches the constraint. The server turns a choice into a regex."""
    if schema := sampling.get("json_schema"):
        return smallest_text(schema)
    if choice := re.fullmatch(r"\(\?:(.+?)(?:\|.*)?\)", sampling.get("regex", "")):
        return re.sub(r"\\(.)", r"\1", choice[1])
    for kind in ("regex", "ebnf", "structural_tag"):
        if sampling.get(kind):
            raise ValueError(f"The built-in model does not support constraints of kind {kind}.")
    return None


@dataclass
class Choice:
    """One sequence of a request: its pieces so far, and how many of them were sent."""

    params: Params
    prompt: Sequence[int]
    index: int
    cached: int = 0
    made: list[Piece] = field(default_factory=list[Piece])
    sent: int = 0
    reason: dict[str, Any] | None = None

    def take(self, pieces: Sequence[Piece]) -> None:
        """Add pieces. No pieces: the request was aborted."""
        self.made += pieces
        if not pieces:
            self.reason = {"type": "abort", "message": "Abort by user request"}
        elif pieces[-1].finish_reason == "length":
            self.reason = {"type": "length", "length": len(self.made)}
        elif pieces[-1].finish_reason:
            last = pieces[-1]
            matched = last.step.token if last.matched is None else last.matched
            self.reason = {"type": last.finish_reason, "matched": matched}

    def chunk(self, *, incremental: bool) -> dict[str, Any]:
        """The output so far, or with `incremental` only the new output."""
        pieces = self.made[self.sent :] if incremental else self.made
        self.sent = len(self.made)
        rid = self.params["rid"]
        meta: dict[str, Any] = {
            # With several sequences, each has its own id.
            "id": rid if count_of(self.params) == 1 else f"{rid}-{self.index}",
            "finish_reason": self.reason,
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(self.made),
            "cached_tokens": self.cached,
            "weight_version": "default",
        }
        if self.params.get("return_logprob"):
            meta |= self._logprobs(pieces)
        return {
            "text": "".join(piece.text for piece in pieces),
            "output_ids": [piece.step.token for piece in pieces],
            "meta_info": meta,
            "index": self.index,
        }

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """[log probability, token id, text or null] of each token and of the most likely tokens."""
        named = self.params.get("return_text_in_logprobs", False)

        def row(token: int, value: float) -> list[Any]:
            return [value, token, model().tokenizer.decode([token]) if named else None]

        def top(step: Step) -> list[list[Any]]:
            return [row(*item) for item in step.top]

        logprobs: dict[str, Any] = {
            "output_token_logprobs": [row(p.step.token, p.step.logprob) for p in pieces]
        }
        if self.params.get("top_logprobs_num"):
            logprobs["output_top_logprobs"] = [top(piece.step) for piece in pieces]
        if self.params.get("logprob_start_len", -1) >= 0:
            count = self.params.get("top_logprobs_num", 0)
            steps = [*score(model(), self.prompt, max(count, 1))]
            first = [None, self.prompt[0], None]
            rows = [first, *(row(step.token, step.logprob) for step in steps)]
            logprobs["input_token_logprobs"] = rows[self.params["logprob_start_len"] :]
            if count:
                tops = [None, *map(top, steps)]
                logprobs["input_top_logprobs"] = tops[self.params["logprob_start_len"] :]
        return logprobs
