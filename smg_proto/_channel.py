"""Addresses and channels of clients, and checks of their arguments."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import grpc

from smg_proto import __version__
from smg_proto._target import is_loopback

MAX_SECONDS: Final = 1e9  # about 31 years; clocks and gRPC fail on more
IN_CLEAR_TEXT: Final = (
    "would be sent in clear text; use secure=True (metadata= sends it regardless)"
)
LONE_SURROGATE: Final = "has half of a character (a lone surrogate), which cannot be sent"
_NOT_PAIRS: Final = "must be a mapping or a list of pairs"
_LISTS: Final = (list, tuple)

MetadataLike: TypeAlias = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
Pem: TypeAlias = bytes | str | os.PathLike[str]
ChannelOptions: TypeAlias = Mapping[str, object] | Sequence[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class Address:
    """A target with its options and credentials. Its repr shows no secrets."""

    target: str
    options: tuple[tuple[str, object], ...] = field(default=(), repr=False)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    @property
    def secure(self) -> bool:
        return self.credentials is not None

    @property
    def is_private(self) -> bool:
        """Whether others on the network cannot read what is sent to the target."""
        return self.secure or is_loopback(self.target)

    def channel(self) -> grpc.Channel:
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options)
        return grpc.secure_channel(self.target, self.credentials, self.options)

    def async_channel(self) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, self.options)


def address(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    defaults: Mapping[str, object],
    given: Mapping[str, object],
) -> Address:
    """An address with the client's default channel options, and the given ones, which win."""
    options = {"grpc.primary_user_agent": f"smg-proto/{__version__}", **defaults}
    if is_loopback(target):
        options["grpc.enable_http_proxy"] = 0  # a proxy cannot reach this machine's loopback
    return Address(target, tuple({**options, **given}.items()), credentials)


def _is_int32(value: object) -> bool:
    return isinstance(value, int) and -(2**31) <= value < 2**31


def mapping(value: object) -> Mapping[Any, Any] | None:
    """The value, if it is a mapping."""
    return cast(Any, value) if isinstance(value, Mapping) else None


def sequence(value: object) -> Sequence[Any] | None:
    """The value, if it is a sequence other than text and bytes."""
    if isinstance(value, _LISTS):  # the usual case, and a fast check
        return cast("Sequence[Any]", value)
    if isinstance(value, str | bytes | bytearray):
        return None
    if not isinstance(value, Sequence) and hasattr(value, "tolist"):  # an array
        value = cast(Any, value).tolist()
    return cast(Any, value) if isinstance(value, Sequence) else None


def json_object(content: str) -> dict[str, Any] | None:
    """The JSON object of a text, if it is one."""
    try:
        found = mapping(json.loads(content))
    except (ValueError, RecursionError):
        return None
    return None if found is None else dict(found)


class Checks:
    """Checks of arguments, which may not have the type of their annotation.

    invalid: makes the error from a parameter's name and what is wrong with it.
    """

    def __init__(self, invalid: Callable[[str, str], Exception]) -> None:
        self._invalid = invalid

    def text(self, param: str, value: object) -> str:
        """A string that is not empty and can be encoded."""
        if not isinstance(value, str) or not value:
            raise self._invalid(param, "must be a string and not empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._invalid(param, LONE_SURROGATE) from None
        return value

    def flag(self, param: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise self._invalid(param, "must be True or False")
        return value

    def seconds(self, param: str, value: object) -> float | None:
        """A time limit: a number of seconds above 0, or None."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._invalid(param, f"must be seconds or None, not {type(value).__name__}")
        if not 0 < value <= MAX_SECONDS:
            raise self._invalid(
                param, f"must be above 0 s and at most {MAX_SECONDS:g} s; None means no limit"
            )
        return float(value)

    def secret(self, param: str, value: object) -> str:
        """A value for an authorization header."""
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            value = ""
        if not value:
            raise self._invalid(param, "must be printable ASCII and not empty")
        return value

    def metadata(self, value: object, param: str = "metadata") -> Metadata:
        """gRPC metadata as pairs. Errors do not show values, which may be secrets."""
        if not value and value in ((), [], {}, None):
            return ()
        by_name = mapping(value)
        items = list(by_name.items()) if by_name is not None else sequence(value)
        if items is None:
            raise self._invalid(param, _NOT_PAIRS)
        checked: list[tuple[str, str | bytes]] = []
        for item in items:
            pair = sequence(item)
            if pair is None or len(pair) != 2 or not isinstance(pair[0], str):
                raise self._invalid(param, _NOT_PAIRS)
            key, content = pair[0].lower(), pair[1]
            if not re.fullmatch(r"[0-9a-z_.-]+", key) or key.startswith("grpc-"):
                raise self._invalid(
                    param, f"invalid name {key!r}: use letters, digits, _ . - and not grpc-…"
                )
            if key.endswith("-bin") != isinstance(content, bytes):
                raise self._invalid(param, f"{key}: must be bytes if, and only if, it ends in -bin")
            if isinstance(content, str) and not re.fullmatch(r"[ -~]*", content):
                raise self._invalid(param, f"{key}: must be printable ASCII")
            if not isinstance(content, str | bytes):
                raise self._invalid(param, f"{key}: must be a string")
            checked.append((key, content))
        return tuple(checked)

    def channel_options(self, given: object, param: str = "channel_options") -> dict[str, object]:
        """gRPC's channel options by name."""
        by_name = mapping(given)
        items = list(by_name.items()) if by_name is not None else sequence(given or ())
        options: dict[Any, object] = {}
        try:
            options.update(items or ())
        except (TypeError, ValueError):
            items = None
        if items is None or not all(isinstance(name, str) for name in options):
            raise self._invalid(param, _NOT_PAIRS)
        for name, value in options.items():
            if isinstance(value, str):
                self.text(f"{param}.{name}", value or "-")
            # gRPC takes the integer value of any other object as the address of a C structure.
            elif not isinstance(value, bytes) and not _is_int32(value):
                raise self._invalid(
                    f"{param}.{name}", "must be a string or a whole number of 32 bits"
                )
        return options

    def credentials(
        self,
        secure: bool | None,
        options: dict[str, object],
        *,
        ca_certificate: Pem | None = None,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        server_name: str | None = None,
    ) -> grpc.ChannelCredentials | None:
        """TLS, or None for clear text. If `secure` is None, any other argument enables TLS.

        Adds the name of the server to the options.
        """
        tls = {
            "ca_certificate": ca_certificate,
            "client_certificate": client_certificate,
            "client_key": client_key,
            "server_name": server_name,
        }
        given = [name for name, value in tls.items() if value is not None]
        if secure is None:
            secure = bool(given)
        elif not self.flag("secure", secure) and given:
            raise self._invalid(given[0], "cannot be used with secure=False")
        if (client_certificate is None) != (client_key is None):
            raise self._invalid("client_certificate", "requires client_key, and vice versa")
        if not secure:
            return None
        if server_name is not None:
            options["grpc.ssl_target_name_override"] = self.text("server_name", server_name)
        return grpc.ssl_channel_credentials(
            self._pem("ca_certificate", ca_certificate),
            self._pem("client_key", client_key),
            self._pem("client_certificate", client_certificate),
        )

    def _pem(self, param: str, value: Pem | None) -> bytes | None:
        """The content of a certificate or key, given as bytes or as a path."""
        if value is None:
            return None
        if not isinstance(value, bytes):
            try:
                value = Path(value).read_bytes()
            except OSError as error:
                raise self._invalid(param, f"cannot be read: {error.strerror}") from None
            except (TypeError, ValueError):
                raise self._invalid(param, "must be PEM bytes or a path") from None
        if b"-----BEGIN " not in value:
            raise self._invalid(param, "is not in PEM format")
        return value
