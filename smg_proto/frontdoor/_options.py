"""The options of a front door, and the checks that need no connection."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from yarl import URL

from smg_proto._http.headers import is_printable
from smg_proto._http.upstream import Timeouts


class OptionsError(Exception):
    """Invalid configuration. The message is one line, fit for a terminal."""


@dataclass(frozen=True)
class Tls:
    """The front door's certificate. With `client_ca`, clients need a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        encrypted = False

        def password() -> str:  # otherwise OpenSSL prompts at the terminal
            nonlocal encrypted
            encrypted = True
            return ""

        try:
            context.load_cert_chain(self.certificate, self.key, password)
        except (OSError, ValueError) as error:
            both = f"{self.certificate} and {self.key}"
            why = "the key is encrypted; decrypt it" if encrypted else _why(error)
            raise OptionsError(f"{both} are not a matching certificate and key: {why}") from error
        ca = None
        if self.client_ca:
            _check_ca(context, self.client_ca)
            ca = self.client_ca.read_bytes()
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=ca,
            require_client_auth=ca is not None,
        )


@dataclass(frozen=True)
class Options:
    """All settings of a front door."""

    # Base URL of the gateway, such as "http://127.0.0.1:30000".
    upstream: str
    # Where to listen: "HOST:PORT" or "unix:PATH". Port 0 selects a free port.
    listen: str = "127.0.0.1:50051"
    # Seconds to wait for the gateway to start. None: start without checking it.
    wait: float | None = 0.0
    tls: Tls | None = None
    # The CA of an https gateway, if the system does not trust it.
    upstream_ca: Path | None = None
    # The key for the front door's own requests for models and readiness. It is never used for
    # a client's request.
    upstream_key: str = field(default="", repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)
    # Maximum size of a request in bytes. Larger requests get RESOURCE_EXHAUSTED.
    max_request: int = 32 << 20
    # Maximum number of RPCs in flight. Further RPCs get RESOURCE_EXHAUSTED with a RetryInfo.
    max_active: int = 2000
    # Seconds between readiness checks of the gateway.
    health_interval: float = 2.0
    # Seconds that RPCs in flight have to finish when the server stops.
    drain: float = 30.0
    # Maximum age of a connection in seconds. Its RPCs may finish within the grace; new ones use a
    # new connection, which spreads clients over all servers. None: no limit.
    max_connection_age: float | None = None
    max_connection_age_grace: float | None = None
    # Where to serve metrics over HTTP: "HOST:PORT". Empty: nowhere.
    metrics: str = ""
    # A second address that serves only grpc.health.v1, in plaintext. Empty: none.
    probes: str = ""
    # Log requests and replies, including prompts and texts.
    log_content: bool = False

    @property
    def descriptors(self) -> int:
        """The file descriptors needed: each RPC may hold a connection on either side."""
        return 2 * self.max_active + 256

    @property
    def server_options(self) -> dict[str, int]:
        """The channel arguments of the gRPC server."""
        options = {
            "grpc.max_receive_message_length": self.max_request,
            "grpc.max_send_message_length": -1,
            # Let clients send pings during a long unary call, which sends nothing for minutes.
            "grpc.http2.min_ping_interval_without_data_ms": 10_000,
            "grpc.keepalive_permit_without_calls": 1,
        }
        for name, seconds in (
            ("grpc.max_connection_age_ms", self.max_connection_age),
            ("grpc.max_connection_age_grace_ms", self.max_connection_age_grace),
        ):
            if seconds is not None:
                options[name] = max(1, int(seconds * 1000))
        return options

    def check(self) -> None:
        """Raise OptionsError for options that are invalid whatever the gateway is."""
        _check_url(self.upstream)
        if self.max_request < 1 or self.max_active < 1:
            raise OptionsError("invalid limit: max_request and max_active must be at least 1")
        if not self.health_interval > 0:
            raise OptionsError("invalid health_interval: must be more than 0 seconds")
        if not self.drain >= 0 or (self.wait is not None and not self.wait >= 0):
            raise OptionsError("invalid drain or wait: must be at least 0 seconds")

    def upstream_tls(self) -> ssl.SSLContext | None:
        if not self.upstream_ca:
            return None
        context = ssl.create_default_context()
        _check_ca(context, self.upstream_ca)
        return context


def _check_url(url: str) -> None:
    shown = "URL with credentials" if "@" in url else f'URL "{ascii(url)[1:-1]}"'
    hint = "use http://HOST:PORT or https://HOST:PORT"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionsError(f"invalid upstream {shown}: not http:// or https://; {hint}")
        if parts.username is not None or parts.password is not None:
            raise OptionsError(f"invalid upstream {shown}: give the password as a key instead")
        if parts.query or parts.fragment:
            raise OptionsError(f"invalid upstream {shown}: more than a host and a path; {hint}")
        if parts.port == 0 or not is_printable(url) or " " in url:
            raise ValueError
        URL(url, encoded=True)
    except ValueError:
        raise OptionsError(f"invalid upstream {shown}: no such host or port; {hint}") from None


def _check_ca(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise OptionsError(f"no CA certificates in {path}: {_why(error)}") from error


def _why(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error)).lower()
