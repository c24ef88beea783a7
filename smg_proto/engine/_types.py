"""The results of an engine, the same for every contract."""

from dataclasses import dataclass, field

from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log probability of a token."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at this position with their log probabilities, if requested."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one sequence, or of all sequences of a Completion.

    None: the engine does not report the count.
    """

    prompt_tokens: int | None
    completion_tokens: int
    cached_tokens: int | None = None
    """Tokens of the prompt that came from a cache."""


@dataclass(slots=True)  # one per token: creating a frozen one takes three times as long
class Piece:
    """New output of one sequence. A piece never repeats an earlier one."""

    index: int = 0
    """Which of `n` sequences, from 0."""
    text: str | None = ""
    """None: the contract carries only token ids, and connect() was called without `decoder`."""
    token_ids: tuple[int, ...] = ()
    """Always empty if the contract carries only text."""
    logprobs: tuple[Logprob, ...] = ()
    finish_reason: str | None = None
    """Set in the last piece of a sequence: "stop", "length", "abort", or the engine's own word."""
    matched_stop: str | int | None = None
    """The stop string or token id that ended the sequence, if the engine reports it."""
    usage: Usage | None = None
    """Set in the last piece of a sequence."""
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """For each token of the prompt, once per request. The first is None: no token precedes it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One complete sequence."""

    index: int
    text: str | None
    """None under the same conditions as `Piece.text`."""
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]
    finish_reason: str
    matched_stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """All sequences of a request, complete."""

    request_id: str
    choices: tuple[Choice, ...]
    usage: Usage
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """As `Piece.prompt_logprobs`."""

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
    """A model and its server. None or empty: the contract or the engine does not report it."""

    contract: str
    model: str
    engine: str = ""
    """The engine, with its version if known."""
    context_length: int | None = None
    """Maximum number of tokens of prompt and output together."""
    vocab_size: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    replies: tuple[Message, ...] = field(default=(), repr=False)
    """The server's replies, for fields that only its contract has."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of an engine, over all of its ranks. None: the engine does not report it."""

    running: int | None
    """Requests in the batch."""
    waiting: int | None
    """Requests in the queue."""
    cache_usage: float | None = None
    """Fraction of the KV cache in use, from 0 to 1. With several ranks, the highest."""
    replies: tuple[Message, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine can generate."""

    serving: bool
    message: str = ""
    """The server's message or state, for people."""
