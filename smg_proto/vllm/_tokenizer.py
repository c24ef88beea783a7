"""Token ids to text and back, for completions of this client."""

from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from smg_proto._tokens import decoder
from smg_proto._tokens.text import ByHand, TextPlan
from smg_proto.vllm._bundle import TokenizerBundle
from smg_proto.vllm._types import Completion, CompletionChoice, CompletionChunk


class SendsTokenizer(Protocol):
    def decoder(self) -> "TokenDecoder": ...


class AsyncSendsTokenizer(Protocol):
    async def decoder(self) -> "TokenDecoder": ...


class HasTokenizer(Protocol):
    @property
    def tokenizer(self) -> SendsTokenizer: ...


class AsyncHasTokenizer(Protocol):
    @property
    def tokenizer(self) -> AsyncSendsTokenizer: ...


class TokenDecoder(decoder.TokenDecoder):
    """A tokenizer for both directions, whatever library it comes from."""

    @classmethod
    def from_bundle(cls, bundle: TokenizerBundle) -> "TokenDecoder":
        """From the files that a server sends. Whoever asks for the same files gets the same one."""
        return super().from_bundle(bundle)

    @classmethod
    def from_client(cls, client: HasTokenizer) -> "TokenDecoder":
        """From the server's own tokenizer; from its path, if it is here, when it sends none."""
        return client.tokenizer.decoder()

    @classmethod
    async def afrom_client(cls, client: AsyncHasTokenizer) -> "TokenDecoder":
        """`from_client` for the async client."""
        return await client.tokenizer.decoder()

    def decode_completion(
        self, completion: Completion, skip_special_tokens: bool | None = None
    ) -> str:
        """The text of the first choice, as the client itself would fill it in."""
        choices = completion.choices
        return self._decode_choice(completion, choices[0], skip_special_tokens) if choices else ""

    def decode_completions(
        self, completion: Completion, skip_special_tokens: bool | None = None
    ) -> list[str]:
        """The text of every choice."""
        return [self._decode_choice(completion, c, skip_special_tokens) for c in completion.choices]

    def _decode_choice(
        self, completion: Completion, choice: CompletionChoice, skip: bool | None
    ) -> str:
        plan = _plan(completion, choice.index, skip, choice.stop_reason)
        text = plan.new(self)
        pieces = [text.feed([token]) for token in choice.token_ids[:-1]]
        reason = choice.finish_reason or ""
        pieces.append(text.feed(choice.token_ids[-1:], hold=reason == "stop"))
        return "".join(pieces) + text.finish(reason, choice.stop_reason)

    def decode_chunk(self, chunk: CompletionChunk, skip_special_tokens: bool | None = None) -> str:
        """The text that this chunk adds to the first choice it names.

        Feed it every chunk of a stream, in order, once. The chunk that ends a choice also brings
        what was held back. A chunk that comes from no stream is decoded alone.
        """
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        hand: ByHand | None = chunk._decoding  # pyright: ignore[reportPrivateUsage]
        states = hand.states if hand is not None else {}
        key = (self, choice.index)
        state = states.get(key)
        if state is None:
            plan = _plan(chunk, choice.index, skip_special_tokens, choice.stop_reason)
            state = states[key] = plan.new(self)
        text = state.feed(choice.delta_token_ids)
        if choice.finish_reason is not None:
            del states[key]
            text += state.finish(choice.finish_reason, choice.stop_reason)
        return text


def _plan(
    result: Completion | CompletionChunk, index: int, skip: bool | None, stop: int | str | None
) -> TextPlan:
    """How the request wanted its text; as far as the result tells, if it came from no request."""
    hand: ByHand | None = result._decoding  # pyright: ignore[reportPrivateUsage]
    if hand is None:
        plan = TextPlan(stop=(stop,) if isinstance(stop, str) else ())
    else:
        plan = hand.plan(index)
    if skip is None or skip == plan.skip_special_tokens:
        return plan
    return plan._replace(skip_special_tokens=skip)


# Decoders by the server that they came from, its address and what it says of its model: clients of
# the same server share one.
BY_SERVER: Final = WeakValueDictionary[tuple[str, bytes], TokenDecoder]()


def local_decoder(path: str) -> TokenDecoder:
    """From the path that a server has named, if it is here."""
    if not path or not Path(path).is_dir():
        raise FileNotFoundError(
            f"the server sends no tokenizer, and its path {path!r} is no directory here; "
            "use TokenDecoder.from_model_path() with a local copy, or from_transformers()"
        )
    return TokenDecoder.from_model_path(path)
