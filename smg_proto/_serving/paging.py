"""Pages of a complete list: implements page_size, page_token and next_page_token."""

from collections.abc import Sequence
from typing import TypeVar

from smg_proto.errors import FieldViolation, invalid

_T = TypeVar("_T")


def page(entries: Sequence[_T], size: int, token: str) -> tuple[Sequence[_T], str]:
    """One page, and the token of the next one, which is its start index."""
    if size < 0:
        raise invalid(FieldViolation("page_size", "must be at least 0"))
    is_index = token.isascii() and token.isdecimal() and len(token) < 10
    if token and not (is_index and int(token) <= len(entries)):
        raise invalid(FieldViolation("page_token", "is not a next_page_token of this list"))
    start = int(token or 0)
    end = start + size if size else len(entries)
    return entries[start:end], str(end) if end < len(entries) else ""
