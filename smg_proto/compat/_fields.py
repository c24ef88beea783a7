"""Compares messages, field by field."""

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
        """A message that shows that this field is misread, if there is one."""
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
                yield from self._removed(old, new, f)
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
            text = f"Added as {g.number}: older peers ignore it."
            if old.reserves(g.number):
                text += " The number was reserved: older peers may still send something else."
            yield Finding("notice", g.symbol, text)

    def _removed(self, old: Message, new: Message, f: Field) -> Iterator[Finding]:
        """No field has this number any more."""
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
        """The number now belongs to another field."""
        what = f"Number {f.number} was {f.name} ({f.spelled}) and is now {g.name} ({g.spelled})"
        yield from self._data(old, new, f, what)
        yield from self._named(f, new.by_name.get(f.name))

    def _named(self, f: Field, moved: Field | None) -> Iterator[Finding]:
        """What changes for code and JSON, which know the field by its name."""
        if moved:
            yield from self._shape(f, moved)
            return
        text = f"Removed: JSON readers reject `{f.json_name}` and JSON writers omit it."
        yield Finding("json", f.symbol, text)
        yield Finding("source", f.symbol, "Removed: code that names it fails.")

    def _data(
        self, old: Message, new: Message, f: Field, what: str, removal: bool = False
    ) -> Iterator[Finding]:
        """The finding, if a message shows it."""
        yield from self._shown(old, f, what, self.witness(old, new, f.number), removal)

    def _shown(
        self, old: Message, f: Field, what: str, witness: Witness | None, removal: bool = False
    ) -> Iterator[Finding]:
        if witness:
            text = f"{what}: {who(witness)}{self.carried(old.name)}."
            yield Finding("data", f.symbol, text, witness, removal)

    def carried(self, name: str) -> str:
        """What else is affected: the fields that carry the message, directly or indirectly."""
        seen, symbols, todo = {name}, dict[str, None](), [name]
        while todo:
            for carrier, _, symbol in self.old.carriers.get(todo.pop(0), ()):
                symbols[symbol] = None
                if carrier not in seen:
                    seen.add(carrier)
                    todo.append(carrier)
        names = list(symbols)
        rest = len(names) - _CARRIERS_NAMED
        listed = ", ".join(names[:_CARRIERS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        carried = f"; carried by {listed}" if names else ""
        unreached = self.old.services and name not in self.old.served
        return carried + ("; no RPC uses it" if unreached else "")

    def _field(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        """One field on both sides, possibly renamed."""
        if f.name != g.name:
            text = f"Renamed to {g.name}: code that names it fails."
            yield Finding("source", f.symbol, text)
        if f.json_name != g.json_name:
            text = f"Its JSON name is `{g.json_name}`, was `{f.json_name}`."
            yield Finding("json", f.symbol, text)
        broken = list(self._data(old, new, f, _difference(f, g)))
        yield from broken
        yield from self._shape(f, g)
        if f.presence != g.presence and not (f.repeated or g.repeated):
            yield Finding("presence", f.symbol, _presence(f, g))
        if f.default != g.default and not broken and f.kind == g.kind:
            text = f"{_default(f, g)}: code that reads the unset field gets another value."
            yield Finding("source", f.symbol, text)
        if f.jstype != g.jstype:
            what = f"jstype was {_JSTYPES[f.jstype]}, is {_JSTYPES[g.jstype]}"
            yield Finding("source", f.symbol, f"{what}: its type in JavaScript changes.")
        if g.deprecated and not f.deprecated:
            yield Finding("notice", f.symbol, "Deprecated.")

    def _shape(self, f: Field, g: Field) -> Iterator[Finding]:
        """What a change of type means in code and in JSON."""
        if f.spelled == g.spelled:
            return
        what = f"Was {f.spelled}, is {g.spelled}"
        yield Finding("source", f.symbol, f"{what}: its type in code changes.")
        forms = json_form(f), json_form(g)
        if forms[0] != forms[1]:
            yield Finding("json", f.symbol, f"{what}: JSON holds {forms[1]}, not {forms[0]}.")

    def _oneofs(self, old: Message, new: Message) -> Iterator[Finding]:
        """Fields that can no longer be set together, or now can."""
        common = {
            number
            for number in old.fields.keys() & new.fields.keys()
            if not went_elsewhere(old.fields[number], new.fields[number], old, new)
        }
        sides = Side(self.old, old), Side(self.new, new)
        for side, other, verb in ((new, old, "moved into"), (old, new, "taken out of")):
            for name, members in side.oneofs.items():
                shared = sorted(members & common)
                oneofs = {other.fields[number].oneof for number in shared}
                if "" not in oneofs and len(oneofs) == 1:
                    continue  # they share a oneof on both sides
                if witness := fields_witness(*sides, shared):
                    names = ", ".join(side.fields[number].name for number in shared)
                    what = f"{names} are {verb} one oneof"
                    text = f"{what}: {who(witness)}{self.carried(old.name)}."
                    yield Finding("data", f"{old.name}.{name}", text, witness)
        for name in old.oneofs.keys() - new.oneofs.keys():
            text = "Removed or renamed: code that checks which of its fields is set fails."
            yield Finding("source", f"{old.name}.{name}", text)
        for number in sorted(common):
            f, g = old.fields[number], new.fields[number]
            if g.oneof and not f.oneof:
                text = f"Now in the oneof {g.oneof}: generated code changes."
                yield Finding("source", f.symbol, text)
            elif f.oneof and not g.oneof:
                text = f"No longer in the oneof {f.oneof}: generated code changes."
                yield Finding("source", f.symbol, text)

    def _options(self, old: Message, new: Message) -> Iterator[Finding]:
        if old.message_set != new.message_set:
            what = "now a MessageSet" if new.message_set else "no longer a MessageSet"
            text = f"Is {what}: its extensions are encoded differently."
            yield Finding("source", old.name, text)
            sides = Side(self.old, old), Side(self.new, new)
            for number in old.fields.keys() & new.fields.keys():
                f = old.fields[number]
                witness = encoding_witness(*sides, number)
                yield from self._shown(old, f, f"Its message is {what}", witness)
        for span in old.extension_ranges:
            if lost := _uncovered(span, new.extension_ranges):
                text = f"No longer for extensions: {lost}. Code that uses these numbers fails."
                yield Finding("source", old.name, text)
        if old.strict_json and not new.strict_json:
            text = "json_format is now best effort: some runtimes reject its JSON."
            yield Finding("json", old.name, text)
        for span in old.reserved:
            if freed := _uncovered(span, new.reserved):
                if any(number in span for number in new.fields):
                    continue  # reported for the field that has the number now
                yield Finding("notice", old.name, f"No longer reserved: {freed}.")
        if new.deprecated and not old.deprecated:
            yield Finding("notice", old.name, "Deprecated.")


def _uncovered(span: range, others: tuple[range, ...]) -> str:
    """The first part of a range that no other range covers, as text; "" if all is covered."""
    start = span.start
    for other in sorted(others, key=lambda r: r.start):
        if other.start <= start < other.stop:
            start = other.stop
    if start >= span.stop:
        return ""
    end = min((r.start for r in others if start < r.start < span.stop), default=span.stop)
    return f"{start}" if end - start == 1 else f"{start} to {end - 1}"


def who(witness: Witness) -> str:
    """Which readers a data finding affects."""
    parts: list[str] = []
    seen: Witness | None = witness
    by_name = True
    while seen:
        old_first = seen.direction == "old to new"
        sender, reader = ("an old", "a new") if old_first else ("a new", "an old")
        sets = "sets" if seen.bytes else "leaves unset"
        match seen.outcome:
            case "undecodable":
                parts.append(f"{reader} reader cannot parse what {sender} sender writes")
            case "lost":
                parts.append(f"{reader} reader loses what {sender} sender {sets}")
            case "misread":
                parts.append(f"{reader} reader misreads what {sender} sender {sets}")
        by_name = by_name and seen.by_name
        seen = seen.reverse
    return ", and ".join(parts) + (", judging by the names" if by_name else "")


def _difference(f: Field, g: Field) -> str:
    """What changed about a field's encoding."""
    if f.spelled != g.spelled:
        return f"Was {f.spelled}, is {g.spelled}"
    if f.presence != g.presence and "required" in (f.presence, g.presence):
        return f"Was {f.presence}, is {g.presence}"
    if f.default != g.default:
        return _default(f, g)
    if f.value.utf8 != g.value.utf8 or f.kind == g.kind:
        return "UTF-8 validation changed"
    return "Changed"


def _default(f: Field, g: Field) -> str:
    return f"The default was {f.shown_default}, is {g.shown_default}"


def _presence(f: Field, g: Field) -> str:
    match f.presence, g.presence:
        case "implicit", "explicit":
            return "Unset and zero now differ: zero from an old sender reads as unset."
        case "explicit", "implicit":
            return "Unset and zero are now the same: unset from an old sender reads as zero."
        case _:
            return f"Was {f.presence}, is {g.presence}: one side rejects messages without it."
