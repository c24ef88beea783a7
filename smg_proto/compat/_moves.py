"""Compares files: where symbols are declared, and options for generated code."""

from collections.abc import Collection, Iterator, Mapping

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileOptions

from smg_proto.compat._contract import Contract
from smg_proto.compat._files import edition
from smg_proto.compat._report import Finding, FindingClass

_SYMBOLS_NAMED = 4
# Options that do not affect users of the generated code.
_IGNORED = {"deprecated", "uninterpreted_option", "features", "java_generate_equals_and_hash"}


def findings(old: Contract, new: Contract, packages: Collection[str]) -> Iterator[Finding]:
    """The findings about the files of these packages."""
    before, after = _own(old), _own(new)
    moved = dict(_moved(old, new, before, after, packages))
    for (source, target), symbols in moved.items():
        listed = ", ".join(symbols[:_SYMBOLS_NAMED])
        rest = len(symbols) - _SYMBOLS_NAMED
        listed += f" and {rest} more" if rest > 0 else ""
        text = f"{listed}: now declared in {target}; code that imports this file for it fails."
        yield Finding("source", source, text, package=before[source].package)
    for name, file in before.items():
        if file.package not in packages:
            continue
        if name not in after:
            if not any(source == name for source, _ in moved):
                text = "The file was removed: code that imports it fails."
                yield Finding("source", name, text, package=file.package)
        else:
            yield from _public_imports(file, after, new)
            yield from _options(file, after[name])


def _own(contract: Contract) -> dict[str, FileDescriptorProto]:
    return {file.name: file for file in contract.files if file.name in contract.own}


def _moved(
    old: Contract,
    new: Contract,
    before: Mapping[str, FileDescriptorProto],
    after: Mapping[str, FileDescriptorProto],
    packages: Collection[str],
) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """For each pair of old and new file, the symbols that moved."""
    moved: dict[tuple[str, str], list[str]] = {}
    for symbol, source in old.home.items():
        if source not in before or before[source].package not in packages:
            continue
        target = new.home.get(symbol)
        if target and target != source and target not in _visible(source, after):
            moved.setdefault((source, target), []).append(symbol)
    yield from moved.items()


def _visible(name: str, files: Mapping[str, FileDescriptorProto]) -> set[str]:
    """The files that importing this one makes visible: itself and its public imports."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current in files and current not in seen:
            seen.add(current)
            file = files[current]
            todo += [str(file.dependency[index]) for index in file.public_dependency]
    return seen


def _public_imports(
    file: FileDescriptorProto, after: Mapping[str, FileDescriptorProto], new: Contract
) -> Iterator[Finding]:
    visible = _visible(file.name, after)
    for index in file.public_dependency:
        name = str(file.dependency[index])
        kept = [symbol for symbol, home in new.home.items() if home == name]
        if name not in visible and (kept or name not in after):
            text = f"No longer imports {name} publicly: code that imports it for that fails."
            yield Finding("source", file.name, text, package=file.package)


def _options(old: FileDescriptorProto, new: FileDescriptorProto) -> Iterator[Finding]:
    """Options that decide which code is generated, and under which names."""
    for option in FileOptions.DESCRIPTOR.fields:
        if option.name in _IGNORED or option.message_type is not None:
            continue
        was, now = getattr(old.options, option.name), getattr(new.options, option.name)
        if was == now:
            continue
        what = "generated code moves" if isinstance(was, str) else "generated code changes"
        words = (_spelled(option, value) for value in (was, now))
        text = "{} was {}, is {}: {}.".format(option.name, *words, what)
        yield Finding("source", old.name, text, package=old.package)
    names = [_SYNTAX.get(edition(file), str(edition(file))) for file in (old, new)]
    if names[0] != names[1]:
        # An edition can express all of proto2 and proto3; its features are compared on their own.
        newest = max(edition(old), edition(new))
        cls: FindingClass = "source" if newest < 1000 else "notice"
        text = f"Was {names[0]}, is {names[1]}"
        text += ": generated code changes." if cls == "source" else "."
        yield Finding(cls, old.name, text, package=old.package)


_SYNTAX = {998: "proto2", 999: "proto3", 1000: "edition 2023", 1001: "edition 2024"}


def _spelled(option: object, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    enum = getattr(option, "enum_type", None)
    if enum is not None:
        return str(enum.values_by_number[value].name)
    return str(value) or "unset"
