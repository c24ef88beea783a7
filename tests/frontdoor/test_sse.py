"""Server-sent events are read however the bytes are cut, and never hold more than their limit."""

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smg_proto._http.sse import Decoder, ServerSentEvent, TooLong

TEXT = (
    b"\xef\xbb\xbf: a comment\n\n"
    b"event: start\ndata: {}\n\n"
    b'data:{"a":\ndata: "\xc3\xa9"}\n\n'
    b"id: 1\nretry: 5\ndata: last\r\n\r\n"
    b"data: one\r\rdata\n\n"
    b"data:   two blanks stay\n\n"
)
EVENTS = [
    (b"start", b"{}"),
    (b"", b'{"a":\n"\xc3\xa9"}'),
    (b"", b"last"),
    (b"", b"one"),
    (b"", b""),
    (b"", b"  two blanks stay"),
]


def read(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_complete_events_are_read() -> None:
    assert read(TEXT) == EVENTS


@pytest.mark.parametrize("cut", range(1, len(TEXT)))
def test_any_cut_gives_the_same_events(cut: int) -> None:
    assert read(TEXT[:cut], TEXT[cut:]) == EVENTS


def test_single_bytes_give_the_same_events() -> None:
    assert read(*(bytes([byte]) for byte in TEXT)) == EVENTS


@given(
    text=st.lists(
        st.sampled_from(
            [b"data", b"event", b":", b" ", b"\n", b"\r", b"\r\n", b"x", b"\xef\xbb\xbf"]
        )
    ).map(b"".join),
    sizes=st.lists(st.integers(0, 5), max_size=20),
)
def test_any_bytes_cut_anywhere_give_the_same_events(text: bytes, sizes: list[int]) -> None:
    pieces: list[bytes] = []
    rest = text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert read(*pieces, rest) == read(text)


def test_an_event_is_returned_as_soon_as_its_last_line_ends() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n\r") == [(b"", b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [(b"", b"b")]


def test_a_line_ending_of_two_pieces_is_one() -> None:
    assert read(b"data: a\r", b"", b"\ndata: b\r", b"\n", b"\n") == [(b"", b"a\nb")]


def test_an_event_with_a_byte_order_mark_before_it_is_read() -> None:
    assert read(b"\xef\xbb", b"\xbfdata: a\n\n", b"data: b\n\n") == [(b"", b"a"), (b"", b"b")]
    assert read(b"\n", b"\xef\xbb\xbfdata: a\n\n") == []  # only before the first line


def test_an_incomplete_event_is_not_returned() -> None:
    assert read(b"data: a\n\ndata: b\n") == [(b"", b"a")]


def test_garbage_is_not_an_event() -> None:
    assert read(b"\xff\xfe garbage\nmore: garbage\n\n\n\n") == []


ENDLESS = {
    "a line": (b"data: ", b"x" * 1000),
    "lines without content": (b"", b"data:\n" * 200),
    "lines": (b"", b"data: x\n" * 100),
    "a line of no field": (b"", b"x" * 1000),
    "a name": (b"event: ", b"x" * 1000),
    "names": (b"", b"event: x\n" * 100),
    "single bytes": (b"data: ", b"x"),
}


@pytest.mark.parametrize("first, more", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_event_is_rejected_at_the_limit(first: bytes, more: bytes) -> None:
    limit = 100_000
    decoder = Decoder(limit)
    tracemalloc.start()
    try:
        with pytest.raises(TooLong):
            decoder.feed(first)
            for _ in range(limit):
                decoder.feed(more)
        assert tracemalloc.get_traced_memory()[1] < 10 * limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ([b"event: 123\n"], 10),
        ([b"data: 1234\n"], 10),
        ([b"data: 1234"], 10),
        ([b"event: 1\n", b"data:"], 13),
        ([b"data: 1\ndata: 2\n"], 14),
    ],
)
def test_the_limit_is_the_largest_size_of_an_event(pieces: list[bytes], size: int) -> None:
    largest, too_small = Decoder(size), Decoder(size - 1)
    for piece in pieces:
        largest.feed(piece)
    with pytest.raises(TooLong):
        for piece in pieces:
            too_small.feed(piece)


def test_the_limit_is_for_one_event_not_for_all() -> None:
    decoder = Decoder(100)

    def events() -> Iterator[ServerSentEvent]:
        for _ in range(100):
            yield from decoder.feed(b": a comment\ndata: " + b"x" * 50 + b"\n\n")

    assert len(list(events())) == 100
