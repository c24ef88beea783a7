"""Reads contracts from a server's reflection service. All replies are checked and limited."""

import queue
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from smg_proto._standard import message_class
from smg_proto.compat import _limits as limits
from smg_proto.compat._files import ContractError

# Newest first; grpc's own Python servers offer v1alpha alone.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
# v1alpha has the same messages.
_Request = message_class("grpc.reflection.v1.ServerReflectionRequest")
_Reply = message_class("grpc.reflection.v1.ServerReflectionResponse")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_MAX_NAME_LENGTH = 1_000


class Conversation:
    """One reflection stream. gRPC errors pass through; ContractError if a reply is invalid."""

    def __init__(
        self, channel: grpc.Channel, service: str, address: str, options: Mapping[str, Any]
    ) -> None:
        self._address = address
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._bytes = 0
        channels: Any = channel
        call: Any = channels.stream_stream(f"/{service}/ServerReflectionInfo")
        self._replies: Iterator[bytes] = call(iter(self._requests.get, None), **options)

    def close(self) -> None:
        self._requests.put(None)
        cancel: Callable[[], object] = getattr(self._replies, "cancel", lambda: None)
        cancel()

    def services(self) -> list[str]:
        """The names of the services that the server offers, including standard ones."""
        reply = self._request(list_services="*")
        self._expect(reply, "list_services_response", "the list of its services")
        listed = sorted({service.name for service in reply.list_services_response.service})
        if len(listed) > limits.MAX_SERVICES:
            raise self._invalid(f"lists more than {limits.MAX_SERVICES} services")
        for name in listed:
            if len(name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(name):
                raise self._invalid(f"lists a service with an invalid name: {name[:80]!r}")
        return listed

    def files(self, services: list[str]) -> FileDescriptorSet:
        """The files that declare these services, and all files that these import."""
        files: dict[str, FileDescriptorProto] = {}
        for name in services:
            self._add(files, self._request(file_containing_symbol=name), name)
            declared = (
                f"{file.package}.{service.name}".lstrip(".")
                for file in files.values()
                for service in file.service
            )
            if name not in declared:
                raise self._invalid(f"sends files that do not declare {name}")
        # Some servers send only the one file, without its imports.
        while missing := {
            str(name)
            for file in files.values()
            for name in file.dependency
            if name not in files and not name.startswith("google/protobuf/")
        }:
            for name in sorted(missing):
                self._add(files, self._request(file_by_filename=name), name)
                if name not in files:
                    raise self._invalid(f"sends other files instead of {name}")
        return FileDescriptorSet(file=files.values())

    def _request(self, **request: str) -> Any:
        self._requests.put(_Request(**request).SerializeToString())
        data = next(self._replies, None)
        if data is None:
            raise self._invalid("ended without a reply")
        self._bytes += len(data)
        if self._bytes > limits.MAX_REPLIES_BYTES:
            raise self._invalid(f"sends more than {limits.size(limits.MAX_REPLIES_BYTES)}")
        try:
            reply = _Reply.FromString(data)
        except (DecodeError, UnicodeDecodeError):
            raise self._invalid("sends a reply that cannot be parsed") from None
        if reply.HasField("error_response"):
            (subject,) = request.values()
            error = reply.error_response
            raise self._invalid(f"failed for {subject}: {error.error_message or error.error_code}")
        return reply

    def _add(self, files: dict[str, FileDescriptorProto], reply: Any, subject: str) -> None:
        self._expect(reply, "file_descriptor_response", f"the file of {subject}")
        for data in reply.file_descriptor_response.file_descriptor_proto:
            try:
                file = FileDescriptorProto.FromString(data)
            except (DecodeError, UnicodeDecodeError):
                raise self._invalid(f"sends a file for {subject} that cannot be parsed") from None
            if files.setdefault(str(file.name), file) != file:
                raise self._invalid(f"sends two different files named {file.name}")
            if len(files) > limits.MAX_SERVED_FILES:
                raise self._invalid(f"has more than {limits.MAX_SERVED_FILES} files")

    def _expect(self, reply: Any, kind: str, what: str) -> None:
        if not reply.HasField(kind):
            raise self._invalid(f"does not send {what}")

    def _invalid(self, what: str) -> ContractError:
        return ContractError(f"{self._address}: its reflection service {what}")
