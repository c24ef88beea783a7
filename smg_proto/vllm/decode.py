"""Token ids to text: whole, and piece by piece as a stream brings them."""

import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smg_proto.vllm.errors import (
    VLLMGrpcFailedPreconditionError,
    VLLMGrpcInternalError,
    VLLMGrpcUnimplementedError,
)
from smg_proto.vllm.results import Completion, CompletionChunk

if TYPE_CHECKING:
    from smg_proto.vllm.aio import AsyncVLLMGrpcClient
    from smg_proto.vllm.bundle import TokenizerBundle
    from smg_proto.vllm.client import VLLMGrpcClient

_HOLE = "\ufffd"  # what a decoder puts where bytes of a character are missing
_WINDOW = 12  # tokens that are decoded together; more make each decoding dearer
_PATIENCE = 64  # tokens after which a hole is taken for good


class Tokenizer(Protocol):
    """What is asked of a tokenizer: tokenizers' Tokenizer and transformers' classes have it."""

    def encode(self, sequence: Any, /, *, add_special_tokens: bool = True) -> Any: ...

    def decode(self, ids: Any, /, *, skip_special_tokens: bool = True) -> Any: ...


class TokenDecoder:
    """A tokenizer for both directions, whatever library it comes from."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._states: dict[tuple[str, int], IncrementalDecoder] = {}

    @classmethod
    def from_model_path(cls, path: str | Path) -> "TokenDecoder":
        """From a directory with tokenizer.json, or from anything that transformers can load."""
        file = Path(path) / "tokenizer.json"
        if file.is_file():
            try:
                from tokenizers import Tokenizer as Rust
            except ImportError:
                raise ImportError(
                    "decoding needs tokenizers: pip install 'smg-grpc-proto[client,decode]'"
                ) from None
            return cls(Rust.from_file(str(file)))
        return cls.from_transformers(path)

    @classmethod
    def from_transformers(cls, path: str | Path) -> "TokenDecoder":
        """Through transformers' AutoTokenizer, which can also download."""
        try:
            transformers: Any = import_module("transformers")
        except ImportError:
            raise ImportError(
                f"there is no tokenizer.json in {path}, and other forms need transformers: "
                "pip install transformers"
            ) from None
        return cls(transformers.AutoTokenizer.from_pretrained(str(path)))

    @classmethod
    def from_bundle(cls, bundle: "TokenizerBundle") -> "TokenDecoder":
        """From the files that a server sends."""
        with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
            bundle.extract(folder)
            return cls.from_model_path(folder)

    @classmethod
    def from_client(cls, client: "VLLMGrpcClient") -> "TokenDecoder":
        """From the server's own tokenizer; from its path, if it is here, when it sends none."""
        try:
            return cls.from_bundle(client.tokenizer.download())
        except _NO_BUNDLE:
            info = client.models.retrieve()
            return cls._from_local(info.tokenizer_path or info.model_path)

    @classmethod
    async def afrom_client(cls, client: "AsyncVLLMGrpcClient") -> "TokenDecoder":
        """`from_client` for the async client."""
        try:
            return cls.from_bundle(await client.tokenizer.download())
        except _NO_BUNDLE:
            info = await client.models.retrieve()
            return cls._from_local(info.tokenizer_path or info.model_path)

    @classmethod
    def _from_local(cls, path: str) -> "TokenDecoder":
        if not Path(path).is_dir():
            raise FileNotFoundError(
                f"the server sends no tokenizer, and its path {path!r} is no directory here; "
                "use TokenDecoder.from_model_path() with a local copy, or from_transformers()"
            )
        return cls.from_model_path(path)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        encoded: Any = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return list(getattr(encoded, "ids", encoded))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def incremental(
        self, skip_special_tokens: bool = True, before: Sequence[int] = ()
    ) -> "IncrementalDecoder":
        """A decoder for one choice of a stream; `before` are the last tokens of the prompt."""
        return IncrementalDecoder(self, skip_special_tokens, before)

    def decode_completion(self, completion: Completion, skip_special_tokens: bool = True) -> str:
        """The text of the first choice."""
        choices = completion.choices
        return self.decode(choices[0].token_ids, skip_special_tokens) if choices else ""

    def decode_completions(
        self, completion: Completion, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of every choice."""
        return [self.decode(c.token_ids, skip_special_tokens) for c in completion.choices]

    def decode_chunk(self, chunk: CompletionChunk, skip_special_tokens: bool = True) -> str:
        """The text that this chunk adds to the first choice it names.

        The decoder remembers where each choice of each request stands, by the chunk's id: feed it
        every chunk, in order, once. The chunk that ends a choice also brings what was held back.
        """
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        key = (chunk.id, choice.index)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = self.incremental(skip_special_tokens)
            while len(self._states) > _REMEMBERED:  # of streams that were left early
                self._states.pop(next(iter(self._states)))
        text = state.feed(choice.delta_token_ids)
        if choice.finish_reason is not None:
            del self._states[key]
            text += state.flush()
        return text


_NO_BUNDLE = (
    VLLMGrpcFailedPreconditionError,
    VLLMGrpcInternalError,
    VLLMGrpcUnimplementedError,
)
_REMEMBERED = 1024


class IncrementalDecoder:
    """Text for tokens that come one by one; joined, it is the text of all of them together.

    A token alone has no text: characters span tokens, and blanks depend on what stands before.
    So the last few tokens are decoded together, and what grew is the new text. While it ends in
    holes, which the next token may fill, that end is held back.
    """

    __slots__ = ("_decoder", "_given", "_skip", "_unsettled", "_window")

    def __init__(self, decoder: TokenDecoder, skip_special_tokens: bool, before: Sequence[int]):
        self._decoder = decoder
        self._skip = skip_special_tokens
        self._window = list(before)
        self._given = len(decoder.decode(self._window, skip_special_tokens)) if before else 0
        self._unsettled = 0  # tokens since the text last ended without a hole

    def feed(self, ids: Sequence[int]) -> str:
        if not ids:
            return ""
        self._window.extend(ids)
        text = self._decoder.decode(self._window, self._skip)
        ready = len(text.rstrip(_HOLE))
        self._unsettled = 0 if ready == len(text) else self._unsettled + len(ids)
        if self._unsettled > _PATIENCE:  # no character takes so many: these bytes are no text
            ready, self._unsettled = len(text), 0
        new = text[self._given : ready]
        self._given = max(self._given, ready)
        if len(self._window) > _WINDOW and not self._unsettled:
            self._forget(text)
        return new

    def flush(self) -> str:
        """What is held back, at the end: a character that was never completed."""
        text = self._decoder.decode(self._window, self._skip) if self._unsettled else ""
        new, self._unsettled = text[self._given :], 0
        return new

    def _forget(self, text: str) -> None:
        """Drop old tokens, if those that remain give the same end of the text without them."""
        kept = self._window[-_WINDOW // 2 :]
        end = self._decoder.decode(kept, self._skip)
        if end and text.endswith(end):
            self._window, self._given = kept, len(end)
