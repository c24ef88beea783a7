"""One call to any method of a server."""

from typing import Any

import grpc

from smg_proto._probe import Answer


async def async_ask(channel: Any, path: str, data: bytes, **options: Any) -> Answer:
    """Send `data` as the request of a method that may stream. `options`: timeout, metadata."""
    method = channel.unary_stream(path, request_serializer=None, response_deserializer=None)
    messages = method(data, **options)
    try:
        async for message in messages:
            return Answer("OK", data=message)
    except grpc.RpcError as error:
        failed: Any = error
        return Answer(failed.code().name, failed.details() or "")
    finally:
        messages.cancel()
    return Answer("OK")
