"""SGLang's runtime as its gRPC server calls it: requests and chunks as dictionaries of its names.

FakeSglang answers with these, and so does the stand-in behind SGLang's own server in the tests.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smg_proto.testing._generation import Piece, Sampling, Step, score
from smg_proto.testing._json_schema import smallest_text
from smg_proto.testing._model import model

_DEFAULT_TOKENS = 128

Asked = dict[str, Any]


def prompt_of(asked: Asked) -> list[int]:
    """The prompt's token ids; ValueError, with SGLang's reason, for what it does not take."""
    ids: list[int] | None = asked.get("input_ids")
    prompt = model().tokenizer.encode(asked["text"]) if ids is None else ids
    most = model().context_length
    if not prompt:
        raise ValueError("The input is empty.")
    if len(prompt) >= most:
        raise ValueError(
            f"The input ({len(prompt)} tokens) is longer than the model's context length "
            f"({most} tokens)."
        )
    if any(not 0 <= token < model().tokenizer.vocab_size for token in prompt):
        raise ValueError("The input_ids contain values outside of the vocabulary.")
    if asked.get("lora_path"):
        raise ValueError("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.")
    return prompt


def sampling_of(asked: Asked, answer: str | None = None) -> Sampling:
    """The parameters; ValueError for what is out of range."""
    wanted: Asked = asked.get("sampling_params") or {}
    temperature, top_p = wanted.get("temperature", 1.0), wanted.get("top_p", 1.0)
    most, least = wanted.get("max_new_tokens", _DEFAULT_TOKENS), wanted.get("min_new_tokens", 0)
    if temperature < 0:
        raise ValueError(f"temperature must be non-negative, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
    if not 0 <= wanted.get("min_p", 0.0) <= 1:
        raise ValueError(f"min_p must be in [0, 1], got {wanted['min_p']}.")
    if not 0 <= least <= most:
        raise ValueError(f"min_new_tokens must be in [0, max_new_tokens({most})], got {least}.")
    return Sampling(
        max_tokens=most,
        temperature=temperature,
        top_p=top_p,
        top_k=max(wanted.get("top_k", -1), 0),
        min_p=wanted.get("min_p", 0.0),
        frequency_penalty=wanted.get("frequency_penalty", 0.0),
        presence_penalty=wanted.get("presence_penalty", 0.0),
        repetition_penalty=wanted.get("repetition_penalty", 1.0),
        seed=wanted.get("sampling_seed", 0),
        min_tokens=least,
        stop=tuple(wanted.get("stop", ())),
        stop_token_ids=tuple(wanted.get("stop_token_ids", ())),
        ignore_eos=wanted.get("ignore_eos", False),
        logprobs=asked.get("top_logprobs_num", 0),
        whole=_constrained(wanted) if answer is None else answer,
    )


def count_of(asked: Asked) -> int:
    """How many sequences are asked for."""
    wanted: Asked = asked.get("sampling_params") or {}
    count: int = wanted.get("n", 1)
    return max(count, 1)


def _constrained(wanted: Asked) -> str | None:
    """A text that keeps to the constraint. The server makes a regex of a choice."""
    if schema := wanted.get("json_schema"):
        return smallest_text(schema)
    if choice := re.fullmatch(r"\(\?:(.+?)(?:\|.*)?\)", wanted.get("regex", "")):
        return re.sub(r"\\(.)", r"\1", choice[1])
    for kind in ("regex", "ebnf", "structural_tag"):
        if wanted.get(kind):
            raise ValueError(f"The built-in model cannot keep to a constraint of kind {kind}.")
    return None


@dataclass
class Choice:
    """One sequence of a request: what it has so far, and how much of that has been sent."""

    asked: Asked
    prompt: Sequence[int]
    index: int
    cached: int = 0
    made: list[Piece] = field(default_factory=list[Piece])
    sent: int = 0
    reason: dict[str, Any] | None = None

    def take(self, pieces: Sequence[Piece]) -> None:
        """Add what was made; nothing: the request was aborted."""
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
        """All so far; or what is new, if the server was started to send only that."""
        pieces = self.made[self.sent :] if incremental else self.made
        self.sent = len(self.made)
        rid = self.asked["rid"]
        meta: dict[str, Any] = {
            # Of several sequences each has an id of its own.
            "id": rid if count_of(self.asked) == 1 else f"{rid}-{self.index}",
            "finish_reason": self.reason,
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(self.made),
            "cached_tokens": self.cached,
            "weight_version": "default",
        }
        if self.asked.get("return_logprob"):
            meta |= self._logprobs(pieces)
        return {
            "text": "".join(piece.text for piece in pieces),
            "output_ids": [piece.step.token for piece in pieces],
            "meta_info": meta,
            "index": self.index,
        }

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """[log probability, token id, text or null] of each token, and of the likeliest."""
        named = self.asked.get("return_text_in_logprobs", False)

        def row(token: int, value: float) -> list[Any]:
            return [value, token, model().tokenizer.decode([token]) if named else None]

        def top(step: Step) -> list[list[Any]]:
            return [row(*item) for item in step.top]

        told: dict[str, Any] = {
            "output_token_logprobs": [row(p.step.token, p.step.logprob) for p in pieces]
        }
        if self.asked.get("top_logprobs_num"):
            told["output_top_logprobs"] = [top(piece.step) for piece in pieces]
        if self.asked.get("logprob_start_len", -1) >= 0:
            count = self.asked.get("top_logprobs_num", 0)
            steps = [*score(model(), self.prompt, max(count, 1))]
            first = [None, self.prompt[0], None]
            rows = [first, *(row(step.token, step.logprob) for step in steps)]
            told["input_token_logprobs"] = rows[self.asked["logprob_start_len"] :]
            if count:
                tops = [None, *map(top, steps)]
                told["input_top_logprobs"] = tops[self.asked["logprob_start_len"] :]
        return told
