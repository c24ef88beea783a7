"""Decodes server-sent events from chunks of bytes."""

from typing import NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    name: bytes
    # Not decoded yet.
    data: bytes


class TooLong(ValueError):
    """A line or an event is longer than the limit."""


class Decoder:
    """Takes bytes as they arrive, and returns the events that are complete.

    Ignores comments, ids, retry times, unknown fields and an incomplete last event. Raises TooLong
    for an event or a line of more than `limit` bytes.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._rest = bytearray()  # the incomplete last line
        self._after_cr = False  # a "\n" that comes next belongs to the "\r" before it
        self._first_line = True
        self._clear()

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        if b"\r" in data or self._after_cr:
            data = self._without_cr(data)
        *lines, rest = data.split(b"\n")
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
                        # JSON needs no "\n", so there is nearly always one line of data.
                        events.append(ServerSentEvent(self._name, b"\n".join(self._data)))
                    self._clear()
        if rest:
            self._rest += rest
            if len(self._rest) + self._event_bytes > self._limit:
                raise TooLong
        return events

    def _without_cr(self, data: bytes) -> bytes:
        """The bytes with "\\n" as the only line ending."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

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
