"""Text generation of all fakes: token by token, up to a stop, an end token or a limit."""

import codecs
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smg_proto.testing._model import EOS, Model, prompt_key
from smg_proto.testing._tokenizer import END


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop. top_k 0 and max_tokens None mean no limit."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special: bool = True
    logprobs: int | None = None
    prefix: str = ""  # comes before the model's own text
    replacement: str | None = None  # replaces the model's own text


@dataclass(frozen=True)
class Step:
    """A chosen token, its log probability, and the most likely tokens at its position, best
    first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """One token, with the text and the steps that it completes.

    The last piece has the finish reason, and the stop string or stop token that matched.
    """

    step: Step
    text: str = ""
    shown: tuple[Step, ...] = ()
    finish_reason: str = ""
    matched: str | int | None = None


def generate(
    model: Model, prompt: Sequence[int], sampling: Sampling, index: int = 0
) -> Iterator[Piece]:
    """Generate a continuation, one piece per token. Choice `index` uses the seed `seed + index`."""
    room = model.context_length - len(prompt)
    limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
    text = _Text(sampling.stop)
    stop_token_ids = frozenset(sampling.stop_token_ids)
    steps = _steps(model, prompt, sampling, index)
    for made, (step, final) in enumerate(steps, start=1):
        ended, matched = final, None
        raw = model.tokenizer.token_bytes(step.token, skip_special=sampling.skip_special)
        if made >= sampling.min_tokens and not final:
            if step.token in stop_token_ids:
                ended, matched = True, step.token
            elif step.token in EOS and not sampling.ignore_eos:
                # Only the first end token is not reported; the others count as stop tokens.
                ended, matched = True, None if step.token == END else step.token
        if ended and not (sampling.include_stop and matched is not None):
            raw = b""
        found = text.add(step, raw, look=made >= sampling.min_tokens)
        if found is not None and not ended:
            shown, steps_shown = text.finish(found.end if sampling.include_stop else found.start)
            yield Piece(step, shown, steps_shown, "stop", found.stop)
            return
        if ended or made >= limit:
            shown, steps_shown = text.finish()
            yield Piece(step, shown, steps_shown, "stop" if ended else "length", matched)
            return
        shown, steps_shown = text.take()
        yield Piece(step, shown, steps_shown)


def score(model: Model, prompt: Sequence[int], top: int) -> Iterator[Step]:
    """The log probability of each token of a prompt but the first, which no token precedes."""
    for position in range(1, len(prompt)):
        logits = model.logits(0, prompt[max(position - 2, 0) : position], position)
        logprobs = model.logprobs(logits, prompt[position])
        yield Step(prompt[position], logprobs[prompt[position]], _best(logprobs, top))


def _best(logprobs: dict[int, float], top: int) -> tuple[tuple[int, float], ...]:
    ranked = sorted(logprobs.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ranked[: max(top, 0)])


def _steps(
    model: Model, prompt: Sequence[int], sampling: Sampling, index: int
) -> Iterator[tuple[Step, bool]]:
    """Tokens without end, each with whether it is the last possible one."""
    made: list[int] = []
    given = sampling.prefix if sampling.replacement is None else sampling.replacement
    for token in model.tokenizer.encode(given):
        made.append(token)
        yield Step(token, 0.0, ((token, 0.0),)), False
    if sampling.replacement is not None:
        yield Step(END, 0.0, ((END, 0.0),)), True
    context = [*prompt, *made]
    draw = random.Random(f"{sampling.seed + index}")
    key = prompt_key(prompt)
    while True:
        logits = model.logits(key, context[-2:], len(made))
        model.bias(logits, sampling.logit_bias)
        _forbid_ends(logits, sampling, len(made))
        token = _choose(dict(logits), made, prompt, sampling, draw)
        logprobs = model.logprobs(logits, token)
        made.append(token)
        context.append(token)
        yield Step(token, logprobs[token], _best(logprobs, sampling.logprobs or 0)), False


def _forbid_ends(logits: dict[int, float], sampling: Sampling, made: int) -> None:
    forbidden: set[int] = set()
    if sampling.ignore_eos or made + 1 < sampling.min_tokens:
        forbidden |= EOS
    if made + 1 < sampling.min_tokens:
        forbidden |= set(sampling.stop_token_ids)
    for token in forbidden & set(logits):
        if len(logits) > 1:
            del logits[token]


def _choose(
    logits: dict[int, float],
    made: Sequence[int],
    prompt: Sequence[int],
    sampling: Sampling,
    draw: random.Random,
) -> int:
    """Sample a token in the order that is common: penalties, temperature, top-k, min-p, top-p."""
    rate = sampling.repetition_penalty
    if rate != 1.0 or sampling.frequency_penalty or sampling.presence_penalty:
        counts = Counter(made)
        seen = counts.keys() | set(prompt)
        for token, value in logits.items():
            if token in seen and rate != 1.0:
                value = value / rate if value > 0 else value * rate
            if token in counts:
                value -= sampling.frequency_penalty * counts[token] + sampling.presence_penalty
            logits[token] = value
    ranked = sorted(logits.items(), key=lambda item: (-item[1], item[0]))
    if sampling.temperature < 1e-5:
        return ranked[0][0]
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    best = ranked[0][1]
    weights = [math.exp((value - best) / max(sampling.temperature, 0.01)) for _, value in ranked]
    total = sum(weights)
    kept = [weight for weight in weights if weight >= sampling.min_p]
    enough = 0.0
    for count, weight in enumerate(kept, start=1):
        enough += weight / total
        if enough >= sampling.top_p:
            kept = kept[:count]
            break
    return draw.choices([token for token, _ in ranked[: len(kept)]], kept)[0]


@dataclass(frozen=True)
class _Stop:
    start: int
    end: int
    stop: str


@dataclass
class _Text:
    """Decodes bytes to text, and holds back incomplete characters and stops."""

    stops: tuple[str, ...]
    data: bytearray = field(default_factory=bytearray)
    waiting: list[tuple[int, Step]] = field(default_factory=list[tuple[int, Step]])
    sent: int = 0

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._raw = [(stop.encode(), stop) for stop in self.stops if stop]

    def add(self, step: Step, raw: bytes, *, look: bool) -> _Stop | None:
        """Add the bytes of a token. Returns the stop that they complete, if any."""
        if raw:
            self.waiting.append((len(self.data), step))
        self.data += raw
        if not look:
            return None
        found = [
            _Stop(at, at + len(stop), text)
            for stop, text in self._raw
            if (at := self.data.find(stop, self.sent)) >= 0
        ]
        return min(found, key=lambda stop: stop.start, default=None)

    def take(self) -> tuple[str, tuple[Step, ...]]:
        """The text so far, without an end that could become a stop or a character."""
        held = 0
        for stop, _ in self._raw:
            longest = min(len(stop) - 1, len(self.data) - self.sent)
            for length in range(longest, held, -1):
                if self.data.endswith(stop[:length]):
                    held = length
                    break
        return self._show(len(self.data) - held)

    def finish(self, end: int | None = None) -> tuple[str, tuple[Step, ...]]:
        """The rest, up to `end`. An incomplete character at the end is dropped."""
        return self._show(len(self.data) if end is None else end)

    def _show(self, end: int) -> tuple[str, tuple[Step, ...]]:
        text = self._decoder.decode(bytes(self.data[self.sent : end]))
        shown = tuple(step for start, step in self.waiting if start < end)
        self.waiting = [(start, step) for start, step in self.waiting if start >= end]
        self.sent = end
        return text, shown
