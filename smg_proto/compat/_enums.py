"""Compares enums, value by value."""

from collections.abc import Callable, Iterator, Mapping

from smg_proto.compat._contract import Enum, Field, Message
from smg_proto.compat._fields import Messages, who
from smg_proto.compat._probe import Witness, closing_witness, value_witness
from smg_proto.compat._report import Finding
from smg_proto.compat._samples import Side, same_encoding, went_elsewhere

Probe = Callable[[Side, Side, int], Witness | None]


class Enums:
    """Compares enums of two contracts. replaced: old type names to those that replaced them."""

    def __init__(self, messages: Messages, replaced: Mapping[str, str]) -> None:
        self._messages = messages
        self._replaced = replaced

    def findings(self, old: Enum, new: Enum) -> Iterator[Finding]:
        for name, number in old.numbers.items():
            if name not in new.numbers:
                yield from self._gone(old, new, name, number)
            elif number != new.numbers[name]:
                symbol = f"{old.name}.{name}"
                what = f"Renumbered from {number} to {new.numbers[name]}"
                yield from self._values(old, new, symbol, {number, new.numbers[name]}, what)
                yield Finding("source", symbol, f"{what}: compiled code holds the old number.")
            elif name in new.deprecated and name not in old.deprecated:
                yield Finding("notice", f"{old.name}.{name}", "Deprecated.")
        for name, number in new.numbers.items():
            if name not in old.numbers and number not in old.names:
                yield from self._added(old, new, name, number)
        yield from self._kind(old, new)

    def _gone(self, old: Enum, new: Enum, name: str, number: int) -> Iterator[Finding]:
        symbol = f"{old.name}.{name}"
        successors = new.names.get(number, frozenset[str]()) - old.names[number]
        what = "Removed"
        if successors:
            reused = successors & old.numbers.keys()
            verb = f"Removed, and {number} is now" if reused else "Renamed to"
            what = f"{verb} {', '.join(sorted(successors))}"
        has_alias = bool(new.names.get(number)) and not successors
        if not has_alias:
            text = f"{what} (was {number})"
            yield from self._values(old, new, symbol, {number}, text, removal=not successors)
        yield Finding("json", symbol, f"{what}: JSON readers reject the name.")
        yield Finding("source", symbol, f"{what}: code that names it fails.")

    def _added(self, old: Enum, new: Enum, name: str, number: int) -> Iterator[Finding]:
        symbol = f"{old.name}.{name}"
        text = f"Added as {number}: older peers see a number without a name."
        if old.closed:
            what = f"Added as {number} to a closed enum"
            broken = list(self._values(old, new, symbol, {number}, what))
            yield from broken
            text = f"{what}: older peers read the field as unset."
            if broken:
                return
        yield Finding("notice", symbol, text)

    def _kind(self, old: Enum, new: Enum) -> Iterator[Finding]:
        if old.closed != new.closed:
            what = "Was open, is closed" if new.closed else "Was closed, is open"
            if witness := self._witness(old, new, closing_witness):
                text = f"{what}: for numbers without a name, {who(witness)}"
                text += f"{self._messages.carried(old.name)}."
                yield Finding("data", old.name, text, witness)
            text = f"{what}: code sees numbers without a name differently."
            yield Finding("source", old.name, text)
        if old.strict_json and not new.strict_json:
            text = "json_format is now best effort: some runtimes reject its JSON."
            yield Finding("json", old.name, text)

    def _values(
        self,
        old: Enum,
        new: Enum,
        symbol: str,
        numbers: set[int],
        what: str,
        removal: bool = False,
    ) -> Iterator[Finding]:
        """The finding, if a message with a field of the enum shows the difference."""

        def probe(one: Side, other: Side, number: int) -> Witness | None:
            return value_witness(one, other, number, numbers)

        if witness := self._witness(old, new, probe):
            text = f"{what}: {who(witness)}{self._messages.carried(old.name)}."
            yield Finding("data", symbol, text, witness, removal)

    def _witness(self, old: Enum, new: Enum, probe: Probe) -> Witness | None:
        """The first witness among the fields of the enum, one that the bytes show if possible."""
        named: Witness | None = None
        for message, after, number in self._carried_by(old, new):
            sides = Side(self._messages.old, message), Side(self._messages.new, after)
            if witness := probe(*sides, number):
                if not witness.by_name:
                    return witness
                named = named or witness
        return named

    def _carried_by(self, old: Enum, new: Enum) -> Iterator[tuple[Message, Message, int]]:
        """The fields that have the enum as their type on both sides."""
        before, now = self._messages.old.messages, self._messages.new.messages
        for name, number, _ in self._messages.old.carriers.get(old.name, ()):
            message = before[name]
            after = now.get(name) or now.get(self._replaced.get(name, ""))
            f, g = message.fields[number], after.fields.get(number) if after else None
            if after and g and g.value.type_name == new.name and _same(f, g, message, after):
                yield message, after, number


def _same(f: Field, g: Field, old: Message, new: Message) -> bool:
    same = same_encoding(f, g) and same_encoding(f.value, g.value)
    return same and not went_elsewhere(f, g, old, new)
