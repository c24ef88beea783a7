"""Encodes text to token ids, and decodes token ids of completions."""

from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from smg_proto._tokens import decoder
from smg_proto._tokens.text import CallerDecoding, TextPlan
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
    __doc__ = decoder.TokenDecoder.__doc__

    @classmethod
    def from_bundle(cls, bundle: TokenizerBundle) -> "TokenDecoder":
        """From the files of a server. The same files give the same object."""
        return super().from_bundle(bundle)

    @classmethod
    def from_client(cls, client: HasTokenizer) -> "TokenDecoder":
        """From the server's tokenizer, or from its path if the server does not send the files and
        the path is a directory on this machine."""
        return client.tokenizer.decoder()

    @classmethod
    async def afrom_client(cls, client: AsyncHasTokenizer) -> "TokenDecoder":
        """`from_client` for the async client."""
        return await client.tokenizer.decoder()

    def decode_completion(
        self, completion: Completion, skip_special_tokens: bool | None = None
    ) -> str:
        """The text of the first choice, as the client would fill it in."""
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
        """The text that this chunk adds to its first choice.

        Pass every chunk of a stream, once and in order. The chunk that ends a choice also adds
        text that was held back. A chunk without a stream is decoded alone.
        """
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        decoding: CallerDecoding | None = chunk._decoding  # pyright: ignore[reportPrivateUsage]
        states = decoding.states if decoding is not None else {}
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
    """How to decode a choice: as in its request, or without one, as the result shows."""
    decoding: CallerDecoding | None = result._decoding  # pyright: ignore[reportPrivateUsage]
    if decoding is None:
        plan = TextPlan(stop=(stop,) if isinstance(stop, str) else ())
    else:
        plan = decoding.plan(index)
    if skip is None or skip == plan.skip_special_tokens:
        return plan
    return plan._replace(skip_special_tokens=skip)


# Decoders by address and description of the server, so that clients of one server share them.
BY_SERVER: Final = WeakValueDictionary[tuple[str, bytes], TokenDecoder]()


def local_decoder(path: str) -> TokenDecoder:
    """From a server's path, if it is a directory on this machine."""
    if not path or not Path(path).is_dir():
        raise FileNotFoundError(
            f"the server does not send its tokenizer, and {path!r} is not a directory on this "
            "machine; use TokenDecoder.from_model_path() or from_transformers()"
        )
    return TokenDecoder.from_model_path(path)
