"""The built-in model: a tiny language model over the sentences of _corpus.py.

It depends only on the last two tokens and a hash of the prompt. Each prompt has its own output,
which is the same everywhere. Nothing is downloaded.
"""

import functools
import math
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from smg_proto.testing import _corpus as corpus
from smg_proto.testing._tokenizer import ADDED, CONTEXT_LENGTH, END, IM_END, Tokenizer, tokenizer

MODEL_NAME = "demo-model"
EOS = frozenset({END, IM_END})
EMBEDDING_SIZE = 32

# The logit of a token that the model never generates by itself.
_UNLIKELY = -12.0
# After this many tokens, an end becomes more likely with each token.
_PATIENCE = 24


class Model:
    """Logits of the next token, and embeddings."""

    name = MODEL_NAME
    context_length = CONTEXT_LENGTH

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = tokenizer()
        after_one: defaultdict[int, Counter[int]] = defaultdict(Counter)
        after_two: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)
        spaced: Counter[int] = Counter()
        plain: Counter[int] = Counter()
        for sentence in corpus.sentences():
            for starts, text in ((spaced, sentence), (plain, sentence[1:])):
                tokens = self.tokenizer.encode(text)
                starts[tokens[0]] += 1
                for index in range(1, len(tokens)):
                    after_one[tokens[index - 1]][tokens[index]] += 1
                    if index > 1:
                        after_two[tokens[index - 2], tokens[index - 1]][tokens[index]] += 1
        stop = self.tokenizer.encode(".")[0]
        after_one[stop] = spaced + Counter({END: len(spaced)})
        self._after_one, self._after_two = dict(after_one), dict(after_two)
        # The last two tokens count for more than the last one.
        self._after_both = {
            pair: after_one[pair[1]] + counts + counts for pair, counts in after_two.items()
        }
        self._spaced, self._plain = spaced, plain

    def logits(self, key: int, context: Sequence[int], made: int) -> dict[int, float]:
        """The possible next tokens, `made` tokens into the output for the prompt `key`."""
        logits = {
            token: math.log(count) + _noise(key, made, token)
            for token, count in self._counts(context, made).items()
        }
        if END in logits:
            logits[END] += (made - _PATIENCE) * 0.25
        return logits

    def _counts(self, context: Sequence[int], made: int) -> Counter[int]:
        if not context:
            return self._plain
        last = context[-1]
        both = (context[-2], last) if len(context) > 1 else (-1, last)
        text = b"" if last < ADDED else self.tokenizer.token_bytes(last)
        if text and text[-1] >= 0x80:  # within a character, or at the end of the prompt
            return self._after_two.get(both, self._spaced) if made else self._spaced
        if last in self._after_one and text.strip():
            return self._after_both.get(both, self._after_one[last])
        return self._spaced if text.strip() else self._plain

    def logprobs(self, logits: dict[int, float], token: int) -> dict[int, float]:
        """Log probabilities of the possible tokens and of `token`, which may be another one."""
        known = logits if token in logits else {**logits, token: _UNLIKELY}
        top = max(known.values())
        total = top + math.log(sum(math.exp(value - top) for value in known.values()))
        return {token: min(value - total, 0.0) for token, value in known.items()}

    def bias(self, logits: dict[int, float], bias: Iterable[tuple[int, float]]) -> None:
        """Apply a logit bias, also to tokens that the model never generates by itself."""
        for token, value in bias:
            logits[token] = logits.get(token, _UNLIKELY) + value

    def embed(self, tokens: Sequence[int], size: int = EMBEDDING_SIZE) -> list[float]:
        """A vector of length 1. Texts with many tokens in common are close to one another."""
        vector = [0.0] * size
        for token in tokens:
            vector = [a + b for a, b in zip(vector, _direction(token, size), strict=True)]
        length = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / length for value in vector]


def prompt_key(prompt: Sequence[int]) -> int:
    return zlib.crc32(struct.pack(f"<{len(prompt)}I", *prompt))


def _noise(*numbers: int) -> float:
    """The same number between 0 and 2 for the same numbers."""
    packed = struct.pack(f"<{len(numbers)}Q", *numbers)
    return (zlib.crc32(packed) * 2654435761 % 2**32) / 2**31


@functools.lru_cache(maxsize=1024)
def _direction(token: int, size: int) -> list[float]:
    """The vector that a token adds to an embedding."""
    return [_noise(token, place, 0) - 1 for place in range(size)]


@functools.cache
def model() -> Model:
    """The model, built once. It never changes."""
    return Model()
