"""A contract: the messages, enums and services of one release, with message classes."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message as ProtoMessage

from smg_proto._descriptors import SCALARS
from smg_proto.compat._files import ContractError, in_order, pool_of
from smg_proto.compat._limits import MAX_TYPE_CHAIN

if TYPE_CHECKING:
    from smg_proto.compat._read import Raw

MESSAGE_KINDS = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)
# Packages that contracts import. They are compared only if there are no others.
FOREIGN = ("google.", "grpc.")

# The metaclass of messages. With upb, it creates the classes of nested types when they are needed;
# in pure Python, they must exist first.
_CLASS: Any = type(FileDescriptorProto)
_EAGER = not _CLASS.__module__.startswith("google._upb")

Presence = Literal["implicit", "explicit", "required", "repeated"]


@dataclass(frozen=True)
class Field:
    """A field or, if `extension` is true, an extension that the contract declares."""

    name: str  # an extension's is its full name
    symbol: str  # the full name
    number: int
    kind: int  # FieldDescriptor.TYPE_*
    type_name: str  # the full name of a message or enum; "" for a scalar
    presence: Presence
    oneof: str  # "" if none; the synthetic oneof of an `optional` field does not count
    json_name: str
    deprecated: bool
    entry: "Message | None" = None  # of a map: its key and value
    default: object = None  # what it reads as when unset; None for a message or list
    utf8: bool = False  # a string that parsers reject if it is not UTF-8
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
        """The value of a map, else the field itself."""
        return self.entry.fields[2] if self.entry else self

    @property
    def shown_default(self) -> str:
        """The default of a scalar, much as a proto file spells it."""
        if isinstance(self.default, bool):
            return "true" if self.default else "false"
        number = self.kind in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
        return str(self.default) if number else repr(self.default)

    @property
    def spelled(self) -> str:
        """The type as a proto file spells it."""
        if self.entry:
            key, value = self.entry.fields[1], self.entry.fields[2]
            return f"map<{key.spelled}, {value.spelled}>"
        word = self.type_name or SCALARS[self.kind]
        if self.kind == FieldDescriptor.TYPE_GROUP:
            word = f"group {word}"
        return f"repeated {word}" if self.repeated else word


@dataclass(frozen=True)
class Message:
    name: str
    package: str
    fields: Mapping[int, Field]  # including extensions that the contract declares
    reserved: tuple[range, ...] = ()
    deprecated: bool = False
    extension_ranges: tuple[range, ...] = ()
    message_set: bool = False
    strict_json: bool = True  # False: JSON is best effort
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
    closed: bool = False  # readers treat a number without a name as an unknown field
    strict_json: bool = True

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

    file: str  # the path as the user knows it
    line: int | None = None


class Contract:
    """One side of a comparison. Raises ContractError if the descriptors do not fit together.

    own: the files to compare, if not all; the others are imports.
    foreign: prefixes of packages that are not compared, unless there are no others.
    partial: more packages may exist, as with a server that offers only some services.
    shown: file names to the paths that the user knows.
    skipped: files that could not be read, with the reason.
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
        ordered = in_order(files, origin)
        self.own: frozenset[str] = frozenset(given if own is None else own & given)
        self.pool: DescriptorPool
        self.files: list[FileDescriptorProto]
        self.pool, self.files = pool_of(ordered, origin)
        self._read = Reader(self.pool, self.files)
        self.messages: Mapping[str, Message] = self._read.messages
        self.enums: Mapping[str, Enum] = self._read.enums
        self.services: Mapping[str, Service] = self._read.services
        self._foreign = tuple(FOREIGN if foreign is None else foreign)

    @cached_property
    def packages(self) -> frozenset[str]:
        """The packages to compare: all but the foreign ones, unless there are no others."""
        packages = {file.package for file in self.files if file.name in self.own}
        native = {name for name in packages if not f"{name}.".startswith(self._foreign)}
        return frozenset(native or packages)

    def without(self, names: Collection[str]) -> "Contract":
        """The same contract with these files excluded from the comparison."""
        less = copy(self)
        less.own = self.own - frozenset(names)
        less.__dict__.pop("packages", None)
        return less

    @cached_property
    def home(self) -> Mapping[str, str]:
        """The file of each top-level symbol."""
        return {name: str(file.name) for name, file in self._read.home.items()}

    def within(self, packages: Collection[str]) -> set[str]:
        """The messages, enums and services that its own files declare in these packages."""
        tables = self._read.raw_messages, self._read.raw_enums
        raws = (raw for table in tables for raw in table.values())
        names = {r.name for r in raws if r.file.package in packages and r.file.name in self.own}
        for service in self.services.values():
            if service.package in packages and service.file in self.own:
                names.add(service.name)
        return names

    def extended_by(self, packages: Collection[str]) -> set[str]:
        """The messages that its own files in these packages extend."""
        return {
            name
            for name, extensions in self._read.extensions.items()
            if any(r.file.package in packages and r.file.name in self.own for r in extensions)
        }

    def changed(self, other: "Contract") -> set[str]:
        """The messages and enums that both contracts declare, with different descriptors.

        A message that holds a changed enum counts as changed: its default may differ.
        """
        ours, theirs = self._read, other._read
        names: set[str] = set()
        for name, raw in ours.raw_enums.items():
            if (counterpart := theirs.raw_enums.get(name)) and not _equal(raw, counterpart):
                names.add(name)
                carriers = {carrier for carrier, _, _ in self.carriers.get(name, ())}
                names |= carriers & theirs.raw_messages.keys()
        for name, raw in ours.raw_messages.items():
            if counterpart := theirs.raw_messages.get(name):
                extended = name in ours.extensions or name in theirs.extensions
                if extended or not _equal(raw, counterpart):
                    names.add(name)
        return names

    @cached_property
    def every_package(self) -> frozenset[str]:
        return frozenset(file.package for file in self.files)

    def message_class(self, name: str) -> type[ProtoMessage]:
        """The class of a message of this contract. Two contracts never share a class."""
        if name not in self._classes:
            # Pure Python needs the classes of nested types first.
            for inner in self._nested_first(name) if _EAGER else [name]:
                if inner not in self._classes:
                    descriptor = self.pool.FindMessageTypeByName(inner)
                    members = {"DESCRIPTOR": descriptor, "__module__": None}
                    self._classes[inner] = _CLASS(descriptor.name, (ProtoMessage,), members)
        return self._classes[name]

    @cached_property
    def _classes(self) -> dict[str, type[ProtoMessage]]:
        return {}

    def _nested_first(self, name: str) -> list[str]:
        """The types that a message holds, innermost first, and the message itself last.

        protobuf creates the classes of nested types by recursion, which would exhaust the stack on
        a long chain.
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
        """The types that a message or the entry of a map holds, entries included."""
        entries, messages = self._read.entries, self._read.raw_messages
        fields = list((entries.get(name) or messages[name].proto).field)
        fields += [extension.proto for extension in self._read.extensions.get(name, ())]
        kinds = [field.type_name[1:] for field in fields]
        return [kind for kind in kinds if kind in messages or kind in entries]

    @cached_property
    def carriers(self) -> Mapping[str, list[tuple[str, int, str]]]:
        """For each message and enum, the fields of that type, including map values.

        Each field is given as its message, its number and its full name.
        """
        return self._read.carriers()

    @cached_property
    def has_any(self) -> bool:
        """Whether messages may hold google.protobuf.Any, whose type only the bytes name."""
        return any("google/protobuf/any.proto" in file.dependency for file in self.files)

    @cached_property
    def served(self) -> frozenset[str]:
        """The messages that RPCs take or return, and everything these hold."""
        rpcs = [rpc for service in self.services.values() for rpc in service.rpcs.values()]
        return self.reached({name for rpc in rpcs for name in (rpc.request, rpc.response)})

    def reached(self, names: set[str]) -> frozenset[str]:
        """These messages and everything that their fields hold, including enums."""
        seen: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                if name in self.messages:
                    todo += [kind for kind, _, _ in self._read.held(name)]
        return frozenset(seen)

    def shown(self, file: str) -> str:
        """The path of a file as the user knows it."""
        return self._shown.get(file, file)

    def place(self, symbol: str) -> Place | None:
        """Where a symbol, or the symbol around it, is declared; None if unknown."""
        if symbol in self.own:
            return Place(self.shown(symbol))
        name = symbol
        while name and name not in self._read.home:
            name = name.rpartition(".")[0]
        file = self._read.home.get(name)
        if file is None or file.name not in self.own:
            return None
        lines = self._lines(file)
        name = symbol
        while name and name not in lines:
            name = name.rpartition(".")[0]
        return Place(self.shown(str(file.name)), lines.get(name))

    def _lines(self, file: FileDescriptorProto) -> Mapping[str, int]:
        from smg_proto.compat._read import places

        if file.name not in self._places:
            self._places[str(file.name)] = dict(places(file))
        return self._places[str(file.name)]

    @cached_property
    def _places(self) -> dict[str, Mapping[str, int]]:
        return {}


def _equal(one: "Raw", other: "Raw") -> bool:
    return bool(one.features == other.features and one.proto == other.proto)
