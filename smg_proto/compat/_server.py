"""The contract of a running server, read by reflection, and its health."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from smg_proto._channel import Address
from smg_proto._probe._sync.ask import ask
from smg_proto._standard import message_class
from smg_proto.compat._contract import Contract
from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import MAX_REPLY_BYTES, size
from smg_proto.compat._reflection import SERVICES, Conversation

_HEALTH = "grpc.health.v1.Health"
_HealthRequest = message_class("grpc.health.v1.HealthCheckRequest")
_HealthResponse = message_class("grpc.health.v1.HealthCheckResponse")

T = TypeVar("T")
# The server was not reached, did not reply in time, or rejected the credentials.
_NO_REPLY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}


class NoReflection(ContractError):
    """A server that replies, but has no reflection service."""


@dataclass(frozen=True)
class Access:
    """How to reach a server."""

    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    metadata: Sequence[tuple[str, str | bytes]] = ()
    timeout: float = 10.0

    def credentials(self) -> grpc.ChannelCredentials | None:
        if not (self.tls or self.ca or self.cert or self.key):
            return None
        if (self.cert is None) != (self.key is None):
            raise ContractError("incomplete client certificate: give both --cert and --key")
        ca, key, cert = (_read(path) for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass
class Server:
    """A running server. ContractError if it cannot be reached or has no reflection."""

    address: str
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not (host and host.isprintable() and port.isascii() and port.isdecimal()):
            raise ContractError(f"invalid address {self.address!r}: use HOST:PORT")
        credentials = self.access.credentials()
        options = (("grpc.max_receive_message_length", MAX_REPLY_BYTES),)
        self._channel = Address(self.address, options, credentials).channel()

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
        """The contract that the server's reflection describes."""

        def read(conversation: Conversation) -> Contract:
            services = [n for n in conversation.services() if not n.startswith("grpc.")]
            if not services:
                raise ContractError(f"{self.address}: its reflection service lists no services")
            files = conversation.files(services)
            return Contract(files, f"grpc://{self.address}", partial=True)

        return self._reflect(read)

    def services(self) -> list[str]:
        """The names of the services that the server offers, including standard ones."""
        return self._reflect(Conversation.services)

    def health(self) -> str | None:
        """SERVING, NOT_SERVING, …; None if the server has no health service."""
        call = self._channel.unary_unary(
            f"/{_HEALTH}/Check",
            request_serializer=_serialize,
            response_deserializer=_HealthResponse.FromString,
        )
        try:
            reply: Any = call(_HealthRequest(), **self._call())
        except grpc.RpcError as error:
            if _code(error) == grpc.StatusCode.UNIMPLEMENTED:
                return None
            if _code(error) == grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise self._unreachable(_code(error)) from error
        states = _HealthResponse.DESCRIPTOR.enum_types_by_name["ServingStatus"].values_by_number
        return states[reply.status].name if reply.status in states else str(reply.status)

    def call(self, path: str, data: bytes) -> tuple[grpc.StatusCode, bytes]:
        """Call a method with these bytes as the request; its status and first response."""
        reply = ask(self._channel, path, data, **self._call())
        code = grpc.StatusCode[reply.code]
        if code in _NO_REPLY:
            raise self._unreachable(code)
        return code, reply.data

    def _reflect(self, read: Callable[[Conversation], T]) -> T:
        """Read from either version of reflection; NoReflection if the server has none."""
        for service in SERVICES:
            conversation = Conversation(self._channel, service, self.address, self._call())
            try:
                return read(conversation)
            except grpc.RpcError as error:
                if _code(error) != grpc.StatusCode.UNIMPLEMENTED:
                    raise self._unreachable(_code(error)) from error
            finally:
                conversation.close()
        raise NoReflection(
            f"{self.address}: the server has no reflection; enable it "
            "(grpcio-reflection for a Python server), or compare its protos or wheel instead"
        )

    def _call(self) -> dict[str, Any]:
        return {"timeout": self.access.timeout, "metadata": list(self.access.metadata)}

    def _unreachable(self, code: grpc.StatusCode | None) -> ContractError:
        match code:
            case grpc.StatusCode.UNAVAILABLE:
                what = (
                    "cannot be reached; check that it runs, and that TLS is on or off on both sides"
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                what = f"did not reply within {self.access.timeout:g} s"
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                what = "denied access; give credentials with --metadata or --cert and --key"
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                what = f"is overloaded, or sent a message of more than {size(MAX_REPLY_BYTES)}"
            case _:
                what = f"returned {code.name if code else 'an error'} for reflection or health"
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
