"""How a front door is set up, and whether that can work: all that can be said before serving."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from yarl import URL

from smg_proto._http.headers import is_printable
from smg_proto._http.upstream import Timeouts


class OptionsError(Exception):
    """Something that keeps the front door from serving: one line for the person who starts it."""


@dataclass(frozen=True)
class Tls:
    """The front door's own certificate; with `client_ca` only clients that it signed may call."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        encrypted = False

        def password() -> str:  # or OpenSSL would ask at the terminal
            nonlocal encrypted
            encrypted = True
            return ""

        try:
            context.load_cert_chain(self.certificate, self.key, password)
        except (OSError, ValueError) as error:
            both = f"{self.certificate} and {self.key}"
            why = "the key is encrypted; decrypt it" if encrypted else _why(error)
            raise OptionsError(f"{both} are no certificate and its key: {why}") from error
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

    # Base URL of the gateway, "http://127.0.0.1:30000".
    upstream: str
    # Where to serve, "HOST:PORT" or "unix:PATH"; port 0 takes a free one.
    listen: str = "127.0.0.1:50051"
    # Seconds that the upstream may take to come up before it is an error; None: do not look.
    wait: float | None = 0.0
    tls: Tls | None = None
    # The CA of an https upstream that the system does not know.
    upstream_ca: Path | None = None
    # The key that the front door itself shows to the upstream, for its own look at the models and
    # at readiness; never for a client's request.
    upstream_key: str = field(default="", repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)
    # Largest request taken from a client, in bytes; a larger one gets RESOURCE_EXHAUSTED.
    max_request: int = 32 << 20
    # RPCs at work at the same time; the next one gets RESOURCE_EXHAUSTED with a RetryInfo.
    max_active: int = 2000
    # Seconds between two looks at the upstream's readiness.
    health_interval: float = 2.0
    # Seconds that RPCs at work are given when the server is told to stop.
    drain: float = 30.0
    # Seconds that a connection may live; its RPCs may end within the grace, and new ones go over a
    # new connection, so that they spread over the servers of today. None: without limit.
    max_connection_age: float | None = None
    max_connection_age_grace: float | None = None
    # Where to serve the metrics over HTTP, "HOST:PORT"; empty: nowhere.
    metrics: str = ""
    # A second address for grpc.health.v1 alone, in plaintext; empty: none.
    probes: str = ""
    # Write requests and replies to the log, prompts and texts included.
    log_content: bool = False

    @property
    def descriptors(self) -> int:
        """Files that may be open at a time: each RPC may hold a connection on either side."""
        return 2 * self.max_active + 256

    @property
    def server_options(self) -> dict[str, int]:
        """What gRPC is told."""
        options = {
            "grpc.max_receive_message_length": self.max_request,
            "grpc.max_send_message_length": -1,
            # A long unary call is silent for minutes; its client may ping meanwhile.
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
        """Everything that can be seen to be wrong without a connection."""
        _check_url(self.upstream)
        if self.max_request < 1 or self.max_active < 1:
            raise OptionsError("limits must be 1 or more")
        if not self.health_interval > 0:
            raise OptionsError("the health interval must be more than 0 seconds")
        if not self.drain >= 0 or (self.wait is not None and not self.wait >= 0):
            raise OptionsError("seconds to wait must be 0 or more")

    def upstream_tls(self) -> ssl.SSLContext | None:
        if not self.upstream_ca:
            return None
        context = ssl.create_default_context()
        _check_ca(context, self.upstream_ca)
        return context


def _check_url(url: str) -> None:
    shown = "with credentials in it" if "@" in url else f'"{ascii(url)[1:-1]}"'
    hint = "use http://HOST:PORT or https://HOST:PORT"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionsError(f"upstream {shown} is not an http:// or https:// URL; {hint}")
        if parts.username is not None or parts.password is not None:
            raise OptionsError("the upstream URL has a password in it; give it as a key instead")
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
