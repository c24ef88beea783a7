"""One call to a server, whatever its method is."""

from typing import Any

import grpc

from smg_proto._probe import Answer


async def async_ask(channel: Any, path: str, data: bytes, **how: Any) -> Answer:
    """Send these bytes as the request of a method that may stream. `how`: timeout, metadata."""
    method = channel.unary_stream(path, request_serializer=None, response_deserializer=None)
    messages = method(data, **how)
    try:
        async for message in messages:
            return Answer("OK", data=message)
    except grpc.RpcError as error:
        failed: Any = error
        return Answer(failed.code().name, failed.details() or "")
    finally:
        messages.cancel()
    return Answer("OK")
