"""A contract: the messages, enums and services of one release, and classes to try them with."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass

from smg_proto.compat._files import ContractError, in_order, pool_of
from smg_proto.compat._limits import MAX_TYPE_CHAIN

MESSAGE_KINDS = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)
# Packages that contracts import, and that are compared only when nothing else is there.
FOREIGN = ("google.", "grpc.")

Presence = Literal["implicit", "explicit", "required", "repeated"]


@dataclass(frozen=True)
class Field:
    """A field or, with `extension`, an extension that the contract has for the message."""

    name: str  # of an extension: in full
    symbol: str  # the name in full
    number: int
    kind: int  # FieldDescriptor.TYPE_*
    type_name: str  # of a message or enum, in full; "" for a scalar
    presence: Presence
    oneof: str  # "" for none; the hidden oneof of an `optional` is none
    json_name: str
    deprecated: bool
    entry: "Message | None" = None  # of a map: its key and value
    default: object = None  # what reading it gives while it is not set; None for a message or list
    utf8: bool = False  # a string that a parser refuses when it is not UTF-8
    extension: bool = False
    jstype: int = 0

    @property
    def repeated(self) -> bool:
        return self.presence == "repeated"

    @property
    def is_message(self) -> bool:
        return self.kind in MESSAGE_KINDS

    @property
    def is_enum(self) -> bool:
        return self.kind == FieldDescriptor.TYPE_ENUM

    @property
    def value(self) -> "Field":
        """What it holds: a map's value, else itself."""
        return self.entry.fields[2] if self.entry else self

    @property
    def spelled(self) -> str:
        """The type as a proto file spells it."""
        if self.entry:
            key, value = self.entry.fields[1], self.entry.fields[2]
            return f"map<{key.spelled}, {value.spelled}>"
        word = self.type_name
        if not word:
            kind = FieldDescriptorProto.Type.ValueType(self.kind)
            word = FieldDescriptorProto.Type.Name(kind).removeprefix("TYPE_").lower()
        if self.kind == FieldDescriptor.TYPE_GROUP:
            word = f"group {word}"
        return f"repeated {word}" if self.repeated else word


@dataclass(frozen=True)
class Message:
    name: str
    package: str
    fields: Mapping[int, Field]  # with the extensions that the contract has for it
    reserved: tuple[range, ...] = ()
    deprecated: bool = False
    extension_ranges: tuple[range, ...] = ()
    message_set: bool = False
    strict_json: bool = True  # its JSON is sure to work; False: best effort
    file: str = ""

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields.values()}

    @cached_property
    def oneofs(self) -> Mapping[str, frozenset[int]]:
        names = {field.oneof for field in self.fields.values()} - {""}
        return {
            name: frozenset(f.number for f in self.fields.values() if f.oneof == name)
            for name in sorted(names)
        }

    def reserves(self, number: int) -> bool:
        return any(number in span for span in self.reserved)


@dataclass(frozen=True)
class Enum:
    name: str
    package: str
    numbers: Mapping[str, int]  # value name to number; aliases share one
    deprecated: frozenset[str] = frozenset()
    closed: bool = False  # a reader treats a number without a name as an unknown field
    strict_json: bool = True
    file: str = ""

    @cached_property
    def names(self) -> Mapping[int, frozenset[str]]:
        named: dict[int, set[str]] = {}
        for name, number in self.numbers.items():
            named.setdefault(number, set()).add(name)
        return {number: frozenset(names) for number, names in named.items()}


@dataclass(frozen=True)
class Rpc:
    name: str  # package.Service.Method
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool
    deprecated: bool
    idempotency: str = "IDEMPOTENCY_UNKNOWN"

    @property
    def streaming(self) -> str:
        match self.client_streaming, self.server_streaming:
            case False, False:
                return "unary"
            case False, True:
                return "server streaming"
            case True, False:
                return "client streaming"
            case _:
                return "bidirectional streaming"


@dataclass(frozen=True)
class Service:
    name: str
    package: str
    rpcs: Mapping[str, Rpc]  # by the method's own name
    deprecated: bool = False
    file: str = ""


@dataclass(frozen=True)
class Place:
    """Where a symbol is declared."""

    file: str  # as a person finds it
    line: int | None = None


class Contract:
    """One side of a comparison. Raises ContractError when the descriptors do not fit together.

    own: the files that are compared, where not all are; the others are imports of theirs.
    foreign: prefixes of packages that are not compared unless all are of that kind.
    partial: other packages may exist as well, as behind a server that offers some services.
    shown: what a person calls a file. skipped: files that could not be read, and why.
    """

    def __init__(
        self,
        files: FileDescriptorSet,
        origin: str,
        *,
        own: frozenset[str] | None = None,
        foreign: Sequence[str] | None = None,
        partial: bool = False,
        shown: Mapping[str, str] | None = None,
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        from smg_proto.compat._read import Reader

        self.origin = origin
        self.partial = partial
        self.skipped: Mapping[str, str] = skipped or {}
        self._shown: Mapping[str, str] = shown or {}
        given = {str(file.name) for file in files.file}
        self.files: list[FileDescriptorProto] = in_order(files, origin)  # with what they import
        self.own = frozenset(given if own is None else own & given)
        self.pool = pool_of(self.files, origin)
        read = Reader(self.pool, self.files)
        self.messages: Mapping[str, Message] = read.messages
        self.enums: Mapping[str, Enum] = read.enums
        self.services: Mapping[str, Service] = read.services
        self.home: Mapping[str, str] = read.home  # top-level symbol: its file
        self._foreign = tuple(FOREIGN if foreign is None else foreign)

    @cached_property
    def packages(self) -> frozenset[str]:
        """The packages that are compared: not foreign ones, unless nothing else is there."""
        every = {file.package for file in self.files if file.name in self.own}
        domestic = {name for name in every if not f"{name}.".startswith(self._foreign)}
        return frozenset(domestic or every)

    def without(self, names: Collection[str]) -> "Contract":
        """The contract where these files are not compared."""
        if not self.own & frozenset(names):
            return self
        less = copy(self)
        less.own = self.own - frozenset(names)
        less.__dict__.pop("packages", None)
        less.__dict__.pop("_places", None)
        return less

    @cached_property
    def every_package(self) -> frozenset[str]:
        return frozenset(file.package for file in self.files)

    def message_class(self, name: str) -> type[ProtoMessage]:
        """The class of a message of this contract; two contracts never share one."""
        if (made := self._classes.get(name)) is None:
            for inner in self._held_first(name):
                if inner not in self._classes:
                    found = self.pool.FindMessageTypeByName(inner)
                    self._classes[inner] = GetMessageClass(found)
            made = self._classes[name]
        return made

    @cached_property
    def _classes(self) -> dict[str, type[ProtoMessage]]:
        return {}

    def _held_first(self, name: str) -> list[str]:
        """The types that a message holds, those that hold nothing first, and itself.

        The factory makes the classes of all that a class holds by recursion, and would run out of
        stack on a long chain.
        """
        ordered: list[str] = []
        entered = {name}
        stack = [(name, iter(self._message_types(name)))]
        while stack:
            if len(stack) > MAX_TYPE_CHAIN:
                raise ContractError(
                    f"{self.origin}: {name} holds a chain of more than {MAX_TYPE_CHAIN} types"
                )
            current, rest = stack[-1]
            if (inner := next(rest, None)) is None:
                ordered.append(current)
                stack.pop()
            elif inner not in entered:
                entered.add(inner)
                stack.append((inner, iter(self._message_types(inner))))
        return ordered

    def _message_types(self, name: str) -> list[str]:
        return [f.type_name for f in self._fields(name) if f.is_message and f.type_name]

    @cached_property
    def carriers(self) -> Mapping[str, list[tuple[Message, Field]]]:
        """For each message and enum: the fields that are of that type, map values included."""
        found: dict[str, list[tuple[Message, Field]]] = {}
        for message in self.messages.values():
            for field in message.fields.values():
                for inner in (field, *(field.entry.fields.values() if field.entry else ())):
                    if inner.type_name:
                        found.setdefault(inner.type_name, []).append((message, field))
        return found

    @cached_property
    def served(self) -> frozenset[str]:
        """The messages that an RPC takes or gives, and all that these carry."""
        rpcs = [rpc for service in self.services.values() for rpc in service.rpcs.values()]
        return self.reached({name for rpc in rpcs for name in (rpc.request, rpc.response)})

    def reached(self, names: set[str]) -> frozenset[str]:
        """These messages and all that their fields carry, enums too."""
        seen: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                if name in self.messages:
                    todo += [f.type_name for f in self._fields(name) if f.type_name]
        return frozenset(seen)

    def _fields(self, name: str) -> Iterator[Field]:
        for field in self.messages[name].fields.values():
            yield from field.entry.fields.values() if field.entry else (field,)

    def shown(self, file: str) -> str:
        """What a person calls a file."""
        return self._shown.get(file, file)

    def place(self, symbol: str) -> Place | None:
        """Where a symbol, or one that it lies in, is declared; None where that is not known."""
        if symbol in self._shown or symbol in self.own:
            return Place(self.shown(symbol))
        name = symbol
        while name:
            if name in self._places:
                return self._places[name]
            name = name.rpartition(".")[0]
        return None

    @cached_property
    def _places(self) -> Mapping[str, Place]:
        from smg_proto.compat._read import places

        return {
            name: Place(self.shown(file.name), line)
            for file in self.files
            if file.name in self.own
            for name, line in places(file)
        }
