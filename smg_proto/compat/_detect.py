"""Finds out, by harmless calls, which contracts a server without reflection implements."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.unknown_fields import UnknownFieldSet

from smg_proto._probe import NOT_A_MESSAGE, READS, UNKNOWN_RPC, WORKS
from smg_proto.compat._contract import Contract, Rpc, Service
from smg_proto.compat._files import ContractError
from smg_proto.compat._server import Server
from smg_proto.compat._text import one_line

_Effect = Literal["reads", "works"]


@dataclass(frozen=True)
class Probe:
    """A call without side effects that shows whether the server has the RPC."""

    rpc: Rpc
    effect: _Effect

    @property
    def path(self) -> str:
        service, _, method = self.rpc.name.rpartition(".")
        return f"/{service}/{method}"

    @property
    def data(self) -> bytes:
        return b"" if self.effect == "reads" else NOT_A_MESSAGE


@dataclass(frozen=True)
class Spoken:
    """A service that the server has, as far as harmless calls can show."""

    service: str
    has: tuple[str, ...]  # RPCs
    lacks: tuple[str, ...]  # RPCs for which it returns UNIMPLEMENTED
    untried: tuple[str, ...]  # RPCs that are not safe to call
    versions: tuple[tuple[str, str], ...] = ()  # fields of its replies that name a version
    newer: tuple[str, ...] = ()  # messages and field numbers that this package does not know


def probe_of(rpc: Rpc) -> Probe | None:
    """The call that shows whether a server has the RPC; None if no call is safe."""
    method = rpc.name.rpartition(".")[2]
    if rpc.client_streaming:
        return None
    if method in READS or (rpc.idempotency == "NO_SIDE_EFFECTS" and method not in WORKS):
        return Probe(rpc, "reads")
    return Probe(rpc, "works") if method in WORKS else None


def is_there(code: grpc.StatusCode) -> bool:
    """Whether this status of a probe means that the server has the RPC."""
    return code != grpc.StatusCode.UNIMPLEMENTED


def detect(server: Server, contract: Contract) -> list[Spoken]:
    """The services of the contract that the server has. ContractError if calls cannot show it."""
    code, _ = server.call(UNKNOWN_RPC, b"")
    if is_there(code):
        raise ContractError(
            f"{server.address}: cannot detect its services: it returns {code.name} for a method "
            "that does not exist; enable reflection on the server"
        )
    return [
        spoken
        for service in contract.services.values()
        if (spoken := _spoken(server, contract, service)) and spoken.has
    ]


def _spoken(server: Server, contract: Contract, service: Service) -> Spoken:
    has: list[str] = []
    lacks: list[str] = []
    untried: list[str] = []
    replies: list[ProtoMessage] = []
    # Quick RPCs first. If the first two are missing, the whole service is.
    probes = [(rpc, probe_of(rpc)) for rpc in service.rpcs.values()]
    for rpc, probe in sorted(probes, key=lambda p: p[1] is None or p[1].effect == "works"):
        if probe is None:
            untried.append(rpc.name)
            continue
        if len(lacks) >= 2 and not has:
            lacks.append(rpc.name)
            continue
        code, data = server.call(probe.path, probe.data)
        (has if is_there(code) else lacks).append(rpc.name)
        if data and probe.effect == "reads":
            try:
                replies.append(contract.message_class(rpc.response).FromString(data))
            except (DecodeError, UnicodeDecodeError):
                continue
    return Spoken(
        service.name,
        tuple(has),
        tuple(lacks),
        tuple(untried),
        tuple(dict.fromkeys(pair for reply in replies for pair in _versions(reply))),
        tuple(dict.fromkeys(name for reply in replies for name in _unknown(reply))),
    )


def _versions(reply: ProtoMessage) -> Iterator[tuple[str, str]]:
    """The fields of a reply that name a version."""
    for field, value in reply.ListFields():
        is_text = field.type == FieldDescriptor.TYPE_STRING and isinstance(value, str)
        if is_text and re.search(r"(^|_)version($|_)", field.name):
            yield field.name, one_line(value, 80)


def _unknown(reply: ProtoMessage) -> Iterator[str]:
    """The unknown fields of a reply and of the messages inside it, as message name and number."""
    name = str(reply.DESCRIPTOR.full_name)
    unknown: Any = UnknownFieldSet(reply)
    for field in unknown:
        yield f"{name} {field.field_number}"
    for field, value in reply.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        content: Any = value
        for inner in content if hasattr(content, "append") else [content]:
            yield from _unknown(inner)
