"""What an engine returns, the same for every contract."""

from dataclasses import dataclass, field

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log probability of a token."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this place with their log probabilities, if they were asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one sequence; of a Completion: of all its sequences."""

    prompt_tokens: int | None
    """None: the engine has not said."""
    completion_tokens: int
    cached_tokens: int | None = None
    """Tokens of the prompt that came from a cache. None: the engine has not said."""


@dataclass(slots=True)  # one for every token: to make a frozen one takes three times as long
class Piece:
    """What is new in one sequence. Pieces never repeat what an earlier one had."""

    index: int = 0
    """Which of `n` sequences, from 0."""
    text: str | None = ""
    """None: the contract carries token ids alone, and no `decoder` was given to connect()."""
    token_ids: tuple[int, ...] = ()
    """Empty also where the contract carries text alone."""
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: str | None = None
    """Set in the last piece of a sequence: "stop", "length", "abort", or another word of the
    engine's."""
    matched_stop: str | int | None = None
    """The stop string or the token id that ended the sequence, where the engine names it."""
    usage: Usage | None = None
    """Set in the last piece of a sequence."""
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """Of the prompt's tokens, once in a request. The first is None: nothing comes before it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence, whole."""

    index: int
    text: str | None
    """None: as of a Piece."""
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]
    finish_reason: str
    matched_stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """All sequences of a request, whole."""

    request_id: str
    choices: tuple[Choice, ...]
    usage: Usage
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """As in a Piece."""

    @property
    def text(self) -> str | None:
        """The text of the first sequence."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The token ids of the first sequence."""
        return self.choices[0].token_ids


@dataclass(frozen=True, slots=True)
class Info:
    """A model and its server. None, or empty: the contract or the engine does not say."""

    contract: str
    model: str
    engine: str = ""
    """The engine, with its version where it is known."""
    context_length: int | None = None
    """Most tokens of prompt and output together."""
    vocab_size: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    replies: tuple[Message, ...] = field(default=(), repr=False)
    """What the server replied, for what is particular to it."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of an engine, over all of its ranks. None: it does not say."""

    running: int | None
    """Requests in the batch."""
    waiting: int | None
    """Requests in the queue."""
    cache_usage: float | None = None
    """Part of the KV cache that is in use, from 0 to 1; of several ranks the highest."""
    replies: tuple[Message, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine can generate."""

    serving: bool
    message: str = ""
    """The server's own words or state; for people."""
