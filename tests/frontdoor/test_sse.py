"""Server-sent events are read however the bytes are cut."""

import pytest

from smg_proto._http.sse import Decoder, ServerSentEvent, TooLong

TEXT = (
    b": a comment\n\n"
    b"event: start\ndata: {}\n\n"
    b'data:{"a":\ndata: "\xc3\xa9"}\n\n'
    b"id: 1\nretry: 5\ndata: last\r\n\r\n"
    b"data: one\r\rdata\n\n"
)
EVENTS = [
    ("start", "{}"),
    ("", '{"a":\n"é"}'),
    ("", "last"),
    ("", "one"),
    ("", ""),
]


def read(*pieces: bytes) -> list[ServerSentEvent]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_events_are_read_whole() -> None:
    assert read(TEXT) == EVENTS


@pytest.mark.parametrize("cut", range(1, len(TEXT)))
def test_any_cut_gives_the_same_events(cut: int) -> None:
    assert read(TEXT[:cut], TEXT[cut:]) == EVENTS


def test_single_bytes_give_the_same_events() -> None:
    assert read(*(bytes([byte]) for byte in TEXT)) == EVENTS


def test_an_event_that_is_not_whole_is_not_given() -> None:
    assert read(b"data: a\n\ndata: b\n") == [("", "a")]


def test_garbage_is_no_event() -> None:
    assert read(b"\xff\xfe garbage\nmore: garbage\n\n\n\n") == []


def test_an_endless_line_or_event_is_refused() -> None:
    with pytest.raises(TooLong):
        list(Decoder(10).feed(b"data: " + b"x" * 20))
    with pytest.raises(TooLong):
        list(Decoder(10).feed(b"data: xxxxxx\n" * 3))
