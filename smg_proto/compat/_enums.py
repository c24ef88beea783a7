"""What changed in an enum, value by value."""

from collections.abc import Callable, Iterator, Mapping

from smg_proto.compat._contract import Enum, Field, Message
from smg_proto.compat._fields import Messages, who
from smg_proto.compat._probe import Witness, closing_witness, value_witness
from smg_proto.compat._report import Finding
from smg_proto.compat._samples import Side, same_encoding, went_elsewhere

Probe = Callable[[Side, Side, int], Witness | None]


class Enums:
    """Compares enums of two contracts. replaced: which type of the new one stands for which."""

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
                yield Finding("source", symbol, f"{what}: its number is in compiled code.")
            elif name in new.deprecated and name not in old.deprecated:
                yield Finding("notice", f"{old.name}.{name}", "Deprecated.")
        for name, number in new.numbers.items():
            if name not in old.numbers and number not in old.names:
                yield from self._added(old, new, name, number)
        yield from self._kind(old, new)

    def _gone(self, old: Enum, new: Enum, name: str, number: int) -> Iterator[Finding]:
        symbol = f"{old.name}.{name}"
        here = new.names.get(number, frozenset[str]()) - old.names[number]
        what = "Removed"
        if here:
            reused = here & old.numbers.keys()
            verb = f"Removed, and {number} is" if reused else "Renamed to"
            what = f"{verb} {', '.join(sorted(here))}"
        kept = bool(new.names.get(number)) and not here  # an alias is left
        if not kept:
            text = f"{what} (was {number})"
            yield from self._values(old, new, symbol, {number}, text, removal=not here)
        yield Finding("json", symbol, f"{what}: a JSON reader refuses the name.")
        yield Finding("source", symbol, f"{what}: code that names it fails.")

    def _added(self, old: Enum, new: Enum, name: str, number: int) -> Iterator[Finding]:
        symbol = f"{old.name}.{name}"
        text = f"Added as {number}: an older peer sees a number without a name."
        if old.closed:
            what = f"Added as {number} to a closed enum"
            broken = list(self._values(old, new, symbol, {number}, what))
            yield from broken
            text = f"{what}: an older peer reads the field as unset."
            if broken:
                return
        yield Finding("notice", symbol, text)

    def _kind(self, old: Enum, new: Enum) -> Iterator[Finding]:
        if old.closed != new.closed:
            words = "open, is closed" if new.closed else "closed, is open"
            what = f"Was {words}"
            if found := self._shown_by(old, new, closing_witness):
                text = f"{what}: of numbers without a name, {who(found)}"
                text += f"{self._messages.carried(old.name)}."
                yield Finding("data", old.name, text, found)
            text = f"{what}: code that is given a number without a name sees another thing."
            yield Finding("source", old.name, text)
        if old.strict_json and not new.strict_json:
            text = "json_format is best effort now: some runtimes refuse its JSON."
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
        """The finding, if a field carries the enum on both sides and a message shows it."""

        def probe(one: Side, other: Side, number: int) -> Witness | None:
            return value_witness(one, other, number, numbers)

        if witness := self._shown_by(old, new, probe):
            text = f"{what}: {who(witness)}{self._messages.carried(old.name)}."
            yield Finding("data", symbol, text, witness, removal)

    def _shown_by(self, old: Enum, new: Enum, probe: Probe) -> Witness | None:
        """The first witness of the fields that are of the enum; a hard one goes first."""
        named: Witness | None = None
        for message, after, number in self._carried_by(old, new):
            sides = Side(self._messages.old, message), Side(self._messages.new, after)
            if witness := probe(*sides, number):
                if not witness.by_name:
                    return witness
                named = named or witness
        return named

    def _carried_by(self, old: Enum, new: Enum) -> Iterator[tuple[Message, Message, int]]:
        """The fields that are of the enum on both sides."""
        here, there = self._messages.old.messages, self._messages.new.messages
        for name, number, _ in self._messages.old.carriers.get(old.name, ()):
            message = here[name]
            after = there.get(name) or there.get(self._replaced.get(name, ""))
            f, g = message.fields[number], after.fields.get(number) if after else None
            if after and g and g.value.type_name == new.name and _same(f, g, message, after):
                yield message, after, number


def _same(f: Field, g: Field, old: Message, new: Message) -> bool:
    alike = same_encoding(f, g) and same_encoding(f.value, g.value)
    return alike and not went_elsewhere(f, g, old, new)
