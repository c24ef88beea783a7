"""A conversation with a server's reflection: one question, one answer that fits it, all bounded."""

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
_Question = message_class("grpc.reflection.v1.ServerReflectionRequest")
_Answer = message_class("grpc.reflection.v1.ServerReflectionResponse")  # of v1alpha just as well
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LONGEST_NAME = 1_000


class Conversation:
    """One stream of questions. Errors of gRPC pass through; ContractError: the answers are odd."""

    def __init__(
        self, channel: grpc.Channel, service: str, address: str, options: Mapping[str, Any]
    ) -> None:
        self._address = address
        self._questions: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._bytes = 0
        channels: Any = channel
        call: Any = channels.stream_stream(
            f"/{service}/ServerReflectionInfo",
            request_serializer=None,
            response_deserializer=None,
        )
        self._answers: Iterator[bytes] = call(iter(self._questions.get, None), **options)

    def close(self) -> None:
        self._questions.put(None)
        cancel: Callable[[], object] = getattr(self._answers, "cancel", lambda: None)
        cancel()

    def services(self) -> list[str]:
        """The names of the services that the server offers, the standard ones among them."""
        answer = self._ask(list_services="*")
        self._expect(answer, "list_services_response", "the list of its services")
        listed = sorted({service.name for service in answer.list_services_response.service})
        if len(listed) > limits.MAX_SERVICES:
            raise self._odd(f"lists more than {limits.MAX_SERVICES} services")
        for name in listed:
            if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
                raise self._odd(f"lists a service of the name {name[:80]!r}")
        return listed

    def files(self, services: list[str]) -> FileDescriptorSet:
        """The files that declare these services, and all that these import."""
        found: dict[str, FileDescriptorProto] = {}
        for name in services:
            self._add(found, self._ask(file_containing_symbol=name), name)
            declared = (
                f"{file.package}.{service.name}".lstrip(".")
                for file in found.values()
                for service in file.service
            )
            if name not in declared:
                raise self._odd(f"gives files that do not declare {name}")
        # Some servers answer with the one file alone.
        while missing := {
            str(name)
            for file in found.values()
            for name in file.dependency
            if name not in found and not name.startswith("google/protobuf/")
        }:
            for name in sorted(missing):
                self._add(found, self._ask(file_by_filename=name), name)
                if name not in found:
                    raise self._odd(f"gives other files in place of {name}")
        return FileDescriptorSet(file=found.values())

    def _ask(self, **question: str) -> Any:
        self._questions.put(_Question(**question).SerializeToString())
        data = next(self._answers, None)
        if data is None:
            raise self._odd("ended without an answer")
        self._bytes += len(data)
        if self._bytes > limits.MAX_REPLIES_BYTES:
            raise self._odd(f"sends more than {limits.size(limits.MAX_REPLIES_BYTES)}")
        try:
            answer = _Answer.FromString(data)
        except DecodeError:
            raise self._odd("sends an answer that cannot be parsed") from None
        if answer.HasField("error_response"):
            (asked,) = question.values()
            error = answer.error_response
            raise self._odd(f"failed for {asked}: {error.error_message or error.error_code}")
        return answer

    def _add(self, found: dict[str, FileDescriptorProto], answer: Any, asked: str) -> None:
        self._expect(answer, "file_descriptor_response", f"the file of {asked}")
        for data in answer.file_descriptor_response.file_descriptor_proto:
            try:
                file = FileDescriptorProto.FromString(data)
            except DecodeError:
                raise self._odd(f"sends a file for {asked} that cannot be parsed") from None
            if found.setdefault(str(file.name), file) != file:
                raise self._odd(f"sends two files of the name {file.name} that differ")
            if len(found) > limits.MAX_SERVED_FILES:
                raise self._odd(f"has more than {limits.MAX_SERVED_FILES} files")

    def _expect(self, answer: Any, kind: str, what: str) -> None:
        if not answer.HasField(kind):
            raise self._odd(f"answers something else than {what}")

    def _odd(self, what: str) -> ContractError:
        return ContractError(f"{self._address}: its reflection {what}")
