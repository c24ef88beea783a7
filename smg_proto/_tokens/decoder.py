"""Encodes text to token ids and decodes them, with a tokenizer of any library."""

import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from smg_proto._channel import json_object, mapping, sequence
from smg_proto._tokens.bundle import Bundle, cache_folder, keep, kept
from smg_proto._tokens.text import IncrementalDecoder
from smg_proto._tokens.vocabulary import Vocabulary, WordDecoder

if TYPE_CHECKING:
    from typing_extensions import Self

_INSTALL: Final = "pip install 'smg-grpc-proto[client,decode]'"
# Files beside tokenizer.json with the chat template, special tokens and end tokens.
_SETTINGS: Final[tuple[str, ...]] = (
    "tokenizer_config.json",
    "generation_config.json",
    "config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


class Tokenizer(Protocol):
    """The methods that a tokenizer needs; those of tokenizers and transformers have them."""

    def encode(self, sequence: Any, /, *, add_special_tokens: bool = True) -> Any: ...

    def decode(self, ids: Any, /, *, skip_special_tokens: bool = True) -> Any: ...


class TokenDecoder:
    """Encodes and decodes with a tokenizer of any library."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._load: Callable[[], Tokenizer] = lambda: tokenizer
        self._words: WordDecoder | None = None
        self._added: Collection[int] = _added_tokens(tokenizer)
        self.settings: Mapping[str, bytes] = {}
        """The tokenizer's other files by name, such as its chat template."""

    @classmethod
    def from_model_path(cls, path: str | Path) -> "Self":
        """From a directory with tokenizer.json, or any other that transformers can load."""
        file = Path(path) / "tokenizer.json"
        if not file.is_file():
            return cls.from_transformers(path)
        files = (Path(path) / name for name in _SETTINGS)
        settings = {one.name: one.read_bytes() for one in files if one.is_file()}
        return cls._from_json(file.read_bytes(), settings)

    @classmethod
    def from_transformers(cls, path: str | Path) -> "Self":
        """With transformers' AutoTokenizer, which can also download."""
        try:
            transformers: Any = import_module("transformers")
        except ImportError:
            raise ImportError(
                f"{path} does not have a tokenizer.json, and other tokenizers need transformers: "
                "pip install transformers"
            ) from None
        return cls(transformers.AutoTokenizer.from_pretrained(str(path)))

    @classmethod
    def from_bundle(cls, bundle: Any) -> "Self":
        """From the files of a server. The same files give the same object."""
        with _LOADING:
            decoder = _LOADED.get((cls, bundle.sha256))
            if not isinstance(decoder, cls):
                decoder = _LOADED[cls, bundle.sha256] = cls._unpacked(bundle)
        return decoder

    @classmethod
    def _unpacked(cls, bundle: Bundle) -> "Self":
        content = bundle.files.get("tokenizer.json")
        if content is None:
            with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
                return cls.from_model_path(bundle.extract(folder))
        cache = cache_folder(bundle.sha256)
        keep(cache, "bundle.zip", bundle.data)
        settings = {name: bundle.files[name] for name in _SETTINGS if name in bundle.files}
        return cls._from_json(content, settings, cache)

    @classmethod
    def _from_json(
        cls, content: bytes, settings: Mapping[str, bytes], folder: Path | None = None
    ) -> "Self":
        """From a tokenizer.json, which the library reads only before it first encodes."""
        library = _library()

        def load() -> Tokenizer:
            try:
                loaded: Tokenizer = library.from_buffer(content)
                return loaded
            except Exception as error:  # the library raises plain Exception
                raise ValueError(f"tokenizer.json cannot be read: {error}") from None

        self = cls.__new__(cls)
        self._load, self.settings = load, dict(settings)
        self._words, self._added = None, frozenset()
        cached = kept(folder, "vocabulary")
        vocabulary = Vocabulary.load(cached) if cached is not None else None
        if vocabulary is None:
            vocabulary = Vocabulary.parse(content.decode())
            if vocabulary is not None and (dumped := vocabulary.dump()) is not None:
                keep(folder, "vocabulary", dumped)
        if vocabulary is None:
            self._added = _added_tokens(self.tokenizer)
        else:
            self._words, self._added = WordDecoder(vocabulary), vocabulary.added
        return self

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The library's tokenizer. Loading a large one takes one or two seconds."""
        with _LOADING:
            return self._load()

    @property
    def end_token_ids(self) -> Collection[int]:
        """Tokens that can end a text: the end tokens in the model's files, and all added tokens."""
        return self._ends

    @cached_property  # which is not a property for protocols
    def _ends(self) -> Collection[int]:
        ends = set(self._added)
        for name in ("config.json", "generation_config.json"):
            found: Any = json_settings(self.settings, name).get("eos_token_id")
            ends.update(one for one in sequence(found) or (found,) if type(one) is int)
        return frozenset(ends)

    @cached_property
    def _letter(self) -> list[int]:
        """A token of plain text, to put in front of others."""
        for token in range(1000):
            if self.decode([token]).strip().isalnum():
                return [token]
        return []

    def context(self, prompt: str) -> Sequence[int]:
        """Tokens that represent the end of a prompt, so that a text continues, not begins."""
        return self._letter if prompt else ()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        encoded: Any = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return list(getattr(encoded, "ids", encoded))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        if self._words is not None:
            return self._words.decode(ids, skip_special_tokens)
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def incremental(
        self, skip_special_tokens: bool = True, before: Sequence[int] = ()
    ) -> IncrementalDecoder:
        """A decoder for one choice of a stream. before: the last tokens of the prompt."""
        return IncrementalDecoder(self, skip_special_tokens, before)


_LOADING: Final = threading.RLock()  # so that threads load the same tokenizer only once
_LOADED: Final = WeakValueDictionary[tuple[type, str], TokenDecoder]()  # by the bundle's hash


def _library() -> Any:
    try:
        from tokenizers import Tokenizer as Library
    except ImportError:
        raise ImportError(f"decoding needs tokenizers: {_INSTALL}") from None
    return Library


def _added_tokens(tokenizer: Any) -> Collection[int]:
    """The added tokens of a loaded tokenizer of tokenizers or transformers."""
    found = getattr(tokenizer, "get_added_tokens_decoder", None)
    by_id = found() if callable(found) else getattr(tokenizer, "added_tokens_decoder", None)
    return frozenset(mapping(by_id) or ())


def json_settings(settings: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The JSON object in a file of TokenDecoder.settings; empty if there is none."""
    return json_object(settings.get(name, b"").decode(errors="replace")) or {}
