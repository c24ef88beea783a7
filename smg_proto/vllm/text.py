"""The text of one choice: decoded as its tokens come, and cut where it was told to stop."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from smg_proto.vllm.decode import IncrementalDecoder, TokenDecoder


@dataclass(frozen=True, slots=True)
class TextPlan:
    """How the choices of a request are to become text."""

    decoder: TokenDecoder
    skip_special_tokens: bool = True
    stop: Sequence[str] = ()
    stop_token_ids: Collection[int] = ()
    keep_stop: bool = False
    before: Sequence[int] = ()  # the end of the prompt: whether a blank belongs at the beginning

    def new(self) -> "ChoiceText":
        return ChoiceText(self)


class ChoiceText:
    """What may still turn out to belong to a stop is held back until the server decides.

    The server sends the tokens of the stop too, and only its last message says that they were
    one: a stop string does not count before `min_tokens`, for example.
    """

    __slots__ = ("_decoder", "_held", "_held_token", "_plan", "length")

    def __init__(self, plan: TextPlan) -> None:
        self._plan = plan
        self._decoder: IncrementalDecoder = plan.decoder.incremental(
            plan.skip_special_tokens, plan.before
        )
        self._held = ""
        self._held_token: int | None = None
        self.length: int = 0
        """Characters given out or held back so far."""

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens add and that is certain."""
        if not ids:
            return ""
        plan = self._plan
        if self._held_token is not None:
            ids, self._held_token = [self._held_token, *ids], None
        if ids[-1] in plan.stop_token_ids:
            ids, self._held_token = ids[:-1], ids[-1]
        new = self._decoder.feed(ids)
        self.length += len(new)
        if not plan.stop:
            return new
        searched = len(self._held)
        text = self._held + new
        start = min((_begin(text, searched, stop) for stop in plan.stop), default=len(text))
        self._held = text[start:]
        return text[:start]

    def finish(self, stopped_by: int | str | None) -> str:
        """What was held back, less the stop."""
        rest = self._held
        if self._held_token is not None and (
            self._plan.keep_stop or stopped_by != self._held_token
        ):
            rest += self._decoder.feed([self._held_token])
        rest += self._decoder.flush()
        self._held, self._held_token = "", None
        if isinstance(stopped_by, str) and stopped_by in rest:
            end = rest.index(stopped_by)
            rest = rest[: end + len(stopped_by)] if self._plan.keep_stop else rest[:end]
        return rest


def _begin(text: str, searched: int, stop: str) -> int:
    """Where a stop string begins in `text`, whole or cut off by its end.

    A whole one counts only if it ends after `searched`: the server has gone on after the others.
    """
    found = text.find(stop, max(searched - len(stop) + 1, 0))
    if found >= 0:
        return found
    for start in range(max(len(text) - len(stop) + 1, 0), len(text)):
        if stop.startswith(text[start:]):
            return start
    return len(text)
