"""Server-sent events out of bytes, however the bytes are cut."""

from collections.abc import Iterator
from typing import NamedTuple


class ServerSentEvent(NamedTuple):
    name: str
    data: str


class TooLong(ValueError):
    """A line or an event without end."""


class Decoder:
    """Feed it bytes as they come; it gives the events that are whole.

    Comments, ids and retry times are left out, as are fields of other names; an event that the
    bytes end in the middle of is never given out.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._rest: list[bytes] = []  # the line that is not whole yet, in pieces
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        self._rest.append(piece)
        if b"\n" not in piece and b"\r" not in piece:
            if sum(map(len, self._rest)) > self._limit:
                raise TooLong
            return
        whole = b"".join(self._rest)
        if b"\r" in whole:
            # At the very end it may be half of a line end: it waits for the rest.
            held = whole.endswith(b"\r")
            whole = whole[: -1 if held else None].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            whole += b"\r" * held
        *lines, rest = whole.split(b"\n")
        self._rest = [rest]
        for line in lines:
            if line:
                self._line(line)
            elif self._data:
                # Only "\n" joins data lines; JSON never needs it, so nearly always there is one.
                data = b"\n".join(self._data).decode(errors="replace")
                yield ServerSentEvent(self._name, data)
                self._clear()
            else:
                self._clear()

    def _line(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
            if self._size > self._limit:
                raise TooLong
        elif field == b"event":
            self._name = value.decode(errors="replace")

    def _clear(self) -> None:
        self._name, self._data, self._size = "", [], 0
