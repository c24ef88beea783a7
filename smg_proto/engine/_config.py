"""Connection settings, and their checks."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from smg_proto._channel import (
    IN_CLEAR_TEXT,
    Address,
    ChannelOptions,
    Checks,
    Metadata,
    MetadataLike,
    Pem,
    address,
)
from smg_proto.engine._errors import ParameterError

if TYPE_CHECKING:
    from smg_proto._tokens.decoder import TokenDecoder

CHECKS = Checks(ParameterError)


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked arguments of connect(). The repr shows no secret."""

    address: Address
    contract: str | None
    timeout: float | None
    metadata: Metadata = field(repr=False)
    decoder: "TokenDecoder | Literal['server'] | None" = None

    @property
    def target(self) -> str:
        return self.address.target


def settings(
    target: str,
    *,
    contract: str | None,
    timeout: float | None,
    token: str | None,
    metadata: MetadataLike | None,
    secure: bool | None,
    ca_certificate: Pem | None,
    client_certificate: Pem | None,
    client_key: Pem | None,
    server_name: str | None,
    max_message_bytes: int | None,
    channel_options: ChannelOptions | None,
    decoder: "TokenDecoder | Literal['server'] | None",
) -> Settings:
    """Check the arguments of connect(). ParameterError: one is wrong."""
    target = check_target(target)
    pairs = CHECKS.metadata(metadata)
    size = -1 if max_message_bytes is None else max_message_bytes
    if isinstance(cast(Any, size), bool) or not isinstance(cast(Any, size), int) or size < -1:
        raise ParameterError("max_message_bytes", "must be a number of bytes, or None for no limit")
    options: dict[str, object] = {
        "grpc.max_send_message_length": size,
        "grpc.max_receive_message_length": size,
    }
    credentials = CHECKS.credentials(
        secure,
        options,
        ca_certificate=ca_certificate,
        client_certificate=client_certificate,
        client_key=client_key,
        server_name=server_name,
    )
    where = address(target, credentials, options, CHECKS.channel_options(channel_options))
    if token is not None:
        if not isinstance(cast(Any, token), str) or not re.fullmatch(r"[!-~]+", token):
            raise ParameterError("token", "must be printable ASCII without spaces")
        if not where.is_private:
            raise ParameterError("token", IN_CLEAR_TEXT)
        pairs = (
            *(pair for pair in pairs if pair[0] != "authorization"),
            ("authorization", f"Bearer {token}"),
        )
    if decoder not in ("server", None) and not hasattr(decoder, "decode"):
        raise ParameterError("decoder", 'must be a TokenDecoder, "server" or None')
    return Settings(where, contract, CHECKS.seconds("timeout", timeout), pairs, decoder)


def check_target(target: object) -> str:
    """Check a target: HOST:PORT, [IPV6]:PORT, unix:PATH, or another gRPC target with a scheme."""
    if not isinstance(target, str):
        raise ParameterError("target", "must be a string; use HOST:PORT")
    if re.fullmatch(r"(unix|unix-abstract|dns|ipv4|ipv6|xds|passthrough):[!-~]+", target):
        return target
    if not target.isprintable() or " " in target or "@" in target or "://" in target:
        raise ParameterError("target", "not an address; use HOST:PORT")
    host, colon, port = target.rpartition(":")
    if not colon or not host or target.endswith("]"):
        raise ParameterError("target", "missing host or port; use HOST:PORT")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ParameterError("target", "the port must be a number from 1 to 65535")
    if ":" in host and not re.fullmatch(r"\[.+\]", host):
        raise ParameterError("target", "an IPv6 address needs brackets; use [HOST]:PORT")
    return target
