"""The current contracts as a tree to edit, and where in it an edit of some kind can be made."""

from collections.abc import Callable, Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from smg_proto._descriptors import Declaration, declarations

F = FieldDescriptorProto
Field = tuple[DescriptorProto, FieldDescriptorProto]
Find = Callable[["Tree"], Iterator[str]]


class Tree:
    """The current contracts, to be edited: messages, fields, enums and services by full name."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.files = FileDescriptorSet()
        self.files.CopyFrom(files)
        self.home: dict[str, FileDescriptorProto] = {}
        self.messages: dict[str, DescriptorProto] = {}
        self.fields: dict[str, Field] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.services: dict[str, ServiceDescriptorProto] = {}
        self.rpcs: dict[str, MethodDescriptorProto] = {}
        for file in self.files.file:
            self._add_file(file)

    def restore(self, files: FileDescriptorSet) -> None:
        """Undo all edits. These are the files as they were; an edit may have added some."""
        del self.files.file[len(files.file) :]
        for edited, file in zip(self.files.file, files.file, strict=True):
            if edited != file:
                edited.CopyFrom(file)
                self._add_file(edited)

    def _add_file(self, file: FileDescriptorProto) -> None:
        if not file.package.startswith("google."):
            for declared in declarations(file):
                self._add(declared)

    def _add(self, declared: Declaration) -> None:
        name, proto = declared.name, declared.proto
        self.home[name] = declared.file
        match declared.kind:
            case "message":
                self.messages[name] = proto
            case "field":
                self.fields[name] = declared.parent, proto
            case "enum":
                self.enums[name] = proto
            case "service":
                self.services[name] = proto
            case "rpc":
                self.rpcs[name] = proto
            case _:
                pass

    def plain(self) -> Iterator[tuple[str, DescriptorProto, FieldDescriptorProto]]:
        """Singular scalar fields that stand alone: in no oneof, not `optional`."""
        for name, (message, field) in self.fields.items():
            if is_plain(message, field):
                yield name, message, field

    def carried(self) -> set[str]:
        """The enums that some field is of."""
        return {field.type_name.lstrip(".") for _, field in self.fields.values()}


def is_plain(message: DescriptorProto, field: FieldDescriptorProto) -> bool:
    alone = not field.HasField("oneof_index") and field.label == F.LABEL_OPTIONAL
    return alone and not field.type_name and not message.options.map_entry


# --- where an edit can be made ---------------------------------------------------------------


def of_type(*kinds: int, label: int = F.LABEL_OPTIONAL) -> Find:
    def find(tree: Tree) -> Iterator[str]:
        for name, (message, field) in tree.fields.items():
            if field.type in kinds and field.label == label and not message.options.map_entry:
                yield name

    return find


def plain_of_type(*kinds: int) -> Find:
    return lambda tree: (name for name, _, field in tree.plain() if field.type in kinds)


def plain_twice(tree: Tree) -> Iterator[str]:
    """A plain field whose message has another one of the same type."""
    for name, message, field in tree.plain():
        if twin(message, field):
            yield name


def twin(message: DescriptorProto, field: FieldDescriptorProto) -> FieldDescriptorProto | None:
    """Another plain field of the message that has the same type."""
    for other in message.field:
        if other.name != field.name and other.type == field.type and is_plain(message, other):
            return other
    return None


def optional_scalar(tree: Tree) -> Iterator[str]:
    return (name for name, (_, field) in tree.fields.items() if field.proto3_optional)


def oneof_member(tree: Tree) -> Iterator[str]:
    """A member of a oneof that has others."""
    for name, (message, field) in tree.fields.items():
        if field.HasField("oneof_index") and not field.proto3_optional:
            members = [f for f in message.field if f.oneof_index == field.oneof_index]
            if len([f for f in members if f.HasField("oneof_index")]) > 1:
                yield name


def message_field(tree: Tree) -> Iterator[str]:
    for name in of_type(F.TYPE_MESSAGE)(tree):
        kind = tree.fields[name][1].type_name.lstrip(".")
        if kind in tree.messages and tree.messages[kind].field:
            yield name


def map_field(tree: Tree) -> Iterator[str]:
    for name in of_type(F.TYPE_MESSAGE, label=F.LABEL_REPEATED)(tree):
        kind = tree.fields[name][1].type_name.lstrip(".")
        if kind in tree.messages and tree.messages[kind].options.map_entry:
            yield name


def enum_field(tree: Tree) -> Iterator[str]:
    return of_type(F.TYPE_ENUM)(tree)


def carried_enum(tree: Tree) -> Iterator[str]:
    carried = tree.carried()
    return (name for name, enum in tree.enums.items() if name in carried and len(enum.value) > 2)


def message_field_to_copy(tree: Tree) -> Iterator[str]:
    """A field of a message type that holds no other type."""
    for name in message_field(tree):
        kind = tree.messages[tree.fields[name][1].type_name.lstrip(".")]
        if not kind.nested_type and not kind.enum_type:
            yield name


def flat_message(tree: Tree) -> Iterator[str]:
    """A top-level message of scalars."""
    for name in any_message(tree):
        top = name.count(".") == tree.home[name].package.count(".") + 1
        message = tree.messages[name]
        if top and not message.nested_type and not any(f.type_name for f in message.field):
            yield name


def any_message(tree: Tree) -> Iterator[str]:
    for name, message in tree.messages.items():
        if message.field and not message.options.map_entry:
            yield name


def any_service(tree: Tree) -> Iterator[str]:
    yield from tree.services


def any_rpc(tree: Tree) -> Iterator[str]:
    yield from tree.rpcs
