"""The built-in model's tokenizer: a byte-level BPE that the `tokenizers` library can load.

It encodes and decodes in plain Python, so that the fakes need no other package. A test compares it
with the library. Each letter beyond ASCII takes several tokens.
"""

import functools
import hashlib
import io
import itertools
import json
import re
import zipfile
from collections.abc import Iterable, Sequence

from smg_proto.testing._corpus import words

# Special tokens have no text when special tokens are skipped; markers always have theirs.
SPECIAL = ("<|pad|>", "<|start|>", "<|end|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
ADDED = len(SPECIAL) + len(MARKERS)  # their ids are below this
PAD, START, END, IM_START, IM_END = range(len(SPECIAL))

CONTEXT_LENGTH = 4096
CHUNK_SIZE = 8 * 1024  # small, so that the archive takes several chunks

# A word with the space before it, or a run of spaces. Two regex dialects read it, so it has no
# classes, which may differ.
_PIECE = " ?[^ ]+| +"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content or '' }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_letters() -> list[str]:
    """The printable letter for each byte in a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _merges() -> list[tuple[bytes, bytes]]:
    """The merges that build the words of the corpus letter by letter, with a space before them
    first."""
    found: dict[tuple[bytes, bytes], None] = {}
    for lead in (" ", ""):
        for word in words():
            spelled = f"{lead}{word}".encode()
            for end in range(1, len(spelled)):
                if spelled[end] >= 0x80:
                    break  # the rest stays split, so that some characters span tokens
                found[spelled[:end], spelled[end : end + 1]] = None
    return list(found)


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self) -> None:
        self._merges = _merges()
        added = [text.encode() for text in (*SPECIAL, *MARKERS)]
        pieces = [bytes([byte]) for byte in range(256)]
        pieces += dict.fromkeys(left + right for left, right in self._merges)
        self._bytes = added + pieces
        self._ids = {piece: number + len(added) for number, piece in enumerate(pieces)}
        self._added = {text: number for number, text in enumerate((*SPECIAL, *MARKERS))}
        self._rank = {pair: number for number, pair in enumerate(self._merges)}
        self._split = re.compile("(" + "|".join(map(re.escape, self._added)) + ")")
        self._encode_piece = functools.lru_cache(maxsize=4096)(self._merge)

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Special tokens in the text become their own ids."""
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self._added:
                ids.append(self._added[part])
            else:
                for piece in re.findall(_PIECE, part):
                    ids += self._encode_piece(piece)
        return ids

    def _merge(self, piece: str) -> tuple[int, ...]:
        parts = [bytes([byte]) for byte in piece.encode(errors="replace")]
        never = len(self._merges)
        while len(parts) > 1:
            ranks = [self._rank.get(pair, never) for pair in itertools.pairwise(parts)]
            best = min(ranks)
            if best == never:
                break
            merged: list[bytes] = []
            at = 0
            while at < len(parts):
                if at < len(ranks) and ranks[at] == best:
                    merged.append(parts[at] + parts[at + 1])
                    at += 2
                else:
                    merged.append(parts[at])
                    at += 1
            parts = merged
        return tuple(self._ids[part] for part in parts)

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """The bytes that a token adds to the text. An unknown id adds none."""
        if token >= len(self._bytes) or (skip_special and token < len(SPECIAL)):
            return b""
        return self._bytes[token]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of the ids. An incomplete character becomes U+FFFD."""
        data = b"".join(self.token_bytes(token, skip_special=skip_special) for token in ids)
        return data.decode(errors="replace")

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        letters = _byte_letters()

        def spell(piece: bytes) -> str:
            return "".join(letters[byte] for byte in piece)

        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [
            {"id": number, "content": text, "special": text in SPECIAL, **plain}
            for text, number in self._added.items()
        ]
        byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {**split, "pattern": {"Regex": _PIECE}},
                    {"type": "ByteLevel", **byte_level},
                ],
            },
            "post_processor": None,
            "decoder": {"type": "ByteLevel", **byte_level},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self._added | {spell(piece): n for piece, n in self._ids.items()},
                "merges": [f"{spell(left)} {spell(right)}" for left, right in self._merges],
            },
        }
        return json.dumps(document, ensure_ascii=False)

    def files(self) -> dict[str, str]:
        """The files of a model directory that a tokenizer is loaded from, by name."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_LENGTH,
            "bos_token": SPECIAL[START],
            "eos_token": SPECIAL[END],
            "pad_token": SPECIAL[PAD],
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        ids = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
        model = {
            "model_type": "smg_demo",
            "architectures": ["DemoForCausalLM"],
            "vocab_size": self.vocab_size,
            "max_position_embeddings": CONTEXT_LENGTH,
            **ids,
        }
        generation = {**ids, "eos_token_id": [END, IM_END], "temperature": 1.0}
        return {
            "tokenizer.json": self.to_json(),
            "tokenizer_config.json": json.dumps(config, indent=2),
            "config.json": json.dumps(model, indent=2),
            "generation_config.json": json.dumps(generation, indent=2),
        }

    @functools.cached_property
    def bundle(self) -> bytes:
        """The files as a ZIP archive, as GetTokenizer sends it. Always the same bytes."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in self.files().items():
                archive.writestr(zipfile.ZipInfo(name), text.encode())
        return out.getvalue()

    @functools.cached_property
    def bundle_sha256(self) -> str:
        return hashlib.sha256(self.bundle).hexdigest()


@functools.cache
def tokenizer() -> Tokenizer:
    """The tokenizer, built once. It never changes."""
    return Tokenizer()


def render_chat(messages: Sequence[tuple[str, str]], *, open_turn: bool = False) -> str:
    """Render (role, content) pairs as CHAT_TEMPLATE does, with the generation prompt.

    With `open_turn`, the last message stays open, and the reply continues it.
    """
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    if open_turn:
        return text.removesuffix("<|im_end|>\n")
    return text + "<|im_start|>assistant\n"
