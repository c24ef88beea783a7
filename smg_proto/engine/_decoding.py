"""Text for contracts that carry token ids alone."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from smg_proto._tokens.bundle import Bundle
from smg_proto._tokens.text import ChoiceText, TextPlan
from smg_proto.engine._contracts.base import Reader
from smg_proto.engine._errors import FailedError
from smg_proto.engine._request import Asked
from smg_proto.engine._types import Piece

if TYPE_CHECKING:
    from smg_proto._tokens.decoder import TokenDecoder

_BEFORE = 12  # tokens at the end of the prompt, which decide whether a blank begins the text


class TokenizerBundle(Bundle):
    """The tokenizer's files as the server has sent them."""

    @classmethod
    def damaged(cls, problem: str) -> FailedError:
        return FailedError(f"the tokenizer bundle {problem}")


class DecodingReader(Reader):
    """Fills in the text of the pieces that another reader reads. A stop is left out of it."""

    def __init__(self, reader: Reader, decoder: "TokenDecoder", asked: Asked) -> None:
        self._reader, self._decoder = reader, decoder
        stop = asked.get("stop", ())
        self._plan = TextPlan(
            stop=stop,
            stop_token_ids=asked.get("stop_token_ids", ()),
            before=asked["token_ids"][-_BEFORE:],
            by_token=bool(stop and asked.get("min_tokens")),
        )
        self._texts: dict[int, ChoiceText] = {}

    def read(self, message: Any) -> Iterable[Piece]:
        return [self._filled(piece) for piece in self._reader.read(message)]

    def end(self, left: Sequence[int]) -> Iterable[Piece]:
        return [self._filled(piece) for piece in self._reader.end(left)]

    def _filled(self, piece: Piece) -> Piece:
        text = self._texts.get(piece.index)
        if text is None:
            text = self._texts[piece.index] = self._plan.new(self._decoder)
        piece.text = text.feed(piece.token_ids)
        if piece.finish_reason is not None:
            piece.text += text.finish(piece.finish_reason, piece.matched_stop)
        return piece
