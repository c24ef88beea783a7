"""The contract of a running server, by reflection, and its health.

The few messages of the two standard services are declared here, so that the base install suffices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from smg_proto.compat._contract import Contract
from smg_proto.compat._descriptors import ContractError

# Newest first; grpc's own Python servers offer v1alpha alone.
_REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_HEALTH = "grpc.health.v1.Health"
_HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
# Message: field, number, type. A type with a capital is another message; * is repeated.
_MESSAGES = {
    "ReflectionRequest": (("symbol", 4, "string"), ("list", 7, "string")),
    "ReflectionResponse": (("files", 4, "Files"), ("list", 6, "Services"), ("error", 7, "Error")),
    "Files": (("file", 1, "*bytes"),),
    "Services": (("service", 1, "*Service"),),
    "Service": (("name", 1, "string"),),
    "Error": (("code", 1, "int32"), ("message", 2, "string")),
    "HealthRequest": (("service", 1, "string"),),
    "HealthResponse": (("status", 1, "int32"),),
}


@dataclass(frozen=True)
class Access:
    """How to reach a server."""

    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    metadata: Sequence[tuple[str, str]] = ()
    timeout: float = 10.0

    def credentials(self) -> grpc.ChannelCredentials | None:
        if not (self.tls or self.ca or self.cert or self.key):
            return None
        if (self.cert is None) != (self.key is None):
            raise ContractError("a client certificate needs both its certificate and its key")
        ca, key, cert = (_read(path) for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass
class Server:
    """A running server. ContractError: it cannot be reached, or it has no reflection."""

    address: str
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise ContractError(f"{self.address!r}: write HOST:PORT")
        credentials = self.access.credentials()
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = (
            grpc.secure_channel(self.address, credentials, options)
            if credentials
            else grpc.insecure_channel(self.address, options)
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def contract(self) -> Contract:
        """What the server says that it serves."""
        services = [name for name in self.services() if not name.startswith("grpc.")]
        if not services:
            raise ContractError(f"{self.address}: its reflection lists no services")
        found: dict[str, FileDescriptorProto] = {}
        for answer in self._ask([{"symbol": name} for name in services]):
            for data in answer.files.file:
                file = FileDescriptorProto.FromString(data)
                found[file.name] = file
        return Contract(FileDescriptorSet(file=found.values()), f"grpc://{self.address}")

    def services(self) -> list[str]:
        """The names of the services that the server offers, the standard ones among them."""
        (answer,) = self._ask([{"list": "*"}])
        return sorted(service.name for service in answer.list.service)

    def health(self) -> str | None:
        """SERVING, NOT_SERVING, …; None where the server has no health service."""
        call = self._channel.unary_unary(
            f"/{_HEALTH}/Check",
            request_serializer=_serialize,
            response_deserializer=_class("HealthResponse").FromString,
        )
        request = _class("HealthRequest")()
        try:
            answer: Any = call(request, **self._call())
        except grpc.RpcError as error:
            if _code(error) == grpc.StatusCode.UNIMPLEMENTED:
                return None
            if _code(error) == grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise self._unreachable(error) from error
        number: int = answer.status
        return _HEALTH_STATES[number] if number < len(_HEALTH_STATES) else str(number)

    def _ask(self, questions: Sequence[dict[str, str]]) -> list[Any]:
        """The answers to these questions, from whichever reflection the server has."""
        for service in _REFLECTION:
            call = self._channel.stream_stream(
                f"/{service}/ServerReflectionInfo",
                request_serializer=_serialize,
                response_deserializer=_class("ReflectionResponse").FromString,
            )
            requests = iter([_class("ReflectionRequest")(**words) for words in questions])
            try:
                answers: list[Any] = list(call(requests, **self._call()))
            except grpc.RpcError as error:
                if _code(error) == grpc.StatusCode.UNIMPLEMENTED:
                    continue
                raise self._unreachable(error) from error
            for answer in answers:
                if answer.HasField("error"):
                    text = answer.error.message
                    raise ContractError(f"{self.address}: its reflection failed: {text}")
            return answers
        raise ContractError(
            f"{self.address}: the server has no reflection; switch it on there "
            "(grpcio-reflection for a Python server), or compare its protos or wheel instead"
        )

    def _call(self) -> dict[str, Any]:
        return {"timeout": self.access.timeout, "metadata": list(self.access.metadata)}

    def _unreachable(self, error: grpc.RpcError) -> ContractError:
        match _code(error):
            case grpc.StatusCode.UNAVAILABLE:
                what = "cannot be reached; is it up, and is TLS on or off on both sides?"
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                what = f"does not answer within {self.access.timeout:g} s"
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                what = "refuses us; give credentials with --metadata or --cert and --key"
            case code:
                what = f"answers {code.name if code else 'nothing'} to a question about itself"
        return ContractError(f"{self.address}: the server {what}")


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.Call) else None


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise ContractError(f"{path}: {error.strerror or error}") from error


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


@cache
def _class(name: str) -> type[Message]:
    pool = DescriptorPool()
    file = FileDescriptorProto(name="standard.proto", syntax="proto3", message_type=_declared())
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(name))


def _declared() -> Iterator[DescriptorProto]:
    for name, fields in _MESSAGES.items():
        message = DescriptorProto(name=name)
        oneof = name.startswith("Reflection")
        if oneof:
            message.oneof_decl.add(name="which")
        for field_name, number, kind in fields:
            bare = kind.lstrip("*")
            declared = message.field.add(name=field_name, number=number)
            declared.label = (
                FieldDescriptorProto.LABEL_REPEATED
                if kind != bare
                else FieldDescriptorProto.LABEL_OPTIONAL
            )
            if bare[0].isupper():
                declared.type = FieldDescriptorProto.TYPE_MESSAGE
                declared.type_name = f".{bare}"
            else:
                declared.type = FieldDescriptorProto.Type.Value(f"TYPE_{bare.upper()}")
            if oneof:
                declared.oneof_index = 0
        yield message
