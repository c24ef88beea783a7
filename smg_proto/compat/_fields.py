"""What changed in a message, field by field."""

from collections.abc import Iterator

from smg_proto.compat._contract import Contract, Field, Message
from smg_proto.compat._json import json_form
from smg_proto.compat._probe import Witness, encoding_witness, field_witness, fields_witness, joined
from smg_proto.compat._report import Finding
from smg_proto.compat._samples import Side, went_elsewhere

_CARRIERS_NAMED = 6
_JSTYPES = ("JS_NORMAL", "JS_STRING", "JS_NUMBER")


class Messages:
    """Compares messages of two contracts."""

    def __init__(self, old: Contract, new: Contract) -> None:
        self.old: Contract = old
        self.new: Contract = new
        self._witnesses: dict[tuple[str, str, int], Witness | None] = {}

    def witness(self, old: Message, new: Message, number: int) -> Witness | None:
        """What shows that this field is not read as it was meant."""
        key = (old.name, new.name, number)
        if key not in self._witnesses:
            sides = Side(self.old, old), Side(self.new, new)
            self._witnesses[key] = field_witness(*sides, number)
        return self._witnesses[key]

    def findings(self, old: Message, new: Message) -> Iterator[Finding]:
        for number in sorted(old.fields.keys() | new.fields.keys()):
            f, g = old.fields.get(number), new.fields.get(number)
            if f == g:
                continue
            if f and g and went_elsewhere(f, g, old, new):
                yield from self._reused(old, new, f, g)
            elif f and g:
                yield from self._field(old, new, f, g)
            elif f:
                yield from self._gone(old, new, f)
            elif g:
                yield from self._added(old, new, g)
        if old.oneofs != new.oneofs:
            yield from self._oneofs(old, new)
        yield from self._options(old, new)

    def _added(self, old: Message, new: Message, g: Field) -> Iterator[Finding]:
        if g.presence == "required":
            what = f"Added as {g.number}, and required"
            yield from self._data(old, new, g, what)
            yield Finding("source", g.symbol, f"{what}: code that does not set it fails.")
        elif g.name not in old.by_name:
            text = f"Added as {g.number}: an older peer ignores it."
            if old.reserves(g.number):
                text += " The number was reserved: an older peer may still send something else."
            yield Finding("notice", g.symbol, text)

    def _gone(self, old: Message, new: Message, f: Field) -> Iterator[Finding]:
        """No field has the number any more."""
        if moved := new.by_name.get(f.name):
            what = f"Renumbered from {f.number} to {moved.number}"
        else:
            what = f"Removed (was {f.number}, {f.spelled})"
            what += "" if new.reserves(f.number) else ", and its number is not reserved"
        witness = self.witness(old, new, f.number)
        if moved:
            witness = joined(witness, self.witness(old, new, moved.number))
        yield from self._shown(old, f, what, witness, removal=moved is None)
        yield from self._named(f, moved)

    def _reused(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        """The number belongs to another field now."""
        what = f"Number {f.number} was {f.name} ({f.spelled}) and is {g.name} ({g.spelled}) now"
        yield from self._data(old, new, f, what)
        yield from self._named(f, new.by_name.get(f.name))

    def _named(self, f: Field, moved: Field | None) -> Iterator[Finding]:
        """What those see who know the field by its name, not its number."""
        if moved:
            yield from self._shape(f, moved)
            return
        text = f"Removed: a JSON reader refuses `{f.json_name}`, a JSON writer leaves it out."
        yield Finding("json", f.symbol, text)
        yield Finding("source", f.symbol, "Removed: code that names it fails.")

    def _data(
        self, old: Message, new: Message, f: Field, what: str, removal: bool = False
    ) -> Iterator[Finding]:
        """The finding, if there is a message that shows it."""
        yield from self._shown(old, f, what, self.witness(old, new, f.number), removal)

    def _shown(
        self, old: Message, f: Field, what: str, witness: Witness | None, removal: bool = False
    ) -> Iterator[Finding]:
        if witness:
            text = f"{what}: {who(witness)}{self.carried(old.name)}."
            yield Finding("data", f.symbol, text, witness, removal)

    def carried(self, name: str) -> str:
        """Who else is affected: the fields that carry the message, directly or not."""
        seen, found, todo = {name}, dict[str, None](), [name]
        while todo:
            for carrier, _, symbol in self.old.carriers.get(todo.pop(0), ()):
                found[symbol] = None
                if carrier not in seen:
                    seen.add(carrier)
                    todo.append(carrier)
        names = list(found)
        rest = len(names) - _CARRIERS_NAMED
        listed = ", ".join(names[:_CARRIERS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        carried = f"; carried by {listed}" if names else ""
        unreached = self.old.services and name not in self.old.served
        return carried + ("; no RPC reaches it" if unreached else "")

    def _field(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        """One field on both sides, perhaps under another name."""
        if f.name != g.name:
            text = f"Renamed to {g.name}: code that names it fails."
            yield Finding("source", f.symbol, text)
        if f.json_name != g.json_name:
            text = f"JSON calls it `{g.json_name}`, not `{f.json_name}`."
            yield Finding("json", f.symbol, text)
        broken = list(self._data(old, new, f, _difference(f, g)))
        yield from broken
        yield from self._shape(f, g)
        if f.presence != g.presence and not (f.repeated or g.repeated):
            yield Finding("presence", f.symbol, _presence(f, g))
        if f.default != g.default and not broken and f.kind == g.kind:
            text = f"{_default(f, g)}: code that reads it unset sees the difference."
            yield Finding("source", f.symbol, text)
        if f.jstype != g.jstype:
            words = f"jstype was {_JSTYPES[f.jstype]}, is {_JSTYPES[g.jstype]}"
            yield Finding("source", f.symbol, f"{words}: JavaScript has another type.")
        if g.deprecated and not f.deprecated:
            yield Finding("notice", f.symbol, "Deprecated.")

    def _shape(self, f: Field, g: Field) -> Iterator[Finding]:
        """What a change of type means in code and in JSON."""
        if f.spelled == g.spelled:
            return
        what = f"Was {f.spelled}, is {g.spelled}"
        yield Finding("source", f.symbol, f"{what}: code sees another type.")
        forms = json_form(f), json_form(g)
        if forms[0] != forms[1]:
            yield Finding("json", f.symbol, f"{what}: JSON has {forms[1]} instead of {forms[0]}.")

    def _oneofs(self, old: Message, new: Message) -> Iterator[Finding]:
        """Fields that could be set together and can not now, or the other way round."""
        common = {
            number
            for number in old.fields.keys() & new.fields.keys()
            if not went_elsewhere(old.fields[number], new.fields[number], old, new)
        }
        sides = Side(self.old, old), Side(self.new, new)
        for side, other, verb in ((new, old, "joined in"), (old, new, "taken out of")):
            for name, members in side.oneofs.items():
                shared = sorted(members & common)
                there = {other.fields[number].oneof for number in shared}
                if "" not in there and len(there) == 1:
                    continue  # they are one oneof on both sides
                if witness := fields_witness(*sides, shared):
                    names = ", ".join(side.fields[number].name for number in shared)
                    what = f"{names} are {verb} one oneof"
                    text = f"{what}: {who(witness)}{self.carried(old.name)}."
                    yield Finding("data", f"{old.name}.{name}", text, witness)
        for name in old.oneofs.keys() - new.oneofs.keys():
            text = "Removed or renamed: code that asks which of its fields is set fails."
            yield Finding("source", f"{old.name}.{name}", text)
        for number in sorted(common):
            f, g = old.fields[number], new.fields[number]
            if g.oneof and not f.oneof:
                text = f"Belongs to the oneof {g.oneof} now: generated code has another shape."
                yield Finding("source", f.symbol, text)
            elif f.oneof and not g.oneof:
                text = f"Left the oneof {f.oneof}: generated code has another shape."
                yield Finding("source", f.symbol, text)

    def _options(self, old: Message, new: Message) -> Iterator[Finding]:
        if old.message_set != new.message_set:
            words = "is a MessageSet now" if new.message_set else "is no MessageSet any more"
            text = f"It {words}: its extensions are written in another way."
            yield Finding("source", old.name, text)
            sides = Side(self.old, old), Side(self.new, new)
            for number in old.fields.keys() & new.fields.keys():
                f = old.fields[number]
                yield from self._shown(
                    old, f, f"Its message {words}", encoding_witness(*sides, number)
                )
        for span in old.extension_ranges:
            if lost := _uncovered(span, new.extension_ranges):
                text = f"Numbers {lost} are no extensions any more: who extends it does not build."
                yield Finding("source", old.name, text)
        if old.strict_json and not new.strict_json:
            text = "json_format is best effort now: some runtimes refuse its JSON."
            yield Finding("json", old.name, text)
        for span in old.reserved:
            if freed := _uncovered(span, new.reserved):
                if any(number in span for number in new.fields):
                    continue  # said at the field that took it
                yield Finding("notice", old.name, f"Numbers {freed} are reserved no more.")
        if new.deprecated and not old.deprecated:
            yield Finding("notice", old.name, "Deprecated.")


def _uncovered(span: range, others: tuple[range, ...]) -> str:
    """The part of a range that no other range covers, as people write it; "" for none."""
    start = span.start
    for other in sorted(others, key=lambda r: r.start):
        if other.start <= start < other.stop:
            start = other.stop
    if start >= span.stop:
        return ""
    end = min((r.start for r in others if start < r.start < span.stop), default=span.stop)
    return f"{start}" if end - start == 1 else f"{start} to {end - 1}"


def who(witness: Witness) -> str:
    """Who notices a data finding."""
    parts: list[str] = []
    seen: Witness | None = witness
    by_name = True
    while seen:
        old_first = seen.direction == "old to new"
        sender, reader = ("an old", "a new") if old_first else ("a new", "an old")
        match seen.outcome:
            case "undecodable":
                parts.append(f"{reader} reader cannot parse what {sender} sender writes")
            case "lost":
                parts.append(f"{reader} reader loses what {sender} sender sets")
            case "misread":
                parts.append(f"{reader} reader takes what {sender} sender sets for something else")
        by_name = by_name and seen.by_name
        seen = seen.reverse
    return ", and ".join(parts) + (", judging by the names" if by_name else "")


def _difference(f: Field, g: Field) -> str:
    """What is not the same about a field's bytes."""
    if f.spelled != g.spelled:
        return f"Was {f.spelled}, is {g.spelled}"
    if f.presence != g.presence and "required" in (f.presence, g.presence):
        return f"Was {f.presence}, is {g.presence}"
    if f.default != g.default:
        return _default(f, g)
    if f.value.utf8 != g.value.utf8 or f.kind == g.kind:
        return "Whether it must be UTF-8 changed"
    return "Changed"


def _default(f: Field, g: Field) -> str:
    return f"The default was {f.default!r}, is {g.default!r}"


def _presence(f: Field, g: Field) -> str:
    match f.presence, g.presence:
        case "implicit", "explicit":
            return "Unset and zero differ now: zero from an old sender reads as unset."
        case "explicit", "implicit":
            return (
                "Unset and zero are one now: a new reader takes unset from an old sender for zero."
            )
        case _:
            return (
                f"Was {f.presence}, is {g.presence}: a message without it is refused by one side."
            )
