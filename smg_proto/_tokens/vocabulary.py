"""A vocabulary that loads without blocking other threads.

The tokenizers library holds Python's global lock while it reads tokenizer.json, which takes seconds
for a large one. Decoding needs only the words by id and the decoder that joins them. This module
reads these piece by piece, and uses the library's decoder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_TEXT: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_BY_NAME: Final = re.compile(rf"\s*({_TEXT})\s*:\s*(\d+)\s*([,}}])")
_BY_PLACE: Final = re.compile(rf"\s*\[\s*({_TEXT})\s*,\s*[-+.\deE]+\s*\]\s*([,\]])")
_VOCAB: Final = re.compile(r'"vocab"\s*:\s*([\[{])')
_MERGES: Final = re.compile(r'"merges"\s*:\s*\[')
_SOME_MERGES: Final = re.compile(
    rf"(?:\s*(?:{_TEXT}|\[\s*{_TEXT}\s*,\s*{_TEXT}\s*\])\s*,?){{1,100}}"
)


@dataclass(frozen=True)
class Vocabulary:
    """The parts of a tokenizer.json for decoding."""

    words: Mapping[int, str]
    special: frozenset[str]
    added: frozenset[int]
    """Ids of added tokens, special or not."""
    decoder: dict[str, Any] | None

    def dump(self) -> bytes | None:
        """The form for the cache, or None if this vocabulary does not have one."""
        size = max(self.words, default=-1) + 1
        if any("\0" in word for word in self.words.values()) or size > 2 * len(self.words):
            return None
        head = {
            "missing": [place for place in range(size) if place not in self.words],
            "special": sorted(self.special),
            "added": sorted(self.added),
            "decoder": self.decoder,
        }
        body = "\0".join(self.words.get(place, "") for place in range(size))
        try:
            return f"{json.dumps(head)}\n{body}".encode()
        except UnicodeEncodeError:
            return None

    @classmethod
    def load(cls, content: bytes) -> "Vocabulary | None":
        """The vocabulary from the output of dump(), or None if it is something else."""
        try:
            first, _, body = content.decode().partition("\n")
            head = json.loads(first)
            words = dict(enumerate(body.split("\0"))) if body else {}
            for place in head["missing"]:
                del words[place]
            return cls(words, frozenset(head["special"]), frozenset(head["added"]), head["decoder"])
        except (ValueError, LookupError, TypeError):
            return None

    @classmethod
    def parse(cls, text: str) -> "Vocabulary | None":
        """The vocabulary of a tokenizer.json, or None if its form is unknown."""
        try:
            return _parse(text)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None


def _parse(text: str) -> Vocabulary | None:
    begin = _VOCAB.search(text)
    if begin is None:
        return None
    words, end = _read_words(text, begin.end(), by_name=begin[1] == "{")
    rest = text[: begin.end()] + text[end - 1 :]  # without the content of the brackets
    merges = _MERGES.search(rest)
    if merges is not None:
        place = merges.end()
        while (some := _SOME_MERGES.match(rest, place)) is not None:
            place = some.end()
        rest = rest[: merges.end()] + rest[place:]
    whole: dict[str, Any] = json.loads(rest)
    added: list[dict[str, Any]] = whole.get("added_tokens") or []
    words.update((token["id"], token["content"]) for token in added)
    return Vocabulary(
        words,
        frozenset(token["content"] for token in added if token["special"]),
        frozenset(token["id"] for token in added),
        whole.get("decoder"),
    )


def _read_words(text: str, place: int, *, by_name: bool) -> tuple[dict[int, str], int]:
    """The words by id, and the position after the list."""
    words: dict[int, str] = {}
    pattern, more = _BY_NAME if by_name else _BY_PLACE, text[place:].lstrip()[:1] not in ("}", "]")
    if not more:
        return words, text.index("}" if by_name else "]", place) + 1
    while more:
        found = pattern.match(text, place)
        if found is None:
            raise ValueError("unknown form of an entry")
        word = found[1][1:-1]
        if "\\" in word:
            word = json.loads(found[1])
        words[int(found[2]) if by_name else len(words)] = word
        place, more = found.end(), found[found.lastindex or 0] == ","
    return words, place


class WordDecoder:
    """Decodes ids with the library's decoder."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from tokenizers import Tokenizer

        self._all = vocabulary.words
        self._plain = {
            place: word
            for place, word in vocabulary.words.items()
            if word not in vocabulary.special
        }
        model = {"type": "WordLevel", "vocab": {"-": 0}, "unk_token": "-"}
        empty: dict[str, Any] = dict.fromkeys(
            ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor")
        )
        whole: dict[str, Any] = empty | {"version": "1.0", "added_tokens": [], "model": model}
        whole["decoder"] = vocabulary.decoder
        joiner: Any = Tokenizer.from_str(json.dumps(whole)).decoder
        self._join = joiner.decode if joiner is not None else " ".join

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        words = self._plain if skip_special_tokens else self._all
        joined: str = self._join([words[token] for token in ids if token in words])
        return joined
