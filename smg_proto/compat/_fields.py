"""What changed in a message, field by field."""

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor as F

from smg_proto.compat._contract import Contract, Field, Message
from smg_proto.compat._probe import Witness, field_witness, fields_witness
from smg_proto.compat._report import Finding
from smg_proto.compat._samples import Side, crossed

_CARRIERS_NAMED = 6
# How proto3 JSON writes a type; kinds that are not here are numbers.
_JSON_FORM = {
    F.TYPE_INT64: "a number in a string",
    F.TYPE_UINT64: "a number in a string",
    F.TYPE_SINT64: "a number in a string",
    F.TYPE_FIXED64: "a number in a string",
    F.TYPE_SFIXED64: "a number in a string",
    F.TYPE_BOOL: "true or false",
    F.TYPE_STRING: "a string",
    F.TYPE_BYTES: "base64",
    F.TYPE_ENUM: "a value's name",
    F.TYPE_MESSAGE: "an object",
    F.TYPE_GROUP: "an object",
}


class Messages:
    """Compares messages of two contracts, and notes which types stand in for others."""

    def __init__(self, old: Contract, new: Contract) -> None:
        self.old: Contract = old
        self.new: Contract = new
        self.retyped: dict[str, str] = {}  # message or enum of old: what stands in its place

    def findings(self, old: Message, new: Message) -> Iterator[Finding]:
        for number in sorted(old.fields.keys() | new.fields.keys()):
            f, g = old.fields.get(number), new.fields.get(number)
            if f == g:
                continue
            if f and g and crossed(f, g, old, new):
                yield from self._reused(old, new, f, g)
            elif f and g:
                yield from self._field(old, new, f, g)
            elif f:
                yield from self._gone(old, new, f)
            elif g and g.name not in old.by_name:
                again = " The number was reserved: an older peer may still send something else."
                text = f"Added as {number}: an older peer ignores it."
                text += again if old.reserves(number) else ""
                yield Finding("notice", f"{old.name}.{g.name}", text)
        if old.oneofs != new.oneofs:
            yield from self._oneofs(old, new)
        if new.deprecated and not old.deprecated:
            yield Finding("notice", old.name, "Deprecated.")

    def _gone(self, old: Message, new: Message, f: Field) -> Iterator[Finding]:
        """No field has the number any more."""
        symbol = f"{old.name}.{f.name}"
        if moved := new.by_name.get(f.name):
            what = f"Renumbered from {f.number} to {moved.number}"
        else:
            what = f"Removed (was {f.number}, {f.spelled})"
            what += "" if new.reserves(f.number) else ", and its number is not reserved"
        yield from self._data(old, new, f, what, removal=moved is None)
        yield from self._named(symbol, f, moved)

    def _reused(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        """The number belongs to another field now."""
        what = f"Number {f.number} was {f.name} ({f.spelled}) and is {g.name} ({g.spelled}) now"
        yield from self._data(old, new, f, what)
        yield from self._named(f"{old.name}.{f.name}", f, new.by_name.get(f.name))

    def _named(self, symbol: str, f: Field, moved: Field | None) -> Iterator[Finding]:
        """What those see who know the field by its name, not its number."""
        if moved:
            yield from self._shape(symbol, f, moved)
            return
        text = f"Removed: a JSON reader refuses `{f.json_name}`, a JSON writer leaves it out."
        yield Finding("json", symbol, text)
        yield Finding("source", symbol, "Removed: code that names it fails.")

    def _data(
        self, old: Message, new: Message, f: Field, what: str, removal: bool = False
    ) -> Iterator[Finding]:
        """The finding, if there is a message that shows it."""
        sides = Side(self.old, old), Side(self.new, new)
        if witness := field_witness(*sides, f.number):
            text = f"{what}: {who(witness)}{self.carried(old.name)}."
            yield Finding("data", f"{old.name}.{f.name}", text, witness, removal)

    def carried(self, name: str) -> str:
        """Who else is affected: the fields that carry the message, directly or not."""
        seen, found, todo = {name}, dict[str, None](), [name]
        while todo:
            for carrier, field in self.old.carriers.get(todo.pop(0), ()):
                found[f"{carrier.name}.{field.name}"] = None
                if carrier.name not in seen:
                    seen.add(carrier.name)
                    todo.append(carrier.name)
        names = list(found)
        rest = len(names) - _CARRIERS_NAMED
        listed = ", ".join(names[:_CARRIERS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        carried = f"; carried by {listed}" if names else ""
        return carried + ("" if name in self.old.served else "; no RPC reaches it")

    def _field(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        """One field on both sides, perhaps under another name."""
        symbol = f"{old.name}.{f.name}"
        if f.name != g.name:
            text = f"Renamed to {g.name}: code that names it fails."
            yield Finding("source", symbol, text)
        if f.json_name != g.json_name:
            text = f"JSON calls it `{g.json_name}`, not `{f.json_name}`."
            yield Finding("json", symbol, text)
        if f.spelled != g.spelled:
            yield from self._retyped(old, new, f, g)
        if f.presence != g.presence and not (f.repeated or g.repeated):
            yield Finding("presence", symbol, _presence(f, g))
        if g.deprecated and not f.deprecated:
            yield Finding("notice", symbol, "Deprecated.")

    def _retyped(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        symbol = f"{old.name}.{f.name}"
        what = f"Was {f.spelled}, is {g.spelled}"
        broken = list(self._data(old, new, f, what))
        yield from broken
        if f.value.type_name and g.value.type_name and not broken:
            self.retyped.setdefault(f.value.type_name, g.value.type_name)
        yield from self._shape(symbol, f, g)

    def _shape(self, symbol: str, f: Field, g: Field) -> Iterator[Finding]:
        """What a change of type means in code and in JSON."""
        if f.spelled == g.spelled:
            return
        what = f"Was {f.spelled}, is {g.spelled}"
        yield Finding("source", symbol, f"{what}: code sees another type.")
        forms = _json_form(f), _json_form(g)
        if forms[0] != forms[1]:
            yield Finding("json", symbol, f"{what}: JSON has {forms[1]} instead of {forms[0]}.")

    def _oneofs(self, old: Message, new: Message) -> Iterator[Finding]:
        """Fields that could be set together and can not now, or the other way round."""
        common = {
            number
            for number in old.fields.keys() & new.fields.keys()
            if not crossed(old.fields[number], new.fields[number], old, new)
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
                yield Finding("source", f"{old.name}.{f.name}", text)
            elif f.oneof and not g.oneof:
                text = f"Left the oneof {f.oneof}: generated code has another shape."
                yield Finding("source", f"{old.name}.{f.name}", text)


def who(witness: Witness) -> str:
    """Who notices a data finding."""
    parts: list[str] = []
    seen: Witness | None = witness
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
        seen = seen.reverse
    return ", and ".join(parts)


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


def _json_form(field: Field) -> str:
    if field.entry:
        return f"a map (to {_json_form(field.value)})"
    form = _JSON_FORM.get(field.kind, "a number")
    return f"a list (each {form})" if field.repeated else form
