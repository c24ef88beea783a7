"""contract.txt: a contract as sorted lines, one per symbol, and the differences between two.

Columns, tab separated, `-` for nothing: package, kind, symbol (within its package), number, type,
presence, oneof, release that introduced it, `deprecated`, start of the SHA-256 of its comment.
All columns but the last are facts: a comment may be rewritten, a fact may not.

Symbols that are read from such a file have that hash as their comment, and no file.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from smg_proto._descriptors import Symbol, symbols


def contract(files: FileDescriptorSet) -> set[Symbol]:
    """The symbols of all contracts of a descriptor set, without files and google.*."""
    return {
        replace(symbol, file="", comment=_hash(symbol.comment))
        for symbol in symbols(files)
        if symbol.kind != "file" and not symbol.package.startswith("google.")
    }


def _hash(comment: str) -> str:
    text = " ".join(comment.split())
    return hashlib.sha256(text.encode()).hexdigest()[:8] if text else ""


def as_line(symbol: Symbol) -> str:
    """A symbol as a line of contract.txt, which is also the sort key."""
    columns = (
        symbol.package,
        symbol.kind,
        symbol.name.removeprefix(symbol.package + "."),
        str(symbol.number) if _numbered(symbol) else "",
        symbol.type,
        symbol.presence,
        symbol.oneof,
        symbol.since,
        "deprecated" if symbol.deprecated else "",
        symbol.comment,
    )
    return "\t".join(column or "-" for column in columns)


def _numbered(symbol: Symbol) -> bool:
    return symbol.kind in ("field", "value") or (symbol.kind == "reserved" and not symbol.type)


def dump(contract: Iterable[Symbol]) -> str:
    return "".join(f"{row}\n" for row in sorted(map(as_line, contract)))


def parse(text: str) -> set[Symbol]:
    """The symbols of a contract.txt. ValueError names the line that is invalid."""
    symbols: set[Symbol] = set()
    for number, row in enumerate(text.splitlines(), 1):
        columns = ["" if column == "-" else column for column in row.split("\t")]
        if len(columns) != 10:
            raise ValueError(f"line {number} has {len(columns)} columns, not 10: {row!r}")
        package, kind, name, tag, type_, presence, oneof, since, deprecated, comment = columns
        facts: dict[str, Any] = {"kind": kind, "presence": presence}  # untyped: literal types
        symbol = Symbol(
            **facts,
            name=f"{package}.{name}",
            package=package,
            file="",
            number=int(tag or 0),
            type=type_,
            oneof=oneof,
            comment=comment,
            since=since,
            deprecated=deprecated == "deprecated",
        )
        if as_line(symbol) != row:
            raise ValueError(f"line {number} is not in canonical form: {row!r}")
        symbols.add(symbol)
    return symbols


def wire(symbol: Symbol) -> Symbol:
    """The parts of a released symbol that must never change."""
    return replace(symbol, deprecated=False, comment="")


def place(symbol: Symbol) -> tuple[str, int | None]:
    """The scope in which a number is unique, and the number."""
    return symbol.name.rpartition(".")[0], symbol.number if _numbered(symbol) else None


def facts(contract: Iterable[Symbol]) -> set[Symbol]:
    """The symbols without comments and releases, as in the descriptors of a wheel."""
    return {replace(symbol, since="", comment="") for symbol in contract}


def broken(old: Iterable[Symbol], now: Iterable[Symbol]) -> list[Symbol]:
    """Released symbols that a contract lacks: removed, renumbered, retyped or moved ones."""
    present = {wire(symbol) for symbol in now}
    return sorted((symbol for symbol in old if wire(symbol) not in present), key=as_line)


def reused(old: Iterable[Symbol], now: Iterable[Symbol]) -> list[Symbol]:
    """Fields whose number was released with another type in the same message."""
    types: dict[object, set[str]] = {}
    for symbol in old:
        if symbol.kind == "field":
            types.setdefault(place(symbol), set()).add(symbol.type)
    fields = (symbol for symbol in now if symbol.kind == "field")
    return sorted((f for f in fields if f.type not in types.get(place(f), {f.type})), key=as_line)


def changed(old: Iterable[Symbol], new: Iterable[Symbol]) -> list[str]:
    """The full names of symbols that differ in more than comments, outermost names only.

    A new message stands for its fields, and a new package for its messages.
    """
    before, after = facts(old), facts(new)
    names = {symbol.name for symbol in before ^ after if symbol.kind != "reserved"}
    names |= {symbol.package for symbol in after} ^ {symbol.package for symbol in before}
    return sorted(name for name in names if not any(parent in names for parent in _parents(name)))


def _parents(name: str) -> Iterable[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
