"""The text of one choice: decoded as its tokens arrive, and cut where vLLM cuts it."""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

_INCOMPLETE: Final = "\ufffd"  # what decoders return for a character with missing bytes
_WINDOW: Final = 12  # tokens that are decoded together; each more costs time
_MAX_STEP: Final = 16  # tokens
_MAX_OPEN: Final = 64  # tokens; no character has more, so it will not be completed


class Decodes(Protocol):
    """Decodes token ids to text."""

    @property
    def end_token_ids(self) -> Collection[int]:
        """Tokens that can end a choice in addition to those of the request."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def context(self, prompt: str) -> Sequence[int]:
        """Tokens that represent the end of a prompt."""
        ...


class IncrementalDecoder:
    """Decodes tokens as they arrive. The pieces join to the text of all tokens.

    Characters span tokens, and whitespace depends on the tokens before. Therefore the last few
    tokens are decoded together, and what the text has grown by is new. While the text ends in an
    incomplete character, nothing after the last complete token is returned.
    """

    __slots__ = ("_decoder", "_held", "_open", "_returned", "_skip", "_window")

    def __init__(
        self, decoder: Decodes, skip_special_tokens: bool = True, before: Sequence[int] = ()
    ) -> None:
        self._decoder = decoder
        self._skip = skip_special_tokens
        self._window = list(before)
        self._returned = len(decoder.decode(self._window, skip_special_tokens)) if before else 0
        self._held = ""  # text before the window that has not been returned
        self._open = 0  # tokens since the last complete character

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens add."""
        if len(ids) > _MAX_STEP:
            steps = range(0, len(ids), _MAX_STEP)
            return "".join(self.feed(ids[start : start + _MAX_STEP]) for start in steps)
        if not ids:
            return ""
        self._window.extend(ids)
        text = self._decoder.decode(self._window, self._skip)
        if not text.endswith(_INCOMPLETE):
            return self._take(text, 0)
        self._open += len(ids)
        new = self._complete_part(len(ids))
        if self._open > _MAX_OPEN:
            self._open = 1
            self._held += text[self._returned :]
            self._window = self._window[-_WINDOW // 2 :]
            self._returned = len(self._decoder.decode(self._window, self._skip))
        return new

    def flush(self) -> str:
        """The incomplete character at the end, if there is one. vLLM drops it."""
        rest = self._new(self._decoder.decode(self._window, self._skip)) if self._open else ""
        self._open = 0
        return rest

    def _new(self, text: str) -> str:
        new, self._held = self._held + text[self._returned :], ""
        self._returned = max(self._returned, len(text))
        return new

    def _complete_part(self, new: int) -> str:
        """The text up to the last of the new tokens that ends with a complete character."""
        for back in range(1, new):
            text = self._decoder.decode(self._window[:-back], self._skip)
            if not text.endswith(_INCOMPLETE):
                return self._take(text, back)
        return ""

    def _take(self, text: str, after: int) -> str:
        """The new part of `text`, which is the text of the window without its last `after` tokens.

        Then drops old tokens, if the text of the remaining ones ends in the same way."""
        self._open = after
        new = self._new(text)
        complete = len(self._window) - after
        if complete > _WINDOW:
            kept = self._window[complete - _WINDOW // 2 : complete]
            end = self._decoder.decode(kept, self._skip)
            if end and text.endswith(end):
                self._window, self._returned = kept + self._window[complete:], len(end)
        return new


class TextPlan(NamedTuple):
    """How to decode the tokens of a request."""

    skip_special_tokens: bool = True
    stop: Sequence[str] = ()
    stop_token_ids: Collection[int] = ()
    keep_stop: bool = False
    before: Sequence[int] | str = ()
    """The end of the prompt, which affects whitespace at the beginning of the text."""
    by_token: bool = False
    """Whether to decode tokens one by one, because min_tokens can make stop strings in the text
    ineffective, and only the token that completes each shows which."""

    def new(self, decoder: Decodes) -> "ChoiceText":
        return ChoiceText(self, decoder)


class ChoiceText:
    """Decodes one choice, and holds back text that may belong to a stop until the server decides.

    The server sends the tokens of the stop too, and only its last message says that they were one;
    a stop string before `min_tokens` has no effect, for example. Like vLLM, this omits the last
    token of a choice that ended by a token, and an incomplete character at the end.
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
        """Characters returned or held back so far."""

    def feed(self, ids: Sequence[int], *, hold: bool = False) -> str:
        """The text that these tokens certainly add. hold: the last token ends the choice."""
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
        """The text of a token that was held back but did not end the choice."""
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
        """The text that was held back, without the stop."""
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
    """Text from the server."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = ""

    def feed(self, ids: Sequence[int], *, hold: bool = False) -> str:
        words, self.next = self.next, ""
        return words

    def finish(self, reason: str, stopped_by: int | str | None) -> str:
        return ""


def drops_last(reason: str, stopped_by: int | str | None) -> bool:
    """Whether a token ended the choice, rather than a string: vLLM omits its text."""
    return reason == "stop" and not isinstance(stopped_by, str)


def _begin(text: str, searched: int, stop: str) -> int:
    """The start of a stop string in `text`, which may be cut off by the end of the text.

    A complete one must end after `searched`, since the server continued after earlier ones.
    """
    found = text.find(stop, max(searched - len(stop) + 1, 0))
    if found >= 0:
        return found
    for start in range(max(len(text) - len(stop) + 1, 0), len(text)):
        if stop.startswith(text[start:]):
            return start
    return len(text)


class CallerDecoding:
    """The state of each choice of a request whose caller decodes the tokens, for each decoder.
    Results refer to it. Copies share it; pickles do not include it."""

    __slots__ = ("_choices", "_plans", "states")

    def __init__(self, plans: Sequence[TextPlan], choices: int) -> None:
        self._plans = plans
        self._choices = choices  # per plan
        self.states: dict[tuple[Decodes, int], ChoiceText] = {}

    def plan(self, index: int) -> TextPlan:
        return self._plans[index // self._choices]

    def __copy__(self) -> "CallerDecoding":
        return self

    def __deepcopy__(self, memo: object) -> "CallerDecoding":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()
