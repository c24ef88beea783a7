"""Builds a Completion from the pieces of a request."""

from collections.abc import Iterable

from smg_proto.engine._types import Choice, Completion, Logprob, Piece, Usage


class Fold:
    """Collects the pieces of a request, in order."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._parts: dict[int, list[Piece]] = {}

    def add(self, piece: Piece) -> None:
        self._parts.setdefault(piece.index, []).append(piece)

    def completion(self) -> Completion:
        choices = tuple(_choice(index, self._parts[index]) for index in sorted(self._parts))
        prompts = (part.prompt_logprobs for parts in self._parts.values() for part in parts)
        usages = [part.usage for parts in self._parts.values() for part in parts if part.usage]
        return Completion(
            self._request_id,
            choices,
            Usage(
                _first(usage.prompt_tokens for usage in usages),
                sum(usage.completion_tokens for usage in usages),
                _first(usage.cached_tokens for usage in usages),
            ),
            next(filter(None, prompts), ()),
        )


def _choice(index: int, parts: list[Piece]) -> Choice:
    ids: list[int] = []
    logprobs: list[Logprob] = []
    for part in parts:
        ids += part.token_ids
        logprobs += part.logprobs
    last = parts[-1]
    known = [part.text for part in parts if part.text is not None]
    text = "".join(known) if known else None
    reason = last.finish_reason or ""
    return Choice(index, text, tuple(ids), tuple(logprobs), reason, last.matched_stop)


def _first(numbers: Iterable[int | None]) -> int | None:
    return next((number for number in numbers if number is not None), None)
