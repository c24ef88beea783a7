"""The installed contract, for the commands that print it or write it out."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property

from smg_proto import descriptor_set
from smg_proto._descriptors import Symbol, symbols
from smg_proto.cli import CommandError


class Installed:
    """The symbols of this release, google's own left out."""

    @cached_property
    def symbols(self) -> list[Symbol]:
        return [s for s in symbols(descriptor_set()) if not s.package.startswith("google.")]

    @cached_property
    def packages(self) -> list[str]:
        return sorted({symbol.package for symbol in self.symbols})

    def package(self, name: str) -> str:
        if name not in self.packages:
            raise CommandError(unknown("package", name, self.packages))
        return name

    def symbol(self, name: str) -> Symbol:
        """The symbol of this name; the last parts of a name will do where they are unambiguous.

        An RPC may be spelled as gRPC does: package.Service/Method.
        """
        name = name.lstrip("/").replace("/", ".")
        named = [s for s in self.symbols if s.kind not in ("file", "reserved")]
        found = [s for s in named if s.name == name] or [
            s for s in named if s.name.endswith(f".{name}")
        ]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(sorted(s.name for s in found))
            raise CommandError(f"{name!r} is the name of several symbols: {choices}")
        every = {s.name for s in named}
        short = {s.name.rpartition(".")[2]: s.name for s in named}
        close = get_close_matches(name, every, 3) or [
            short[word] for word in get_close_matches(name, short, 3)
        ]
        raise CommandError(unknown("symbol", name, close))

    def top(self, package: str) -> list[Symbol]:
        """What a package contains that is not nested, in the order of its files."""
        kinds = ("service", "message", "enum")
        return [s for s in self.symbols if s.kind in kinds and _outer(s) == s.package == package]

    def is_message(self, type_name: str) -> bool:
        """Whether a field's type is a message, whose presence goes without saying."""
        return type_name.startswith("google.") or type_name in self._messages

    @cached_property
    def _messages(self) -> frozenset[str]:
        return frozenset(s.name for s in self.symbols if s.kind == "message")

    @cached_property
    def _inside(self) -> dict[str, list[Symbol]]:
        """What each symbol contains, in the order of the file."""
        found: dict[str, list[Symbol]] = {}
        for symbol in self.symbols:
            parent = symbol.name if symbol.kind == "reserved" else _outer(symbol)
            found.setdefault(parent, []).append(symbol)
        return found

    def fields_of(self, oneof: Symbol) -> list[Symbol]:
        """The members of a oneof."""
        return [s for s in self._inside[_outer(oneof)] if s.oneof == oneof.name.rpartition(".")[2]]

    def inside(self, parent: Symbol) -> list[Symbol]:
        """What a symbol contains, in the order of the file."""
        return [] if parent.kind == "reserved" else self._inside.get(parent.name, [])


def _outer(symbol: Symbol) -> str:
    return symbol.name.rpartition(".")[0]


def unknown(what: str, name: str, choices: Iterable[str]) -> str:
    """One line for a name that there is not."""
    choices = sorted(choices)
    close = get_close_matches(name, choices, 3) or choices
    hint = f"; there is {', '.join(close)}" if close else ""
    return f"no {what} {name!r}{hint}"
