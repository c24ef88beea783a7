"""smg-proto check: list what a running server and this package do not share."""

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
    """The range of releases that a server's contract can be from, judging by what it has."""

    newest: str  # the newest release of which it has something
    before: str  # the oldest release of which it lacks something; "" if it lacks nothing


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Reads the server's reflection; without reflection, finds out which RPCs it has by calls "
        "that have no side effects. Exit status: 0 the server supports everything that this "
        "package uses, 1 it does not or is unhealthy, 2 it cannot be checked. "
        "Services that it does not offer at all are listed, but do not fail the check."
    )
    parser.add_argument("address", metavar="HOST[:PORT]", help=f"default port: {_PORT}")
    parser.add_argument(
        "--allow-older",
        action="store_true",
        help="do not fail for RPCs, fields and values that the server lacks",
    )
    parser.add_argument("--tls", action="store_true", help="use TLS with the system's roots")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="use TLS with these roots (PEM)")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="client certificate (PEM)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="key of the certificate (PEM)")
    parser.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="send this with each call, in base64 if KEY ends in -bin; repeatable",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="limit each call (default: %(default)g)",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.timeout <= 3600:
        raise CommandError(f"invalid --timeout {args.timeout:g}: must be from 0 to 3600 seconds")
    access = Access(args.tls, args.ca, args.cert, args.key, _metadata(args.metadata), args.timeout)
    address = _address(args.address)
    ours = load("self")
    differences: Skew | None = None
    spoken: list[Spoken] = []
    try:
        with Server(address, access) as server:
            health = server.health()
            try:
                theirs = server.contract()
                differences = skew(theirs, ours)
            except NoReflection:
                spoken = detect(server, ours)
    except ContractError as error:
        hint = "; the port defaults to 50051, and smg-proto demo listens on 8000"
        raise CommandError(f"{error}{hint if address != args.address else ''}") from error
    if differences:
        lacking, shared = bool(differences.server_lacks), list(differences.shared)
    else:
        lacking, shared = any(one.lacks for one in spoken), [one.service for one in spoken]
    fine = health in (None, "SERVING") and bool(shared) and (args.allow_older or not lacking)
    fine = fine and not (differences and differences.conflicts)
    releases = _releases(ours, shared, _names(differences, spoken))
    engines = served(shared)
    if args.format == "json":
        say(_json(differences, spoken, releases, engines, health, fine))
    else:
        say("\n".join(_text(differences, spoken, releases, engines, health, fine)))
    return 0 if fine else 1


def _address(text: str) -> str:
    """The address with a port; [::1] has none yet."""
    _, colon, port = text.rpartition(":")
    return text if colon and not port.endswith("]") else f"{text}:{_PORT}"


def _metadata(words: list[str]) -> list[tuple[str, str | bytes]]:
    """Parse KEY=VALUE pairs. Errors never repeat a value, which may be a secret."""
    pairs: list[tuple[str, str | bytes]] = []
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lower()
        if not equals or not re.fullmatch(r"[0-9a-z_.-]+", key):
            raise CommandError("--metadata: use KEY=VALUE")
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


# --- releases ------------------------------------------------------------------------------------


def _names(differences: Skew | None, spoken: list[Spoken]) -> tuple[set[str], set[str] | None]:
    """The symbols that the server lacks, and those that it has (None: all others)."""
    if differences:
        return {gap.symbol for gap in differences.server_lacks}, None
    return {n for one in spoken for n in one.lacks}, {n for one in spoken for n in one.has}


def _releases(
    ours: Contract, services: Collection[str], names: tuple[set[str], set[str] | None]
) -> dict[str, _Release]:
    """For each service, the range of releases that the server's contract can be from."""
    lacks, has = names
    since = {s.name: s.since for s in symbols(descriptor_set()) if s.since}
    releases: dict[str, _Release] = {}
    for service in services:
        rpcs = ours.services[service].rpcs.values()
        reached = ours.reached({name for rpc in rpcs for name in (rpc.request, rpc.response)})
        parts = {rpc.name for rpc in rpcs} if has is not None else _parts(ours, service, reached)
        known = [name for name in parts if name in since]
        present = [since[n] for n in known if n not in lacks and (not has or n in has)]
        absent = [since[n] for n in known if n in lacks]
        if present:
            before = min(absent, key=_order, default="")
            releases[service] = _Release(max(present, key=_order), before)
    return releases


def _parts(ours: Contract, service: str, reached: Collection[str]) -> set[str]:
    """The RPCs of a service, and the fields and enum values of its package that they use."""
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
        return f"partly {release.newest}, but not all of {release.before}"
    return f"{release.newest} or newer, but older than {release.before}"


# --- output --------------------------------------------------------------------------------------


def _json(
    differences: Skew | None,
    spoken: list[Spoken],
    releases: dict[str, _Release],
    engines: Sequence[str],
    health: str | None,
    fine: bool,
) -> str:
    head = {
        "fine": fine,
        "health": health,
        "reflection": differences is not None,
        "releases": {name: release._asdict() for name, release in releases.items()},
        "engines": list(engines),
    }
    if differences is None:
        return json.dumps(head | {"spoken": [asdict(one) for one in spoken]}, indent=2)
    conflicts = [finding.as_dict() for finding in differences.conflicts]
    return json.dumps(head | asdict(differences) | {"conflicts": conflicts}, indent=2)


def _text(
    differences: Skew | None,
    spoken: list[Spoken],
    releases: dict[str, _Release],
    engines: Sequence[str],
    health: str | None,
    fine: bool,
) -> Iterator[str]:
    yield f"health: {health or 'the server has no health service'}"
    if differences is None:
        yield "reflection: none; harmless calls show which RPCs the server has, not which fields"
        yield from _by_calls(spoken, releases)
    else:
        yield from _by_reflection(differences, releases)
    if engines:
        also = f"; the server also has {', '.join(engines[1:])}" if len(engines) > 1 else ""
        yield f"smg_proto.engine uses {engines[0]}{also}"
    yield f"\n{'fine' if fine else 'not fine'}"


def _by_reflection(differences: Skew, releases: dict[str, _Release]) -> Iterator[str]:
    for title, names in (
        ("services of both", differences.shared),
        ("services of this package only", differences.unserved),
        ("services of the server only", differences.unknown),
    ):
        yield f"{title}: {', '.join(names) or 'none'}"
    for service, release in releases.items():
        yield f"release of {service}: {_spelled(release)}"
    if differences.conflicts:
        yield "\nboth have it, but read it differently (old: the server, new: this package):"
        for finding in differences.conflicts:
            yield f"  {finding.cls:8} {finding.symbol}\n           {finding.message}"
    for title, gaps in (
        ("the server lacks", differences.server_lacks),
        ("this package lacks", differences.client_lacks),
    ):
        if gaps:
            yield f"\n{title}:"
            yield from (f"  {gap.kind:5} {gap.symbol}: {gap.message}" for gap in gaps)


def _by_calls(spoken: list[Spoken], releases: dict[str, _Release]) -> Iterator[str]:
    yield f"services of both: {', '.join(one.service for one in spoken) or 'none'}"
    for one in spoken:
        yield f"\n{one.service}"
        if release := releases.get(one.service):
            yield f"  release: {_spelled(release)}"
        for field, version in one.versions:
            yield f"  {field} of the server: {version}"
        yield f"  has: {_methods(one.has)}"
        if one.lacks:
            yield f"  lacks (UNIMPLEMENTED): {_methods(one.lacks)}"
        if one.untried:
            yield f"  not tried, because a call could change something: {_methods(one.untried)}"
        if one.newer:
            yield f"  newer than this package: sets unknown fields ({', '.join(one.newer)})"


def _methods(names: Collection[str]) -> str:
    return ", ".join(name.rpartition(".")[2] for name in names)
