"""The contract of a running server, by reflection, and its health."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from smg_proto._standard import message_class
from smg_proto.compat._contract import Contract
from smg_proto.compat._files import ContractError

# Newest first; grpc's own Python servers offer v1alpha alone.
_REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_Question = message_class("grpc.reflection.v1.ServerReflectionRequest")
_Answer = message_class("grpc.reflection.v1.ServerReflectionResponse")  # of v1alpha just as well
_HEALTH = "grpc.health.v1.Health"
_HealthRequest = message_class("grpc.health.v1.HealthCheckRequest")
_HealthResponse = message_class("grpc.health.v1.HealthCheckResponse")


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
        for answer in self._ask([_Question(file_containing_symbol=name) for name in services]):
            for data in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(data)
                found[file.name] = file
        return Contract(FileDescriptorSet(file=found.values()), f"grpc://{self.address}")

    def services(self) -> list[str]:
        """The names of the services that the server offers, the standard ones among them."""
        (answer,) = self._ask([_Question(list_services="*")])
        return sorted(service.name for service in answer.list_services_response.service)

    def health(self) -> str | None:
        """SERVING, NOT_SERVING, …; None where the server has no health service."""
        call = self._channel.unary_unary(
            f"/{_HEALTH}/Check",
            request_serializer=_serialize,
            response_deserializer=_HealthResponse.FromString,
        )
        try:
            answer: Any = call(_HealthRequest(), **self._call())
        except grpc.RpcError as error:
            if _code(error) == grpc.StatusCode.UNIMPLEMENTED:
                return None
            if _code(error) == grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise self._unreachable(error) from error
        states = _HealthResponse.DESCRIPTOR.enum_types_by_name["ServingStatus"].values_by_number
        return states[answer.status].name if answer.status in states else str(answer.status)

    def _ask(self, questions: Sequence[Any]) -> list[Any]:
        """The answers to these questions, from whichever reflection the server has."""
        for service in _REFLECTION:
            call = self._channel.stream_stream(
                f"/{service}/ServerReflectionInfo",
                request_serializer=_serialize,
                response_deserializer=_Answer.FromString,
            )
            try:
                answers: list[Any] = list(call(iter(questions), **self._call()))
            except grpc.RpcError as error:
                if _code(error) == grpc.StatusCode.UNIMPLEMENTED:
                    continue
                raise self._unreachable(error) from error
            for answer in answers:
                if answer.HasField("error_response"):
                    text = answer.error_response.error_message
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
