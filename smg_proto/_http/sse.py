"""Server-sent events out of bytes, however the bytes are cut."""

from typing import NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    name: bytes
    # As it came: whoever reads it decodes it.
    data: bytes


class TooLong(ValueError):
    """A line or an event without an end."""


class Decoder:
    """Feed it bytes as they come; it returns the events that are whole.

    Comments, ids, retry times and unknown fields are left out, and so is an event that the bytes
    end in the middle of. An event, or a line, of more than `limit` bytes is TooLong.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._rest = bytearray()  # the line that has not ended
        self._after_cr = False  # a "\n" now belongs to the "\r" before it
        self._first_line = True
        self._clear()

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        if b"\r" in piece or self._after_cr:
            piece = self._without_cr(piece)
        *lines, rest = piece.split(b"\n")
        events: list[ServerSentEvent] = []
        if lines:
            if self._rest:
                lines[0] = bytes(self._rest) + lines[0]
                self._rest.clear()
            if self._first_line:
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
                self._first_line = False
            for line in lines:
                if line:
                    self._line(line)
                else:
                    if self._data:
                        # JSON never needs "\n", so nearly always there is one line of data.
                        events.append(ServerSentEvent(self._name, b"\n".join(self._data)))
                    self._clear()
        if rest:
            self._rest += rest
            if len(self._rest) + self._event_bytes > self._limit:
                raise TooLong
        return events

    def _without_cr(self, piece: bytes) -> bytes:
        """The piece with "\\n" as its only line end."""
        if self._after_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if piece:
            self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data: "):
            self._data.append(line[6:])
        else:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._name = value
            else:
                return
        self._event_bytes += len(line)
        if self._event_bytes > self._limit:
            raise TooLong

    def _clear(self) -> None:
        self._name = b""
        self._data: list[bytes] = []
        self._event_bytes = 0
