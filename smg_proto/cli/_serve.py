"""smg-proto serve: run the front door (the gRPC server in front of a gateway)."""

import argparse
import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from smg_proto.cli import CommandError

if TYPE_CHECKING:
    from smg_proto.frontdoor import Options

EPILOG = """\
examples:
  smg-proto serve --upstream http://127.0.0.1:30000
      gRPC on 127.0.0.1:50051, in front of a gateway on the same machine
  smg-proto serve --upstream http://gateway:30000 --listen 0.0.0.0:443 \\
      --tls-cert cert.pem --tls-key key.pem --client-ca clients.pem
      for a network: TLS, and only clients with a certificate signed by clients.pem
  smg-proto serve --upstream http://gateway:30000 --metrics 127.0.0.1:9464
      with metrics for Prometheus at http://127.0.0.1:9464/metrics

Clients send their own key as `authorization` metadata, which is forwarded unchanged.
On SIGTERM or SIGINT, health turns NOT_SERVING, RPCs in flight may finish (--drain), and the
command exits with status 0. Startup errors print one line and exit with status 2.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--upstream",
        required=True,
        metavar="URL",
        help="URL of the gateway, or of an OpenAI-compatible server",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:50051",
        metavar="ADDR",
        help="listen on HOST:PORT or unix:PATH; port 0 selects a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0,
        metavar="S",
        help="wait up to this many seconds for the gateway to start (default: 0)",
    )
    parser.add_argument(
        "--processes",
        default="1",
        metavar="N",
        help="run N processes on one port, or `auto` for one per core (default: %(default)s)",
    )
    secure = parser.add_argument_group("security")
    secure.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    secure.add_argument("--tls-key", type=Path, metavar="FILE", help="private key, PEM")
    secure.add_argument(
        "--client-ca", type=Path, metavar="FILE", help="require client certificates of this CA"
    )
    secure.add_argument(
        "--upstream-ca", type=Path, metavar="FILE", help="trust this CA for an https gateway"
    )
    secure.add_argument(
        "--upstream-key-file",
        type=Path,
        metavar="FILE",
        help="read the key for the front door's own requests for models and readiness from FILE",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-active",
        type=_count,
        default=2000,
        metavar="N",
        help="limit RPCs in flight; more get RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    limits.add_argument(
        "--max-request-mib",
        type=_count,
        default=32,
        metavar="N",
        help="limit requests to N MiB; larger ones get RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    for name, default, what in (
        ("connect", 5, "connecting to the gateway"),
        ("request", 600, "a request that is not a stream"),
        ("idle", 300, "the time between two events of a stream"),
    ):
        limits.add_argument(
            f"--{name}-timeout",
            type=_seconds,
            default=default,
            metavar="S",
            help=f"limit {what}, in seconds; a client's deadline may be shorter "
            "(default: %(default)s)",
        )
    limits.add_argument(
        "--drain",
        type=_seconds,
        default=30,
        metavar="S",
        help="let RPCs in flight finish for this many seconds on shutdown (default: %(default)s)",
    )
    limits.add_argument(
        "--max-connection-age",
        type=_seconds,
        metavar="S",
        help="make clients reconnect after this many seconds, to spread them (default: never)",
    )
    limits.add_argument(
        "--max-connection-age-grace",
        type=_seconds,
        metavar="S",
        help="cancel RPCs of the old connection after this many more seconds (default: never)",
    )
    monitoring = parser.add_argument_group("monitoring")
    monitoring.add_argument(
        "--probes",
        default="",
        metavar="ADDR",
        help="serve only health on HOST:PORT, in plaintext, for probes (default: none)",
    )
    monitoring.add_argument(
        "--metrics",
        default="",
        metavar="ADDR",
        help="serve GET /metrics on HOST:PORT (default: none)",
    )
    monitoring.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="set the log level; info logs each RPC, without content (default: %(default)s)",
    )
    monitoring.add_argument(
        "--log-content",
        action="store_true",
        help="log requests and replies with prompts and texts, for debugging only",
    )


def run(args: argparse.Namespace) -> int:
    # gRPC's own messages are noise, or repeat an error that is reported here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from smg_proto.frontdoor import OptionsError
    except ImportError as error:
        raise CommandError(str(error)) from error
    from smg_proto.frontdoor._worker import log_to_stderr

    log_to_stderr(int(getattr(logging, args.log_level.upper())))
    try:
        return asyncio.run(_serve(_options(args), args.processes))
    except OptionsError as error:
        raise CommandError(str(error)) from error


async def _serve(options: "Options", processes: str) -> int:
    from smg_proto._serving.process import (
        raise_descriptor_limit,
        serve_until_shutdown,
        shutdown_by_signal,
    )
    from smg_proto.frontdoor import FrontDoor
    from smg_proto.frontdoor._supervisor import Supervisor, processes_of

    log = logging.getLogger("smg_proto.frontdoor")
    number = processes_of(processes)
    door = FrontDoor(options) if number == 1 else Supervisor(options, number)
    if warning := raise_descriptor_limit(options.descriptors):
        log.warning(warning)
    async with shutdown_by_signal() as shutdown:
        await serve_until_shutdown(
            door.start,
            door.stop,
            shutdown,
            started=lambda: print(door.banner(), flush=True),
            stopping=lambda: log.info("stopping drain=%gs", options.drain),
        )
    return 0


def _options(args: argparse.Namespace) -> "Options":
    from smg_proto.frontdoor import Options, Timeouts, Tls

    if bool(args.tls_cert) != bool(args.tls_key):
        raise CommandError("incomplete certificate: give both --tls-cert and --tls-key")
    if args.client_ca and not args.tls_cert:
        raise CommandError("--client-ca needs --tls-cert and --tls-key")
    return Options(
        upstream=args.upstream,
        listen=args.listen,
        wait=args.wait,
        tls=Tls(args.tls_cert, args.tls_key, args.client_ca) if args.tls_cert else None,
        upstream_ca=args.upstream_ca,
        upstream_key=_key(args.upstream_key_file),
        timeouts=Timeouts(args.connect_timeout, args.request_timeout, args.idle_timeout),
        max_request=args.max_request_mib << 20,
        max_active=args.max_active,
        max_connection_age=args.max_connection_age,
        max_connection_age_grace=args.max_connection_age_grace,
        drain=args.drain,
        probes=args.probes,
        metrics=args.metrics,
        log_content=args.log_content,
    )


def _key(path: Path | None) -> str:
    if not path:
        return ""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"could not read the key in {path}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise CommandError(f"invalid key in {path}: must be one line of printable ASCII")
    return key


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_seconds.__name__, _count.__name__ = "seconds", "count"
