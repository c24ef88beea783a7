"""The text of one choice: decoded as its tokens come, and cut where vLLM's own text is cut."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

_HOLE: Final = "\ufffd"  # what a decoder puts where bytes of a character are missing
_WINDOW: Final = 12  # tokens that are decoded together; more make each decoding dearer
_STEP: Final = 16  # the most tokens that are taken in at once
_PATIENCE: Final = 64  # tokens after which a hole is no longer looked at: no character has so many


class Decodes(Protocol):
    """What turns token ids into text."""

    @property
    def end_token_ids(self) -> Collection[int]:
        """Tokens that may end a choice without having been asked for."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def context(self, prompt: str) -> Sequence[int]:
        """Tokens that stand for the end of a prompt."""
        ...


class IncrementalDecoder:
    """Text for tokens that come one by one; joined, it is the text of all of them together.

    A token alone has no text: characters span tokens, and blanks depend on what stands before.
    So the last few tokens are decoded together, and what grew is the new text. While it ends in a
    hole, which the next token may fill, nothing after the last whole token is given out.
    """

    __slots__ = ("_decoder", "_given", "_held", "_open", "_skip", "_window")

    def __init__(
        self, decoder: Decodes, skip_special_tokens: bool = True, before: Sequence[int] = ()
    ) -> None:
        self._decoder = decoder
        self._skip = skip_special_tokens
        self._window = list(before)
        self._given = len(decoder.decode(self._window, skip_special_tokens)) if before else 0
        self._held = ""  # text before the window that has not been given out
        self._open = 0  # tokens since the text last ended without a hole

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens add."""
        if len(ids) > _STEP:
            steps = range(0, len(ids), _STEP)
            return "".join(self.feed(ids[start : start + _STEP]) for start in steps)
        if not ids:
            return ""
        self._window.extend(ids)
        text = self._decoder.decode(self._window, self._skip)
        if not text.endswith(_HOLE):
            return self._take(text, 0)
        self._open += len(ids)
        new = self._before_the_hole(len(ids))
        if self._open > _PATIENCE:
            self._open = 1
            self._held += text[self._given :]
            self._window = self._window[-_WINDOW // 2 :]
            self._given = len(self._decoder.decode(self._window, self._skip))
        return new

    def flush(self) -> str:
        """What is held back at the end: a character that was never completed. vLLM drops it."""
        rest = self._give(self._decoder.decode(self._window, self._skip)) if self._open else ""
        self._open = 0
        return rest

    def _give(self, text: str) -> str:
        new, self._held = self._held + text[self._given :], ""
        self._given = max(self._given, len(text))
        return new

    def _before_the_hole(self, new: int) -> str:
        """The text up to the last of the new tokens that ends with a whole character."""
        for back in range(1, new):
            text = self._decoder.decode(self._window[:-back], self._skip)
            if not text.endswith(_HOLE):
                return self._take(text, back)
        return ""

    def _take(self, text: str, after: int) -> str:
        """Give out the text of the window without its last tokens, `after` of them.

        Then drop old tokens, if those that remain give the same end of the text without them."""
        self._open = after
        new = self._give(text)
        whole = len(self._window) - after
        if whole > _WINDOW:
            remain = self._window[whole - _WINDOW // 2 : whole]
            end = self._decoder.decode(remain, self._skip)
            if end and text.endswith(end):
                self._window, self._given = remain + self._window[whole:], len(end)
        return new


class TextPlan(NamedTuple):
    """How the tokens of a request are to become text."""

    skip_special_tokens: bool = True
    stop: Sequence[str] = ()
    stop_token_ids: Collection[int] = ()
    keep_stop: bool = False
    before: Sequence[int] | str = ()
    """The end of the prompt: whether a blank belongs at the beginning."""
    by_token: bool = False
    """Whether a stop string may stand in the text that did not count, because of min_tokens: then
    only the step in which each came tells them apart."""

    def new(self, decoder: Decodes) -> "ChoiceText":
        return ChoiceText(self, decoder)


class ChoiceText:
    """What may still turn out to belong to a stop is held back until the server decides.

    The server sends the tokens of the stop too, and only its last message says that they were one:
    a stop string does not count before `min_tokens`, for example. Like vLLM it leaves out the last
    token of a choice that ended by a token, and half of a character at the end.
    """

    __slots__ = ("_decoder", "_ends", "_held", "_held_token", "_plan", "length")

    def __init__(self, plan: TextPlan, decoder: Decodes) -> None:
        before = decoder.context(plan.before) if isinstance(plan.before, str) else plan.before
        self._plan = plan
        self._decoder = IncrementalDecoder(decoder, plan.skip_special_tokens, before)
        self._ends: Collection[int] = () if plan.keep_stop else decoder.end_token_ids
        self._held = ""
        self._held_token: int | None = None
        self.length: int = 0
        """Characters given out or held back so far."""

    def feed(self, ids: Sequence[int], *, hold: bool = False) -> str:
        """The text that these tokens add and that is certain. hold: the last of them is an end."""
        if not ids:
            return ""
        plan = self._plan
        if plan.by_token and len(ids) > 1:
            singles = [self.feed([token]) for token in ids[:-1]]
            return "".join(singles) + self.feed(ids[-1:], hold=hold)
        if self._held_token is not None:
            ids, self._held_token = [self._held_token, *ids], None
        last = ids[-1]
        if (hold or last in self._ends or last in plan.stop_token_ids) and not plan.keep_stop:
            ids, self._held_token = ids[:-1], last
        return self._add(ids)

    def release(self) -> str:
        """The text of a token that was held back and, as another one follows, ended nothing."""
        if self._held_token is None:
            return ""
        token, self._held_token = self._held_token, None
        return self._add([token])

    def _add(self, ids: Sequence[int]) -> str:
        new = self._decoder.feed(ids)
        self.length += len(new)
        if not self._plan.stop:
            return new
        searched = len(self._held)
        text = self._held + new
        start = min(_begin(text, searched, stop) for stop in self._plan.stop)
        self._held = text[start:]
        return text[:start]

    def finish(self, reason: str, stopped_by: int | str | None) -> str:
        """What was held back, less the stop."""
        rest = ""
        if self._held_token is not None and not drops_last(reason, stopped_by):
            rest = self._add([self._held_token])
        rest += self._held
        self._held, self._held_token = "", None
        if isinstance(stopped_by, str) and stopped_by in rest:
            end = rest.index(stopped_by)
            rest = rest[: end + len(stopped_by)] if self._plan.keep_stop else rest[:end]
        return rest


class ServedText:
    """Text that the server has decoded, as it came with the last message."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = ""

    def feed(self, ids: Sequence[int], *, hold: bool = False) -> str:
        words, self.next = self.next, ""
        return words

    def finish(self, reason: str, stopped_by: int | str | None) -> str:
        return ""


def drops_last(reason: str, stopped_by: int | str | None) -> bool:
    """Whether a token ended the choice, and not a string: vLLM leaves its text out."""
    return reason == "stop" and not isinstance(stopped_by, str)


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


class ByHand:
    """How the tokens of one request become text when its caller decodes them: where each choice
    stands, for each decoder. Results carry it along; copies share it, pickles leave it behind."""

    __slots__ = ("_choices", "_plans", "states")

    def __init__(self, plans: Sequence[TextPlan], choices: int) -> None:
        self._plans = plans
        self._choices = choices  # of each plan
        self.states: dict[tuple[Decodes, int], ChoiceText] = {}

    def plan(self, index: int) -> TextPlan:
        return self._plans[index // self._choices]

    def __copy__(self) -> "ByHand":
        return self

    def __deepcopy__(self, memo: object) -> "ByHand":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()
