"""What changed between two contracts, and what each change does to whom."""

from collections.abc import Collection, Iterator

from google.protobuf.descriptor import FieldDescriptor as F

from smg_proto.compat import probe
from smg_proto.compat.contract import Contract, Enum, Field, Message, Rpc
from smg_proto.compat.report import Finding, Report, sort

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


def diff(old: Contract, new: Contract, packages: Collection[str] = ()) -> Report:
    """Compare two contracts; with packages: only these, and what they carry."""
    return Report(old.origin, new.origin, sort(_Differ(old, new, packages).findings()))


class _Differ:
    def __init__(self, old: Contract, new: Contract, packages: Collection[str]) -> None:
        self.old, self.new = old, new
        wanted = (old.packages | new.packages) & set(packages or old.packages | new.packages)
        self.packages = wanted
        self.scope = self._scope(old) | self._scope(new)
        self.retyped: dict[str, str] = {}  # message or enum of old: what stands in its place

    def _scope(self, contract: Contract) -> frozenset[str]:
        """The services, messages and enums that are compared."""
        kinds = {
            kind.name: kind.package
            for table in (contract.messages, contract.enums, contract.services)
            for kind in table.values()
        }
        own = {name for name, package in kinds.items() if package in self.packages}
        rpcs = [
            rpc
            for name, service in contract.services.items()
            if name in own
            for rpc in service.rpcs.values()
        ]
        reached = contract.reached(own | {name for r in rpcs for name in (r.request, r.response)})
        foreign = {name for name, package in kinds.items() if package not in contract.packages}
        return (reached | own) - foreign

    def findings(self) -> Iterator[Finding]:
        # Fields and RPCs come first: they tell which types stand in for others.
        found = [
            *self._services(),
            *(
                f
                for name in self._common(self.old.messages, self.new.messages)
                for f in self._message(self.old.messages[name], self.new.messages[name])
            ),
            *(
                f
                for name in self._common(self.old.enums, self.new.enums)
                for f in self._enum(self.old.enums[name], self.new.enums[name])
            ),
        ]
        yield from found
        yield from self._types()
        yield from self._files()

    def _common(self, old: Collection[str], new: Collection[str]) -> list[str]:
        return [name for name in old if name in new and name in self.scope]

    # --- services --------------------------------------------------------------------------

    def _services(self) -> Iterator[Finding]:
        for name, service in self.old.services.items():
            if name not in self.scope:
                continue
            if name not in self.new.services:
                yield Finding(
                    "rpc", name, "Removed: all its calls answer UNIMPLEMENTED.", removal=True
                )
                yield Finding("source", name, "Removed: generated stubs and servicers lose it.")
                continue
            rpcs = self.new.services[name].rpcs
            for method, rpc in service.rpcs.items():
                if method not in rpcs:
                    text = "Removed: a caller gets UNIMPLEMENTED."
                    yield Finding("rpc", rpc.name, text, removal=True)
                    text = "Removed: generated stubs and servicers lose it."
                    yield Finding("source", rpc.name, text)
                else:
                    yield from self._rpc(rpc, rpcs[method])
            for method, rpc in rpcs.items():
                if method not in service.rpcs:
                    text = "Added: an older server answers UNIMPLEMENTED."
                    yield Finding("notice", rpc.name, text)
        for name, service in self.new.services.items():
            known = name in self.old.services or service.package not in self.old.packages
            if name in self.scope and not known:
                text = "Added: an older server answers UNIMPLEMENTED."
                yield Finding("notice", name, text)

    def _rpc(self, old: Rpc, new: Rpc) -> Iterator[Finding]:
        if old.streaming != new.streaming:
            text = f"Was {old.streaming}, is {new.streaming}: a call between old and new fails."
            yield Finding("rpc", old.name, text)
            text = f"Was {old.streaming}, is {new.streaming}: stubs and servicers change."
            yield Finding("source", old.name, text)
        for role, before, after in (
            ("request", old.request, new.request),
            ("response", old.response, new.response),
        ):
            if before == after:
                continue
            self.retyped.setdefault(before, after)
            text = f"Its {role} {before} became {after}"
            witness = probe.message_witness(
                probe.Side(self.old, self.old.messages[before]),
                probe.Side(self.new, self.new.messages[after]),
            )
            if witness:
                yield Finding("rpc", old.name, f"{text}, which is another message on the wire.")
                yield Finding("data", old.name, f"{text}: {_who(witness)}.", witness)
            yield Finding("source", old.name, f"{text}: code names another type.")
        if new.deprecated and not old.deprecated:
            yield Finding("notice", old.name, "Deprecated.")

    # --- messages --------------------------------------------------------------------------

    def _message(self, old: Message, new: Message) -> Iterator[Finding]:
        for number in sorted(old.fields.keys() | new.fields.keys()):
            f, g = old.fields.get(number), new.fields.get(number)
            if f == g:
                continue
            if f and g and probe.crossed(f, g, old, new):
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
        if not moved:
            yield from self._nameless(symbol, f)

    def _reused(self, old: Message, new: Message, f: Field, g: Field) -> Iterator[Finding]:
        """The number belongs to another field now."""
        what = f"Number {f.number} was {f.name} ({f.spelled}) and is {g.name} ({g.spelled}) now"
        yield from self._data(old, new, f, what)
        if f.name not in new.by_name:
            yield from self._nameless(f"{old.name}.{f.name}", f)

    def _nameless(self, symbol: str, f: Field) -> Iterator[Finding]:
        text = f"Removed: a JSON reader refuses `{f.json_name}`, a JSON writer leaves it out."
        yield Finding("json", symbol, text)
        yield Finding("source", symbol, "Removed: code that names it fails.")

    def _data(
        self, old: Message, new: Message, f: Field, what: str, removal: bool = False
    ) -> Iterator[Finding]:
        """The finding, if there is a message that shows it."""
        sides = probe.Side(self.old, old), probe.Side(self.new, new)
        if witness := probe.field_witness(*sides, f.number):
            text = f"{what}: {_who(witness)}{self._carried(old.name)}."
            yield Finding("data", f"{old.name}.{f.name}", text, witness, removal)

    def _carried(self, name: str) -> str:
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
        if f.type_name and g.type_name:
            self.retyped.setdefault(f.type_name, g.type_name)
        yield from self._data(old, new, f, what)
        yield Finding("source", symbol, f"{what}: code sees another type.")
        forms = _json_form(f), _json_form(g)
        if forms[0] != forms[1]:
            yield Finding("json", symbol, f"{what}: JSON has {forms[1]} instead of {forms[0]}.")

    def _oneofs(self, old: Message, new: Message) -> Iterator[Finding]:
        """Fields that could be set together and can not now, or the other way round."""
        common = {
            number
            for number in old.fields.keys() & new.fields.keys()
            if not probe.crossed(old.fields[number], new.fields[number], old, new)
        }
        sides = probe.Side(self.old, old), probe.Side(self.new, new)
        for side, other, verb in ((new, old, "joined in"), (old, new, "taken out of")):
            for name, members in side.oneofs.items():
                shared = sorted(members & common)
                there = {other.fields[number].oneof for number in shared}
                if "" not in there and len(there) == 1:
                    continue  # they are one oneof on both sides
                if witness := probe.fields_witness(*sides, shared):
                    names = ", ".join(side.fields[number].name for number in shared)
                    what = f"{names} are {verb} one oneof"
                    text = f"{what}: {_who(witness)}{self._carried(old.name)}."
                    yield Finding("data", f"{old.name}.{name}", text, witness)
        for name in old.oneofs.keys() - new.oneofs.keys():
            text = "Removed or renamed: code that asks which of its fields is set fails."
            yield Finding("source", f"{old.name}.{name}", text)
        for number in sorted(common):
            f, g = old.fields[number], new.fields[number]
            if g.oneof and not f.oneof:
                text = f"Belongs to the oneof {g.oneof} now: generated code has another shape."
                yield Finding("source", f"{old.name}.{f.name}", text)

    # --- enums -----------------------------------------------------------------------------

    def _enum(self, old: Enum, new: Enum) -> Iterator[Finding]:
        for name, number in old.numbers.items():
            symbol = f"{old.name}.{name}"
            if name in new.numbers:
                if number != new.numbers[name]:
                    what = f"Renumbered from {number} to {new.numbers[name]}"
                    yield from self._value(old, symbol, {number, new.numbers[name]}, what)
                    yield Finding("source", symbol, f"{what}: its number is in compiled code.")
                elif name in new.deprecated and name not in old.deprecated:
                    yield Finding("notice", symbol, "Deprecated.")
                continue
            here = new.names.get(number, frozenset()) - old.names[number]
            what = "Removed"
            if here:
                reused = here & old.numbers.keys()
                verb = f"Removed, and {number} is" if reused else "Renamed to"
                what = f"{verb} {', '.join(sorted(here))}"
            text = f"{what} (was {number})"
            yield from self._value(old, symbol, {number}, text, removal=not here)
            yield Finding("json", symbol, f"{what}: a JSON reader refuses the name.")
            yield Finding("source", symbol, f"{what}: code that names it fails.")
        for name, number in new.numbers.items():
            if name not in old.numbers and number not in old.names:
                text = f"Added as {number}: an older peer sees a number without a name."
                yield Finding("notice", f"{old.name}.{name}", text)

    def _value(
        self, old: Enum, symbol: str, numbers: set[int], what: str, removal: bool = False
    ) -> Iterator[Finding]:
        """The finding, if a field carries the enum on both sides and a message shows it."""
        for message, field in self.old.carriers.get(old.name, ()):
            successor = self.retyped.get(message.name, message.name)
            after = self.new.messages.get(message.name) or self.new.messages.get(successor)
            g = after.fields.get(field.number) if after else None
            if not after or not g or probe.crossed(field, g, message, after):
                continue
            if probe.alike(field, g) and probe.alike(field.value, g.value):
                sides = probe.Side(self.old, message), probe.Side(self.new, after)
                if witness := probe.value_witness(*sides, field.number, numbers):
                    text = f"{what}: {_who(witness)}{self._carried(old.name)}."
                    yield Finding("data", symbol, text, witness, removal)
                    return

    # --- types and files ---------------------------------------------------------------------

    def _types(self) -> Iterator[Finding]:
        for package in (self.new.packages - self.old.packages) & self.packages:
            yield Finding("notice", package, "Added: a new package.")
        for old, new, kind in (
            (self.old.messages, self.new.messages, "message"),
            (self.old.enums, self.new.enums, "enum"),
        ):
            for name in old:
                if name in self.scope and name not in new:
                    successor = self.retyped.get(name)
                    what = f"{successor} stands in its place" if successor else "removed"
                    reach = "" if name in self.old.served else " No RPC reached it."
                    text = f"The {kind} is gone ({what}): code that names it fails.{reach}"
                    yield Finding("source", name, text)
            for name, added in new.items():
                known = name in old or added.package not in self.old.packages
                if name in self.scope and not known:
                    yield Finding("notice", name, f"Added: a new {kind}.")

    def _files(self) -> Iterator[Finding]:
        """Options that say where generated code goes."""
        after = {file.name: file for file in self.new.files}
        for file in self.old.files:
            if file.package not in self.packages or file.name not in after:
                continue
            new = after[file.name].options
            for option, value in file.options.ListFields():
                if isinstance(value, str) and getattr(new, option.name) != value:
                    now = getattr(new, option.name) or "nothing"
                    text = f"{option.name} was {value}, is {now}: generated code goes elsewhere."
                    yield Finding("source", file.name, text)


def _who(witness: probe.Witness) -> str:
    """Who notices a data finding."""
    parts: list[str] = []
    seen: probe.Witness | None = witness
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
        return f"a map to {_json_form(field.value)}"
    form = _JSON_FORM.get(field.kind, "a number")
    return f"a list of {form}" if field.repeated else form
