"""smg-proto check: what a running server and this package can not do for each other."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from smg_proto.cli import CommandError
from smg_proto.compat import Access, ContractError, Server, Skew, load, skew

_PORT = 50051


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The server must have reflection. Exit: 0 it can do all that this package asks for, "
        "1 it can not, or it is not healthy, 2 it cannot be asked. "
        "Services that it does not offer at all are listed, but are no failure."
    )
    parser.add_argument("address", metavar="HOST[:PORT]", help=f"the port is {_PORT} unless given")
    parser.add_argument(
        "--allow-older",
        action="store_true",
        help="RPCs, fields and values that the server lacks are listed, but are no failure",
    )
    parser.add_argument("--tls", action="store_true", help="use TLS, with the system's roots")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="use TLS, with these roots (PEM)")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="our certificate (PEM)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="our certificate's key (PEM)")
    parser.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="sent with each call; may be given again",
    )
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="of a call")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    access = Access(args.tls, args.ca, args.cert, args.key, _metadata(args.metadata), args.timeout)
    try:
        with Server(_address(args.address), access) as server:
            found = skew(server.contract(), load("self"))
            health = server.health()
    except ContractError as error:
        raise CommandError(str(error)) from error
    lacking = bool(found.server_lacks) and not args.allow_older
    well = health in (None, "SERVING") and bool(found.shared)
    fine = well and not found.conflicts and not lacking
    if args.format == "json":
        print(_json(found, health, fine))
    else:
        print("\n".join(_text(found, health, fine)))
    return 0 if fine else 1


def _address(text: str) -> str:
    """With a port; [::1] is an address of its own."""
    _, colon, port = text.rpartition(":")
    return text if colon and not port.endswith("]") else f"{text}:{_PORT}"


def _metadata(words: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            # The word itself may be a secret: it is not repeated.
            raise CommandError("--metadata: write KEY=VALUE")
        pairs.append((key.lower(), value))
    return pairs


def _json(found: Skew, health: str | None, fine: bool) -> str:
    whole = asdict(found) | {"conflicts": [finding.as_dict() for finding in found.conflicts]}
    return json.dumps({"fine": fine, "health": health} | whole, indent=2)


def _text(found: Skew, health: str | None, fine: bool) -> Iterator[str]:
    yield f"health: {health or 'the server has no health service'}"
    for title, names in (
        ("served, and known here", found.shared),
        ("known here, but not served", found.unserved),
        ("served, but not known here", found.unknown),
    ):
        yield f"{title}: {', '.join(names) or 'none'}"
    if found.conflicts:
        yield "\nboth have it and mean different things (old: the server, new: this package):"
        for finding in found.conflicts:
            yield f"  {finding.cls:8} {finding.symbol}\n           {finding.message}"
    for title, gaps in (
        ("the server lacks", found.server_lacks),
        ("this package lacks", found.client_lacks),
    ):
        if gaps:
            yield f"\n{title}:"
            yield from (f"  {gap.kind:5} {gap.symbol}: {gap.message}" for gap in gaps)
    yield f"\n{'fine' if fine else 'not fine'}"
