"""A gRPC call as bytes, for what no gRPC library would send."""

import asyncio
import struct
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def literal(text: bytes) -> bytes:
    """A string of HPACK, without Huffman coding."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, size = len(text) - 127, bytes([127])
    while rest >= 128:
        size, rest = size + bytes([rest % 128 + 128]), rest // 128
    return size + bytes([rest]) + text


def header_block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"\x00" + literal(name) + literal(value) for name, value in headers)


async def call(
    port: int,
    path: str,
    message: bytes,
    metadata: Sequence[tuple[bytes, bytes]] = (),
    *,
    compressed: bool = False,
) -> None:
    """Send one request and wait until the server has ended the stream or the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]
    body = struct.pack(">?I", compressed, len(message)) + message
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    writer.write(frame(HEADERS, END_HEADERS, 1, header_block(headers)))
    assert len(body) < 65_536  # the window of a new connection
    size = 16_000  # of a frame
    for start in range(0, len(body), size):
        last = start + size >= len(body)
        writer.write(frame(DATA, END_STREAM if last else 0, 1, body[start : start + size]))
    await writer.drain()
    try:
        while True:
            head = await reader.readexactly(9)
            size, flags = int.from_bytes(head[:3], "big"), head[4]
            stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            await reader.readexactly(size)
            if stream == 1 and (
                head[3] == 3 or (flags & END_STREAM and head[3] in (DATA, HEADERS))
            ):
                break
    except asyncio.IncompleteReadError:
        pass
    writer.close()
