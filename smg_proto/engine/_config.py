"""Where a server is, and how it is reached."""

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc

from smg_proto import __version__
from smg_proto.engine._errors import ParameterError

MAX_SECONDS = 1e9  # some 31 years; beyond it, gRPC's own arithmetic gives out

Metadata: TypeAlias = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]
Pem: TypeAlias = bytes | str | os.PathLike[str]
Pairs: TypeAlias = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """A server that is ready to be called. The repr shows no secret."""

    target: str
    contract: str | None
    timeout: float | None
    metadata: Pairs = field(repr=False)
    options: tuple[tuple[str, object], ...] = field(repr=False)
    credentials: grpc.ChannelCredentials | None = field(repr=False)

    def channel(self) -> grpc.Channel:
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options)
        return grpc.secure_channel(self.target, self.credentials, self.options)

    def async_channel(self) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, self.options)


def settings(
    target: str,
    *,
    contract: str | None,
    timeout: float | None,
    token: str | None,
    metadata: Metadata | None,
    secure: bool | None,
    ca_certificate: Pem | None,
    client_certificate: Pem | None,
    client_key: Pem | None,
    server_name: str | None,
    max_message_bytes: int | None,
    channel_options: Mapping[str, object] | None,
) -> Settings:
    """Check what connect() was given. ParameterError: it cannot be."""
    where = check_target(target)
    pairs = check_metadata(metadata)
    if token is not None:
        if not isinstance(cast(Any, token), str) or not re.fullmatch(r"[!-~]+", token):
            raise ParameterError("token", "must be printable ASCII without spaces")
        pairs = (
            *(p for p in pairs if p[0] != "authorization"),
            ("authorization", f"Bearer {token}"),
        )
    tls = {
        "ca_certificate": ca_certificate,
        "client_certificate": client_certificate,
        "client_key": client_key,
        "server_name": server_name,
    }
    given = [name for name, value in tls.items() if value is not None]
    if secure is None:
        secure = bool(given)
    elif not secure and given:
        raise ParameterError(given[0], "has no use with secure=False")
    if (client_certificate is None) != (client_key is None):
        raise ParameterError("client_certificate", "needs client_key, and the reverse")
    size = -1 if max_message_bytes is None else max_message_bytes
    if isinstance(cast(Any, size), bool) or not isinstance(cast(Any, size), int) or size < -1:
        raise ParameterError("max_message_bytes", "must be a number of bytes; None: no limit")
    options: dict[str, object] = {
        "grpc.max_send_message_length": size,
        "grpc.max_receive_message_length": size,
        "grpc.primary_user_agent": f"smg-proto/{__version__}",
    }
    if is_loopback(where):
        options["grpc.enable_http_proxy"] = 0  # no other machine can reach what is meant
    credentials = None
    if secure:
        credentials = grpc.ssl_channel_credentials(
            _pem("ca_certificate", ca_certificate),
            _pem("client_key", client_key),
            _pem("client_certificate", client_certificate),
        )
        if server_name:
            options["grpc.ssl_target_name_override"] = server_name
    options |= dict(channel_options or {})
    limit = check_seconds("timeout", timeout)
    return Settings(where, contract, limit, pairs, tuple(options.items()), credentials)


def mapping(value: object) -> Mapping[Any, Any] | None:
    """The value, if it is a mapping."""
    return cast(Any, value) if isinstance(value, Mapping) else None


def sequence(value: object) -> Sequence[Any] | None:
    """The value, if it is a sequence of things: text and bytes are one thing."""
    one = isinstance(value, str | bytes | bytearray)
    return cast(Any, value) if isinstance(value, Sequence) and not one else None


def check_target(target: object) -> str:
    """HOST:PORT, [IPV6]:PORT, unix:PATH, or another target of gRPC's with a scheme."""
    if not isinstance(target, str):
        raise ParameterError("target", "must be a string; use HOST:PORT")
    if re.fullmatch(r"(unix|unix-abstract|dns|ipv4|ipv6|xds|passthrough):[!-~]+", target):
        return target
    if not target.isprintable() or " " in target or "@" in target or "://" in target:
        raise ParameterError("target", "is no address; use HOST:PORT")
    host, colon, port = target.rpartition(":")
    if not colon or not host or target.endswith("]"):
        raise ParameterError("target", "has no host or no port; use HOST:PORT")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ParameterError("target", "the port must be a number from 1 to 65535")
    if ":" in host and not re.fullmatch(r"\[.+\]", host):
        raise ParameterError("target", "an IPv6 address needs brackets; use [HOST]:PORT")
    return target


def check_seconds(parameter: str, value: object) -> float | None:
    """A time limit: a number of seconds above 0; None is no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParameterError(parameter, f"must be seconds or None, not {type(value).__name__}")
    if not 0 < value <= MAX_SECONDS:
        raise ParameterError(parameter, f"must be above 0 and at most {MAX_SECONDS:g} seconds")
    return float(value)


def check_metadata(value: object) -> Pairs:
    """gRPC metadata as pairs. Values are never shown: they may be secrets."""
    if value is None:
        return ()
    by_key = mapping(value)
    items = sequence(value) if by_key is None else list(by_key.items())
    if items is None:
        raise ParameterError("metadata", "must be a mapping or a list of pairs")
    pairs: list[tuple[str, str | bytes]] = []
    for item in items:
        pair = sequence(item)
        if pair is None or len(pair) != 2:
            raise ParameterError("metadata", "must be a mapping or a list of pairs")
        key, content = pair
        if not isinstance(key, str) or not re.fullmatch(r"[0-9a-zA-Z_.-]+", key):
            raise ParameterError("metadata", "a key has letters, digits, _ . and - alone")
        key = key.lower()
        if key.startswith("grpc-"):
            raise ParameterError("metadata", f"{key}: gRPC keeps grpc-… for itself")
        if key.endswith("-bin"):
            if not isinstance(content, bytes):
                raise ParameterError("metadata", f"{key}: must be bytes, as it ends with -bin")
        elif not isinstance(content, str) or not re.fullmatch(r"[ -~]*", content):
            raise ParameterError("metadata", f"{key}: must be printable ASCII")
        pairs.append((key, content))
    return tuple(pairs)


def is_loopback(target: str) -> bool:
    """Whether a target is on this machine: a name, an address, or a Unix socket."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pem(parameter: str, value: Pem | None) -> bytes | None:
    """A certificate or a key: its bytes, or the file that has it."""
    if value is None or isinstance(value, bytes):
        return value
    try:
        return Path(value).read_bytes()
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ParameterError(parameter, f"the file cannot be read: {reason}") from None
