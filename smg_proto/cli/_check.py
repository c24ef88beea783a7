"""smg-proto check: what a running server and this package do not share."""

import argparse
import base64
import binascii
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from smg_proto import descriptor_set
from smg_proto._descriptors import symbols
from smg_proto.cli import CommandError, say
from smg_proto.compat import (
    Access,
    Contract,
    ContractError,
    Server,
    Skew,
    Spoken,
    detect,
    load,
    skew,
)
from smg_proto.compat._server import NoReflection
from smg_proto.engine._contracts import served

_PORT = 50051


class _Release(NamedTuple):
    """Between which releases a server's contract lies, as far as what it has and lacks tells."""

    newest: str  # that brought something that it has
    before: str  # that brought something that it lacks; "" where it lacks nothing


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "By reflection where the server has it; else by calls that cannot have an effect, which "
        "tell which RPCs it has. Exit: 0 it can do all that this package asks for, "
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
        help="sent with each call, base64 where KEY ends in -bin; may be given again",
    )
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="of a call")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.timeout <= 3600:
        raise CommandError(f"--timeout: {args.timeout:g} is not between 0 and 3600 seconds")
    access = Access(args.tls, args.ca, args.cert, args.key, _metadata(args.metadata), args.timeout)
    address = _address(args.address)
    ours = load("self")
    found: Skew | None = None
    spoken: list[Spoken] = []
    try:
        with Server(address, access) as server:
            health = server.health()
            try:
                theirs = server.contract()
                found = skew(theirs, ours)
            except NoReflection:
                spoken = detect(server, ours)
    except ContractError as error:
        hint = "; no port was given: engines listen on 50051, smg-proto demo and serve on 8000"
        raise CommandError(f"{error}{hint if address != args.address else ''}") from error
    lacking = found.server_lacks if found else [name for one in spoken for name in one.lacks]
    shared = found.shared if found else [one.service for one in spoken]
    fine = health in (None, "SERVING") and bool(shared) and not (found and found.conflicts)
    fine = fine and (args.allow_older or not lacking)
    releases = _releases(ours, shared, _names(found, spoken))
    engines = served(shared)
    if args.format == "json":
        say(_json(found, spoken, releases, engines, health, fine))
    else:
        say("\n".join(_text(found, spoken, releases, engines, health, fine)))
    return 0 if fine else 1


def _address(text: str) -> str:
    """With a port; [::1] is an address of its own."""
    _, colon, port = text.rpartition(":")
    return text if colon and not port.endswith("]") else f"{text}:{_PORT}"


def _metadata(words: list[str]) -> list[tuple[str, str | bytes]]:
    """What a word says is never repeated: it may be a secret."""
    pairs: list[tuple[str, str | bytes]] = []
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lower()
        if not equals or not re.fullmatch(r"[0-9a-z_.-]+", key):
            raise CommandError("--metadata: write KEY=VALUE")
        if key.endswith("-bin"):
            try:
                pairs.append((key, base64.b64decode(value, validate=True)))
            except binascii.Error as error:
                raise CommandError(f"--metadata: the value of {key} is not base64") from error
        elif not value.isascii() or not value.isprintable():
            raise CommandError(f"--metadata: the value of {key} is not printable ASCII")
        else:
            pairs.append((key, value))
    return pairs


# --- which release -------------------------------------------------------------------------------


def _names(found: Skew | None, spoken: list[Spoken]) -> tuple[set[str], set[str] | None]:
    """What the server lacks, and what it is known to have; None: all the rest."""
    if found:
        return {gap.symbol for gap in found.server_lacks}, None
    return {n for one in spoken for n in one.lacks}, {n for one in spoken for n in one.has}


def _releases(
    ours: Contract, services: Collection[str], names: tuple[set[str], set[str] | None]
) -> dict[str, _Release]:
    """For each service: the releases of its contract that the server can be of."""
    lacks, has = names
    since = {s.name: s.since for s in symbols(descriptor_set()) if s.since}
    found: dict[str, _Release] = {}
    for service in services:
        rpcs = ours.services[service].rpcs.values()
        reached = ours.reached({name for rpc in rpcs for name in (rpc.request, rpc.response)})
        parts = {rpc.name for rpc in rpcs} if has is not None else _parts(ours, service, reached)
        there = [since[n] for n in parts if n in since and n not in lacks and (not has or n in has)]
        gone = [since[n] for n in parts if n in since and n in lacks]
        if there:
            found[service] = _Release(max(there, key=_order), min(gone, key=_order, default=""))
    return found


def _parts(ours: Contract, service: str, reached: Collection[str]) -> set[str]:
    """The RPCs of a service, and the fields and values that they reach in its own package."""
    package = ours.services[service].package
    parts = {rpc.name for rpc in ours.services[service].rpcs.values()}
    for name in reached:
        if (message := ours.messages.get(name)) and message.package == package:
            parts |= {field.symbol for field in message.fields.values()}
        elif (enum := ours.enums.get(name)) and enum.package == package:
            parts |= {f"{name}.{value}" for value in enum.numbers}
    return parts


def _order(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", release))


def _spelled(release: _Release) -> str:
    if not release.before:
        return f"{release.newest} or newer"
    if _order(release.before) <= _order(release.newest):
        return f"in part that of {release.newest}, without all of {release.before}"
    return f"{release.newest} or newer, but older than {release.before}"


# --- what is shown -------------------------------------------------------------------------------


def _json(
    found: Skew | None,
    spoken: list[Spoken],
    releases: dict[str, _Release],
    engines: Sequence[str],
    health: str | None,
    fine: bool,
) -> str:
    head = {
        "fine": fine,
        "health": health,
        "reflection": found is not None,
        "releases": {name: release._asdict() for name, release in releases.items()},
        "engines": list(engines),
    }
    if found is None:
        return json.dumps(head | {"spoken": [asdict(one) for one in spoken]}, indent=2)
    whole = asdict(found) | {"conflicts": [finding.as_dict() for finding in found.conflicts]}
    return json.dumps(head | whole, indent=2)


def _text(
    found: Skew | None,
    spoken: list[Spoken],
    releases: dict[str, _Release],
    engines: Sequence[str],
    health: str | None,
    fine: bool,
) -> Iterator[str]:
    yield f"health: {health or 'the server has no health service'}"
    if found is None:
        yield "reflection: none; harmless calls tell which RPCs the server has, not which fields"
        yield from _by_calls(spoken, releases)
    else:
        yield from _by_reflection(found, releases)
    if engines:
        also = f"; it also has {', '.join(engines[1:])}" if len(engines) > 1 else ""
        yield f"smg_proto.engine speaks {engines[0]} to it{also}"
    yield f"\n{'fine' if fine else 'not fine'}"


def _by_reflection(found: Skew, releases: dict[str, _Release]) -> Iterator[str]:
    for title, names in (
        ("served, and known here", found.shared),
        ("known here, but not served", found.unserved),
        ("served, but not known here", found.unknown),
    ):
        yield f"{title}: {', '.join(names) or 'none'}"
    for service, release in releases.items():
        yield f"release of {service}: {_spelled(release)}"
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


def _by_calls(spoken: list[Spoken], releases: dict[str, _Release]) -> Iterator[str]:
    yield f"served, and known here: {', '.join(one.service for one in spoken) or 'none'}"
    for one in spoken:
        yield f"\n{one.service}"
        if release := releases.get(one.service):
            yield f"  release: {_spelled(release)}"
        for field, version in one.told:
            yield f"  the server tells {field}: {version}"
        yield f"  has: {_methods(one.has)}"
        if one.lacks:
            yield f"  lacks (UNIMPLEMENTED): {_methods(one.lacks)}"
        if one.untried:
            yield f"  not tried, since a call could change something: {_methods(one.untried)}"
        if one.newer:
            yield f"  newer than this package: it sets unknown fields ({', '.join(one.newer)})"


def _methods(names: Collection[str]) -> str:
    return ", ".join(name.rpartition(".")[2] for name in names)
