"""smg-proto serve: the front door as a command."""

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
      gRPC on 127.0.0.1:50051, before a gateway on the same machine
  smg-proto serve --upstream http://gateway:30000 --listen 0.0.0.0:443 \\
      --tls-cert cert.pem --tls-key key.pem --client-ca clients.pem
      for the network: TLS, and only clients that clients.pem has signed
  smg-proto serve --upstream http://gateway:30000 --metrics 127.0.0.1:9464
      with metrics for Prometheus at http://127.0.0.1:9464/metrics

Clients send their own key as metadata `authorization`; it goes on to the upstream as it is.
SIGTERM and SIGINT: health turns NOT_SERVING, RPCs at work may end (--drain), then exit 0.
Exit: 0 stopped as told, 2 it cannot serve; the line on standard error says why.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--upstream",
        required=True,
        metavar="URL",
        help="the gateway, or an OpenAI-compatible server",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:50051",
        metavar="ADDR",
        help="HOST:PORT or unix:PATH; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0,
        metavar="S",
        help="wait this long for the upstream to come up (default: 0)",
    )
    parser.add_argument(
        "--processes",
        default="1",
        metavar="N",
        help="processes that share the port, or auto: one for each core (default: %(default)s)",
    )
    secure = parser.add_argument_group("security")
    secure.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    secure.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    secure.add_argument(
        "--client-ca", type=Path, metavar="FILE", help="only clients with a certificate of this CA"
    )
    secure.add_argument("--upstream-ca", type=Path, metavar="FILE", help="CA of an https upstream")
    secure.add_argument(
        "--upstream-key-file",
        type=Path,
        metavar="FILE",
        help="key for the front door's own look at models and readiness, where they need one",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-active",
        type=_count,
        default=2000,
        metavar="N",
        help="RPCs at work at a time; the next one gets RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    limits.add_argument(
        "--max-request-mib",
        type=_count,
        default=32,
        metavar="N",
        help="largest request; a larger one gets RESOURCE_EXHAUSTED (default: %(default)s)",
    )
    for name, default, what in (
        ("connect", 5, "to connect to the upstream"),
        ("request", 600, "for a whole request that is not a stream"),
        ("idle", 300, "between two pieces of a stream"),
    ):
        limits.add_argument(
            f"--{name}-timeout",
            type=_seconds,
            default=default,
            metavar="S",
            help=f"seconds {what}; a client's deadline ends it earlier (default: %(default)s)",
        )
    limits.add_argument(
        "--drain",
        type=_seconds,
        default=30,
        metavar="S",
        help="seconds that RPCs at work have when told to stop (default: %(default)s)",
    )
    limits.add_argument(
        "--max-connection-age",
        type=_seconds,
        metavar="S",
        help="have clients connect anew after this long, so that they spread (default: never)",
    )
    limits.add_argument(
        "--max-connection-age-grace",
        type=_seconds,
        metavar="S",
        help="then cancel RPCs of the old connection after this long (default: never)",
    )
    seen = parser.add_argument_group("what it shows")
    seen.add_argument(
        "--probes",
        default="",
        metavar="ADDR",
        help="HOST:PORT for health alone, in plaintext, for probes without TLS (default: none)",
    )
    seen.add_argument(
        "--metrics", default="", metavar="ADDR", help="HOST:PORT for GET /metrics (default: none)"
    )
    seen.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="info has a line for each RPC, without content (default: %(default)s)",
    )
    seen.add_argument(
        "--log-content",
        action="store_true",
        help="write requests and replies to the log, with prompts and texts: for debugging only",
    )


def run(args: argparse.Namespace) -> int:
    # What gRPC itself writes is said by our own line, or is noise.
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
        orders_by_signal,
        raise_descriptor_limit,
        serve_until_told,
    )
    from smg_proto.frontdoor import FrontDoor
    from smg_proto.frontdoor._supervisor import Supervisor, processes_of

    log = logging.getLogger("smg_proto.frontdoor")
    number = processes_of(processes)
    door = FrontDoor(options) if number == 1 else Supervisor(options, number)
    if warning := raise_descriptor_limit(options.descriptors):
        log.warning(warning)
    async with orders_by_signal() as orders:
        await serve_until_told(
            door.start,
            door.stop,
            orders,
            started=lambda: print(door.banner(), flush=True),
            stopping=lambda: log.info("stopping drain=%gs", options.drain),
        )
    return 0


def _options(args: argparse.Namespace) -> "Options":
    from smg_proto.frontdoor import Options, Timeouts, Tls

    if bool(args.tls_cert) != bool(args.tls_key):
        raise CommandError("--tls-cert and --tls-key go together")
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
        raise CommandError(f"cannot read the key in {path}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise CommandError(f"{path} holds no key: one line of visible ASCII")
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
