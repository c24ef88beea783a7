"""grpc.reflection v1 and v1alpha, for the descriptors that this package ships.

protobuf's own descriptor pool has neither comments nor method names, and its JSON names differ from
those of other languages. The shipped descriptor set has all three.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cache
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToJson, Parse

import smg_proto
from smg_proto._descriptors import declarations
from smg_proto._standard import message_class, standard_files

# The two versions differ only in their names.
SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

_Request = message_class("grpc.reflection.v1.ServerReflectionRequest")
_Response = message_class("grpc.reflection.v1.ServerReflectionResponse")


class Reflection:
    """Describes a server's services and all symbols that they use."""

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
        """End the calls of clients that keep them open for later requests."""
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
                name = getattr(request, kind)
                files = _index().closure(name, by_name=kind == "file_by_filename")
                if files:
                    reply.file_descriptor_response.file_descriptor_proto.extend(files)
                else:
                    _fail(reply, grpc.StatusCode.NOT_FOUND, "unknown file or symbol")
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                if _index().closure(name, by_name=False):
                    reply.all_extension_numbers_response.base_type_name = name
                else:
                    _fail(reply, grpc.StatusCode.NOT_FOUND, "unknown message")
            case "file_containing_extension":
                _fail(reply, grpc.StatusCode.NOT_FOUND, "unknown extension: there are none")
            case _:
                _fail(reply, grpc.StatusCode.INVALID_ARGUMENT, "empty request")
        return reply


async def _next(requests: AsyncIterator[Any]) -> Any | None:
    async for request in requests:
        return request
    return None


def _fail(reply: Any, code: grpc.StatusCode, message: str) -> None:
    reply.error_response.error_code = code.value[0]
    reply.error_response.error_message = message


class _Index:
    """Finds the file that declares a symbol, and the files that it imports."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._files = {file.name: file for file in files}
        self._data = {name: file.SerializeToString() for name, file in self._files.items()}
        self._home = {name: file.name for file in self._files.values() for name in _symbols(file)}

    def closure(self, name: str, *, by_name: bool) -> list[bytes]:
        """The file of this name or with this symbol, and its imports. Empty if there is none."""
        # Tools write a method as pkg.Service.Method, pkg.Service/Method or /pkg.Service/Method.
        symbol = name.lstrip("/.").replace("/", ".")
        first = name if by_name else self._home.get(symbol, "")
        if first not in self._files:
            return []
        names: dict[str, None] = {}
        self._collect(first, names)
        return [self._data[name] for name in reversed(names)]

    def _collect(self, name: str, names: dict[str, None]) -> None:
        """Add a file after its imports. In reverse order, it precedes them."""
        for each in self._files[name].dependency:
            if each not in names:
                self._collect(each, names)
        names[name] = None


@cache
def _index() -> _Index:
    ours = smg_proto.descriptor_set().file
    known = {file.name for file in ours}
    others = [file for file in standard_files() if file.name not in known]
    return _Index([*ours, *map(_with_json_names, (*others, _v1alpha(others)))])


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """The full name of everything that a file declares."""
    for each in declarations(file):
        if each.kind != "file":
            yield each.name
        if each.kind == "value":
            # By protobuf's scoping rules, a value is a sibling of its enum.
            enum, _, value = each.name.rpartition(".")
            yield f"{enum.rpartition('.')[0]}.{value}".lstrip(".")


def _v1alpha(files: Iterable[FileDescriptorProto]) -> FileDescriptorProto:
    """The v1alpha file of reflection, which differs only in its package."""
    (v1,) = (file for file in files if file.package == "grpc.reflection.v1")
    text = MessageToJson(v1).replace("grpc.reflection.v1", "grpc.reflection.v1alpha")
    return Parse(
        text.replace("grpc/reflection/v1/", "grpc/reflection/v1alpha/"), FileDescriptorProto()
    )


def _with_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """Add the JSON names that protobuf derives, which clients of reflection expect."""
    for each in declarations(file):
        if each.kind == "field":
            first, *rest = each.proto.name.split("_")
            each.proto.json_name = first + "".join(word[:1].upper() + word[1:] for word in rest)
    return file
