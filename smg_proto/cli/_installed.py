"""The installed contract, for the commands that print or write it."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property

from smg_proto import descriptor_set
from smg_proto._descriptors import Symbol, symbols
from smg_proto.cli import CommandError


class Installed:
    """The symbols of this release, without Google's own."""

    @cached_property
    def symbols(self) -> list[Symbol]:
        return [s for s in symbols(descriptor_set()) if not s.package.startswith("google.")]

    @cached_property
    def packages(self) -> list[str]:
        # Not from the symbols: to collect them takes longer than all else that export does.
        packages = {file.package for file in descriptor_set().file}
        return sorted(name for name in packages if not name.startswith("google."))

    def package(self, name: str) -> str:
        if name not in self.packages:
            raise CommandError(unknown("package", name, self.packages))
        return name

    def symbol(self, name: str) -> Symbol:
        """The symbol of this name, or of the last parts of a name if they are unambiguous.

        An RPC may also be written as in gRPC: package.Service/Method.
        """
        name = name.lstrip("/").replace("/", ".")
        named = [s for s in self.symbols if s.kind not in ("file", "reserved")]
        matches = [s for s in named if s.name == name] or [
            s for s in named if s.name.endswith(f".{name}")
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(sorted(s.name for s in matches))
            raise CommandError(f"ambiguous name {name!r}: choose from {choices}")
        full = {s.name for s in named}
        short = {s.name.rpartition(".")[2]: s.name for s in named}
        close = get_close_matches(name, full, 3) or [
            short[word] for word in get_close_matches(name, short, 3)
        ]
        raise CommandError(unknown("symbol", name, close))

    def top(self, package: str) -> list[Symbol]:
        """The top-level symbols of a package, in the order of its files."""
        kinds = ("service", "message", "enum")
        return [s for s in self.symbols if s.kind in kinds and _outer(s) == s.package == package]

    def is_message(self, type_name: str) -> bool:
        """Whether a field's type is a message, which has presence without `optional`."""
        return type_name.startswith("google.") or type_name in self._messages

    @cached_property
    def _messages(self) -> frozenset[str]:
        return frozenset(s.name for s in self.symbols if s.kind == "message")

    @cached_property
    def _inside(self) -> dict[str, list[Symbol]]:
        """The members of each symbol, in the order of the file."""
        members: dict[str, list[Symbol]] = {}
        for symbol in self.symbols:
            parent = symbol.name if symbol.kind == "reserved" else _outer(symbol)
            members.setdefault(parent, []).append(symbol)
        return members

    def fields_of(self, oneof: Symbol) -> list[Symbol]:
        """The members of a oneof."""
        return [s for s in self._inside[_outer(oneof)] if s.oneof == oneof.name.rpartition(".")[2]]

    def inside(self, parent: Symbol) -> list[Symbol]:
        """The members of a symbol, in the order of the file."""
        return [] if parent.kind == "reserved" else self._inside.get(parent.name, [])


def _outer(symbol: Symbol) -> str:
    return symbol.name.rpartition(".")[0]


def unknown(what: str, name: str, choices: Iterable[str]) -> str:
    """The error for an unknown name, with similar names."""
    choices = sorted(choices)
    close = get_close_matches(name, choices, 3) or choices
    hint = f"; choose from {', '.join(close)}" if close else ""
    return f"no {what} {name!r}{hint}"
