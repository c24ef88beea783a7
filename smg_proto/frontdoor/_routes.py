"""RPCs that map to one route: one request, and its reply or its events."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from smg_proto._http.failures import truncated
from smg_proto._http.fields import Table, write_request
from smg_proto._http.mapping.streams import StreamReader
from smg_proto._http.shapes import JsonObject
from smg_proto.frontdoor._calls import Call, read_response

Unary = Callable[[Call, Any], Awaitable[Any]]
Streaming = Callable[[Call, Any], AsyncGenerator[Any, None]]
Conversing = Callable[[Call, AsyncIterator[Any]], AsyncGenerator[Any, None]]


def simple(path: str, table: Table[Any], reply: Table[Any]) -> Unary:
    """A unary RPC of one route."""

    async def run(call: Call, request: Message) -> Any:
        response = await call.fetch("POST", path, write_request(table, request))
        return read_response(reply, response, path)

    return run


async def relay(
    call: Call, path: str, body: JsonObject, reader: StreamReader[Any]
) -> AsyncGenerator[Any, None]:
    """The events of a stream, as its reader returns them. A stream without an end is an error."""
    async with call.stream(path, body) as stream:
        last_read = time.monotonic()
        while (batch := await stream.read()) is not None:
            fast = time.monotonic() - last_read < call.pace.pause
            for event in reader.read(batch):
                if event.HasField("delta"):
                    call.got_token()
                elif event.HasField("end"):
                    event.end.pipeline.CopyFrom(call.report())
                yield event
            if reader.done:
                stream.finish()
                return
            if fast:
                await call.pace.wait(stream)
            last_read = time.monotonic()
    raise truncated("the gateway's stream ended early")


def simple_stream(
    path: str, table: Table[Any], reader: Callable[[], StreamReader[Any]], **more: Any
) -> Streaming:
    """A streaming RPC of one route."""

    def run(call: Call, request: Message) -> AsyncGenerator[Any, None]:
        body = write_request(table, request) | {"stream": True} | more
        return relay(call, path, body, reader())

    return run
