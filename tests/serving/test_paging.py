"""Pages of a list."""

import pytest

from smg_proto._serving.paging import page
from smg_proto.errors import SmgError

ENTRIES = "abcde"


@pytest.mark.parametrize(
    ("size", "token", "entries", "next_token"),
    [
        (0, "", "abcde", ""),
        (1, "", "a", "1"),
        (2, "", "ab", "2"),
        (2, "2", "cd", "4"),
        (2, "3", "de", ""),
        (2, "4", "e", ""),
        (0, "3", "de", ""),
        (5, "", "abcde", ""),
        (2, "5", "", ""),
        (2, "000000001", "bc", "3"),
    ],
)
def test_a_page_and_the_token_of_the_next(
    size: int, token: str, entries: str, next_token: str
) -> None:
    assert page(ENTRIES, size, token) == (entries, next_token)


@pytest.mark.parametrize(
    ("size", "token", "message"),
    [
        (-1, "", "page_size: must be at least 0"),
        *(
            (1, token, "page_token: is not a next_page_token of this list")
            for token in ("6", "x", "-1", "1.0", "\u0661", "\u00b2", "0000000001", "1" * 5000)
        ),
    ],
)
def test_an_invalid_size_or_token_is_rejected(size: int, token: str, message: str) -> None:
    with pytest.raises(SmgError) as caught:
        page(ENTRIES, size, token)
    assert (caught.value.reason, caught.value.message) == ("INVALID_REQUEST", message)
