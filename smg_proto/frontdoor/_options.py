"""How a front door is set up, and whether that can work: all that can be said before serving."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc

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
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            both = f"{self.certificate} and {self.key}"
            raise OptionsError(f"{both} are no certificate and its key: {_why(error)}") from error
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
        parts = urlsplit(self.upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionsError(f"upstream {self.upstream!r} is not an http:// or https:// URL")
        if parts.username or parts.password:
            raise OptionsError("the upstream URL has a password in it; give it as a key instead")
        if self.max_request < 1 or self.max_active < 1:
            raise OptionsError("limits must be 1 or more")

    def upstream_tls(self) -> ssl.SSLContext | None:
        if not self.upstream_ca:
            return None
        context = ssl.create_default_context()
        _check_ca(context, self.upstream_ca)
        return context


def _check_ca(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise OptionsError(f"no CA certificates in {path}: {_why(error)}") from error


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
