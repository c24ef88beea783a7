"""contract.txt: a contract as sorted lines, one for each symbol, and what two of them differ in.

Columns, tab separated, `-` for nothing: package, kind, symbol (within its package), number, type,
presence, oneof, release that introduced it, `deprecated`, start of the SHA-256 of its comment.
The facts are all columns but the last: a comment may be rewritten, a fact may not.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from smg_proto._descriptors import Symbol, symbols


@dataclass(frozen=True, order=True)
class Line:
    package: str
    kind: str
    symbol: str
    number: str
    type: str
    presence: str
    oneof: str
    since: str
    deprecated: str
    comment: str

    @property
    def name(self) -> str:
        """The symbol in full."""
        return f"{self.package}.{self.symbol}"

    @property
    def place(self) -> tuple[str, str, str]:
        """What a number is unique in, and the number."""
        return self.package, self.symbol.rpartition(".")[0], self.number

    @property
    def wire(self) -> "Line":
        """What a released symbol can never change."""
        return replace(self, deprecated="-", comment="-")

    def __str__(self) -> str:
        return "\t".join(vars(self).values())


def contract(files: FileDescriptorSet) -> set[Line]:
    """The lines of all contracts of a descriptor set; files and google.* are none."""
    return {
        _line(symbol)
        for symbol in symbols(files)
        if symbol.kind != "file" and not symbol.package.startswith("google.")
    }


def _line(symbol: Symbol) -> Line:
    numbered = symbol.kind in ("field", "value") or (symbol.kind == "reserved" and not symbol.type)
    comment = " ".join(symbol.comment.split())
    return Line(
        symbol.package,
        symbol.kind,
        symbol.name.removeprefix(symbol.package + "."),
        str(symbol.number) if numbered else "-",
        symbol.type or "-",
        symbol.presence or "-",
        symbol.oneof or "-",
        symbol.since or "-",
        "deprecated" if symbol.deprecated else "-",
        hashlib.sha256(comment.encode()).hexdigest()[:8] if comment else "-",
    )


def facts(lines: Iterable[Line]) -> set[Line]:
    """Without comments and all that comments say: what a wheel's descriptors tell."""
    return {replace(line, since="-", comment="-") for line in lines}


def dump(lines: Iterable[Line]) -> str:
    return "".join(f"{line}\n" for line in sorted(lines))


def parse(text: str) -> set[Line]:
    """The lines of a contract.txt; ValueError names a line that is none."""
    lines: set[Line] = set()
    for number, row in enumerate(text.splitlines(), 1):
        columns = row.split("\t")
        if len(columns) != 10:
            raise ValueError(f"line {number} has {len(columns)} columns, not 10: {row!r}")
        lines.add(Line(*columns))
    return lines


def broken(released: Iterable[Line], now: Iterable[Line]) -> list[Line]:
    """The released lines that a contract lacks: what was removed, renumbered, retyped, moved."""
    there = {line.wire for line in now}
    return sorted(line for line in released if line.wire not in there)


def reused(released: Iterable[Line], now: Iterable[Line]) -> list[Line]:
    """Lines that use a number that was released in the same message for another type."""
    types: dict[tuple[str, str, str], set[str]] = {}
    for line in released:
        if line.kind == "field":
            types.setdefault(line.place, set()).add(line.type)
    return sorted(
        line
        for line in now
        if line.kind == "field" and line.type not in types.get(line.place, {line.type})
    )


def changed(old: Iterable[Line], new: Iterable[Line]) -> list[str]:
    """The full names of what differs in more than comments, outermost names only.

    A new message stands for its fields, a new package for its messages.
    """
    facts_old, facts_new = ({replace(x, comment="-", since="-") for x in s} for s in (old, new))
    names = {line.name for line in facts_old ^ facts_new if line.kind != "reserved"}
    for package in {x.package for x in facts_new} ^ {x.package for x in facts_old}:
        names.add(package)
    return sorted(name for name in names if not any(parent in names for parent in _parents(name)))


def _parents(name: str) -> Iterable[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
