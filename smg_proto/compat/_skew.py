"""Differences between a server and a client of different releases."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from smg_proto.compat._contract import Contract
from smg_proto.compat._differ import diff
from smg_proto.compat._report import Finding

Kind = Literal["rpc", "field", "value"]


@dataclass(frozen=True)
class Gap:
    """Something that only one side has."""

    kind: Kind
    symbol: str
    message: str


@dataclass(frozen=True)
class Skew:
    shared: tuple[str, ...]  # services of both
    unserved: tuple[str, ...]  # services of the client's contract that the server lacks
    unknown: tuple[str, ...]  # services of the server that the client's contract lacks
    conflicts: tuple[Finding, ...]  # both have it, but read it differently
    server_lacks: tuple[Gap, ...]
    client_lacks: tuple[Gap, ...]


def skew(server: Contract, client: Contract) -> Skew:
    """Compare the requests and responses of the services that both have."""
    shared = sorted(server.services.keys() & client.services.keys())
    reached = {symbol for side in (server, client) for symbol in _reach(side, shared, None)}
    packages = {client.services[name].package for name in shared}
    conflicts = tuple(
        finding
        for finding in (diff(server, client, packages).findings if shared else ())
        if finding.cls in ("data", "rpc", "presence")
        and not finding.removal
        and (finding.symbol.rpartition(".")[0] in reached.union(shared))
    )
    return Skew(
        tuple(shared),
        tuple(sorted(client.services.keys() - server.services.keys())),
        tuple(sorted(_offered(server) - client.services.keys())),
        conflicts,
        tuple(_gaps(client, server, shared, "the server", "it ignores it", "it never sets it")),
        tuple(_gaps(server, client, shared, "this package", "it cannot set it", "it ignores it")),
    )


def _offered(server: Contract) -> set[str]:
    return {name for name, service in server.services.items() if service.package in server.packages}


def _reach(side: Contract, services: list[str], role: str | None) -> frozenset[str]:
    """The messages and enums that the RPCs take (request), return (response), or either (None)."""
    names: set[str] = set()
    for service in services:
        for rpc in side.services[service].rpcs.values():
            names |= {rpc.request} if role != "response" else set()
            names |= {rpc.response} if role != "request" else set()
    return side.reached(names)


def _gaps(
    has: Contract, lacks: Contract, services: list[str], who: str, in_request: str, in_response: str
) -> Iterator[Gap]:
    """What `has` has and `lacks` does not."""
    for name in services:
        for method, rpc in has.services[name].rpcs.items():
            if method not in lacks.services[name].rpcs:
                yield Gap("rpc", rpc.name, f"{who} lacks it: UNIMPLEMENTED")
    requests, responses = (_reach(has, services, role) for role in ("request", "response"))
    for name in sorted(requests | responses):
        roles = ((requests, in_request), (responses, in_response))
        uses = [words for reach, words in roles if name in reach]
        if name in has.messages and name in lacks.messages:
            known = lacks.messages[name]
            for number, field in has.messages[name].fields.items():
                if number not in known.fields and field.name not in known.by_name:
                    message = f"{who} does not know it: {' and '.join(uses)}"
                    yield Gap("field", f"{name}.{field.name}", message)
        elif name in has.enums and name in lacks.enums:
            for value, number in has.enums[name].numbers.items():
                if number not in lacks.enums[name].names:
                    message = f"{who} does not know it: a number without a name"
                    yield Gap("value", f"{name}.{value}", message)
