"""Where the server is and how to reach it: address, TLS, credentials, channel options."""

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc

from smg_proto import __version__
from smg_proto.vllm.checks import whole
from smg_proto.vllm.errors import VLLMGrpcValidationError
from smg_proto.vllm.options import NOT_GIVEN, NotGiven, Timeout

Token: TypeAlias = str | Callable[[], str]
AsyncToken: TypeAlias = Token | Callable[[], Awaitable[str]]
Pem: TypeAlias = bytes | str | os.PathLike[str]
ChannelOptions: TypeAlias = Mapping[str, object] | Sequence[tuple[str, object]]

_LOCAL = ("localhost", "127.", "[::1]", "unix:", "unix-abstract:")


@dataclass(frozen=True, slots=True)
class Address:
    """A target that is ready to be connected to. Its repr shows no secret."""

    target: str
    secure: bool
    options: tuple[tuple[str, object], ...] = field(default=(), repr=False)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    def channel(self) -> grpc.Channel:
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options)
        return grpc.secure_channel(self.target, self.credentials, self.options)

    def aio_channel(self) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, self.options)


def address(
    host: str | None,
    port: int | None,
    *,
    target: str | None,
    secure: bool | None,
    ca_certificate: Pem | None,
    client_certificate: Pem | None,
    client_key: Pem | None,
    server_name: str | None,
    max_send_message_length: int,
    max_receive_message_length: int,
    channel_options: ChannelOptions | None,
) -> Address:
    """Arguments first, then the environment, then the defaults."""
    if target is not None:
        if host is not None or port is not None:
            raise VLLMGrpcValidationError("target", "give either target, or host and port")
        where = target
    else:
        host = host or os.environ.get("VLLM_GRPC_HOST") or "localhost"
        if ":" in host and not host.startswith("["):
            if host.count(":") == 1:
                raise VLLMGrpcValidationError("host", "give the port as port=, or use target=")
            host = f"[{host}]"  # an IPv6 address
        port = port if port is not None else _env_port()
        whole("port", port, 1, 65536, "must be a number from 1 to 65535")
        where = f"{host}:{port}"
    tls = {
        "ca_certificate": ca_certificate,
        "client_certificate": client_certificate,
        "client_key": client_key,
        "server_name": server_name,
    }
    given = [name for name, value in tls.items() if value is not None]
    if secure is None:
        secure = bool(given) or _env_secure(where.endswith(":443"))
    elif not secure and given:
        raise VLLMGrpcValidationError(given[0], "has no use with secure=False")
    if (client_certificate is None) != (client_key is None):
        raise VLLMGrpcValidationError("client_certificate", "needs client_key, and the reverse")
    # No keepalive: servers before vLLM 0.33 end calls of clients that ping more than every 300 s.
    options: dict[str, object] = {
        "grpc.max_send_message_length": max_send_message_length,
        "grpc.max_receive_message_length": max_receive_message_length,
        "grpc.primary_user_agent": f"smg-proto/{__version__}",
        # gRPC's own wait of up to two minutes would outlast our retries.
        "grpc.initial_reconnect_backoff_ms": 250,
        "grpc.max_reconnect_backoff_ms": 8000,
    }
    credentials = None
    if secure:
        credentials = grpc.ssl_channel_credentials(
            _pem("ca_certificate", ca_certificate),
            _pem("client_key", client_key),
            _pem("client_certificate", client_certificate),
        )
        if server_name is not None:
            options["grpc.ssl_target_name_override"] = server_name
    options.update(dict(channel_options or ()))
    return Address(where, secure, tuple(options.items()), credentials)


def check_token(token: object, where: Address | None, *, may_await: bool) -> None:
    """A token must be one, and must not cross a network in clear text."""
    if token is None:
        return
    if isinstance(token, str):
        check_token_value(token)
    elif not callable(token):
        raise VLLMGrpcValidationError("token", "must be a string or a function that returns one")
    elif inspect.iscoroutinefunction(token) and not may_await:
        raise VLLMGrpcValidationError("token", "a coroutine function needs the async client")
    if where is not None and not where.secure and not where.target.startswith(_LOCAL):
        raise VLLMGrpcValidationError(
            "token", "would be sent in clear text; use secure=True (metadata= sends it regardless)"
        )


def check_token_value(token: object) -> str:
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise VLLMGrpcValidationError("token", "must be printable ASCII and not empty")
    return token


def default_timeout(given: float | Timeout | NotGiven | None) -> Timeout:
    if given is not NOT_GIVEN:
        return Timeout.of(given)
    text = os.environ.get("VLLM_GRPC_TIMEOUT") or "60.0"
    try:
        return Timeout.of(float(text))
    except (ValueError, VLLMGrpcValidationError):
        raise VLLMGrpcValidationError(
            "VLLM_GRPC_TIMEOUT", "must be a number of seconds above 0"
        ) from None


def default_token(given: AsyncToken | None) -> AsyncToken | None:
    return given if given is not None else os.environ.get("VLLM_GRPC_TOKEN") or None


def _env_port() -> int:
    text = os.environ.get("VLLM_GRPC_PORT") or "9000"
    if not text.isdecimal():
        raise VLLMGrpcValidationError("VLLM_GRPC_PORT", "must be a number from 1 to 65535")
    return int(text)


def _env_secure(default: bool) -> bool:
    text = os.environ.get("VLLM_GRPC_SECURE", "").lower()
    if text in ("", "true", "1", "yes", "false", "0", "no"):
        return text in ("true", "1", "yes") if text else default
    raise VLLMGrpcValidationError("VLLM_GRPC_SECURE", "must be true or false")


def _pem(name: str, value: Pem | None) -> bytes | None:
    """The content of a certificate or key, given as such or as a file."""
    if value is None:
        return None
    if not isinstance(value, bytes):
        try:
            value = Path(value).read_bytes()
        except OSError as error:
            raise VLLMGrpcValidationError(name, f"cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in value:
        raise VLLMGrpcValidationError(name, "is not in PEM form")
    return value
