"""grpc.reflection v1 and v1alpha over the descriptors that this package ships.

protobuf's own descriptor pool knows neither comments nor the names of methods, and makes JSON
names that other languages do not; the shipped set has all three.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cache
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto

import smg_proto
from smg_proto._serving import standard

# The two versions differ in nothing but their name.
SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

_Request = standard.message("grpc.reflection.v1.ServerReflectionRequest")
_Response = standard.message("grpc.reflection.v1.ServerReflectionResponse")


class Reflection:
    """Describes a server's services, and every symbol that they can mention."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted({*services, *SERVICES})
        self._draining = asyncio.Event()

    def add_to_server(self, server: grpc.aio.Server) -> None:
        make: Any = grpc.stream_stream_rpc_method_handler
        handler = make(
            self._reflect,
            request_deserializer=_Request.FromString,
            response_serializer=_Response.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})
                for service in SERVICES
            )
        )

    def drain(self) -> None:
        """End the calls of clients that keep them open for later questions."""
        self._draining.set()

    async def _reflect(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        draining = asyncio.ensure_future(self._draining.wait())
        coming: asyncio.Future[Any] = draining
        try:
            while True:
                coming = asyncio.ensure_future(_next(requests))
                await asyncio.wait({coming, draining}, return_when=asyncio.FIRST_COMPLETED)
                request = coming.result() if coming.done() else None
                if request is None:
                    return
                yield self._reply(request)
        finally:
            draining.cancel()
            coming.cancel()

    def _reply(self, request: Any) -> Any:
        reply = _Response(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        match kind:
            case "list_services":
                for name in self._services:
                    reply.list_services_response.service.add(name=name)
            case "file_by_filename" | "file_containing_symbol":
                asked = getattr(request, kind)
                found = _index().closure(asked, by_name=kind == "file_by_filename")
                if found:
                    reply.file_descriptor_response.file_descriptor_proto.extend(found)
                else:
                    _fail(reply, grpc.StatusCode.NOT_FOUND, "no such file or symbol here")
            case "all_extension_numbers_of_type":
                asked = request.all_extension_numbers_of_type
                if _index().closure(asked, by_name=False):
                    reply.all_extension_numbers_response.base_type_name = asked
                else:
                    _fail(reply, grpc.StatusCode.NOT_FOUND, "no such message here")
            case "file_containing_extension":
                _fail(reply, grpc.StatusCode.NOT_FOUND, "there are no extensions here")
            case _:
                _fail(reply, grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        return reply


async def _next(requests: AsyncIterator[Any]) -> Any | None:
    async for request in requests:
        return request
    return None


def _fail(reply: Any, code: grpc.StatusCode, message: str) -> None:
    reply.error_response.error_code = code.value[0]
    reply.error_response.error_message = message


class _Index:
    """Which file defines a symbol, and what that file imports."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._files = {file.name: file for file in files}
        self._home = {name: file.name for file in self._files.values() for name in _names(file)}

    def closure(self, asked: str, *, by_name: bool) -> list[bytes]:
        """The file of this name, or of this symbol, and all that it imports; empty: no such."""
        # Tools write a method as pkg.Service.Method, pkg.Service/Method or /pkg.Service/Method.
        symbol = asked.lstrip("/.").replace("/", ".")
        first = asked if by_name else self._home.get(symbol, "")
        names = [first] if first in self._files else []
        for name in names:
            names += [each for each in self._files[name].dependency if each not in names]
        return [self._files[name].SerializeToString() for name in names]


@cache
def _index() -> _Index:
    return _Index([*smg_proto.descriptor_set().file, *standard.files()])


def _names(file: FileDescriptorProto) -> Iterator[str]:
    """The full name of everything that a file defines."""
    prefix = f"{file.package}." if file.package else ""
    for service in file.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)
    for message in file.message_type:
        yield from _names_in_message(message, prefix)
    for enum in file.enum_type:
        yield from _names_in_enum(enum, prefix)


def _names_in_message(message: Any, prefix: str) -> Iterator[str]:
    yield prefix + message.name
    inner = f"{prefix}{message.name}."
    yield from (inner + each.name for each in (*message.field, *message.oneof_decl))
    for nested in message.nested_type:
        yield from _names_in_message(nested, inner)
    for enum in message.enum_type:
        yield from _names_in_enum(enum, inner)


def _names_in_enum(enum: Any, prefix: str) -> Iterator[str]:
    yield prefix + enum.name
    for value in enum.value:
        # A value is a sibling of its enum in protobuf's own scopes; people write it as a member.
        yield prefix + value.name
        yield f"{prefix}{enum.name}.{value.name}"
