"""Text for contracts that carry only token ids."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from smg_proto._tokens.bundle import Bundle
from smg_proto._tokens.text import ChoiceText, TextPlan
from smg_proto.engine._contracts.base import Reader
from smg_proto.engine._errors import FailedError
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Piece

if TYPE_CHECKING:
    from smg_proto._tokens.decoder import TokenDecoder

_BEFORE = 12  # last tokens of the prompt, which decide whether the text starts with a space


class TokenizerBundle(Bundle):
    """The tokenizer's files as the server sent them."""

    @classmethod
    def damaged(cls, problem: str) -> FailedError:
        return FailedError(f"the tokenizer bundle {problem}")


class DecodingReader(Reader):
    """Adds text to another reader's pieces. The text never includes a stop."""

    def __init__(self, reader: Reader, decoder: "TokenDecoder", params: CheckedParams) -> None:
        self._reader, self._decoder = reader, decoder
        stop = params.get("stop", ())
        self._plan = TextPlan(
            stop=stop,
            stop_token_ids=params.get("stop_token_ids", ()),
            before=params["token_ids"][-_BEFORE:],
            by_token=bool(stop and params.get("min_tokens")),
        )
        self._texts: dict[int, ChoiceText] = {}

    def read(self, message: Any) -> Iterable[Piece]:
        return [self._with_text(piece) for piece in self._reader.read(message)]

    def end(self, unfinished: Sequence[int]) -> Iterable[Piece]:
        return [self._with_text(piece) for piece in self._reader.end(unfinished)]

    def _with_text(self, piece: Piece) -> Piece:
        text = self._texts.get(piece.index)
        if text is None:
            text = self._texts[piece.index] = self._plan.new(self._decoder)
        piece.text = text.feed(piece.token_ids)
        if piece.finish_reason is not None:
            piece.text += text.finish(piece.finish_reason, piece.matched_stop)
        return piece
