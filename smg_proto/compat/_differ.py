"""What changed between two contracts, and what each change does to whom."""

from collections.abc import Collection, Iterator

from smg_proto.compat._contract import Contract, Enum, Rpc
from smg_proto.compat._fields import Messages, who
from smg_proto.compat._probe import message_witness, value_witness
from smg_proto.compat._report import Finding, Report, sort
from smg_proto.compat._samples import Side, alike, crossed


def diff(old: Contract, new: Contract, packages: Collection[str] = ()) -> Report:
    """Compare two contracts; with packages: only these, and what they carry."""
    return Report(old.origin, new.origin, sort(_Differ(old, new, packages).findings()))


class _Differ:
    def __init__(self, old: Contract, new: Contract, packages: Collection[str]) -> None:
        self.old, self.new = old, new
        wanted = (old.packages | new.packages) & set(packages or old.packages | new.packages)
        self.packages = wanted
        self.scope = self._scope(old) | self._scope(new)
        self.messages = Messages(old, new)

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
        yield from self._services()
        for name in self._common(self.old.messages, self.new.messages):
            yield from self.messages.findings(self.old.messages[name], self.new.messages[name])
        for name in self._common(self.old.enums, self.new.enums):
            yield from self._enum(self.old.enums[name], self.new.enums[name])
        yield from self._types()  # after RPCs and fields, which tell what stands in for what
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
            text = f"Was {old.streaming}, is {new.streaming}: calls between old and new fail."
            yield Finding("rpc", old.name, text)
            text = f"Was {old.streaming}, is {new.streaming}: stubs and servicers change."
            yield Finding("source", old.name, text)
        for role, before, after in (
            ("request", old.request, new.request),
            ("response", old.response, new.response),
        ):
            if before == after:
                continue
            text = f"Its {role} {before} became {after}"
            witness = message_witness(
                Side(self.old, self.old.messages[before]),
                Side(self.new, self.new.messages[after]),
            )
            if witness:
                yield Finding("rpc", old.name, f"{text}, which is another message on the wire.")
                yield Finding("data", old.name, f"{text}: {who(witness)}.", witness)
            else:
                self.messages.retyped.setdefault(before, after)
            yield Finding("source", old.name, f"{text}: code names another type.")
        if new.deprecated and not old.deprecated:
            yield Finding("notice", old.name, "Deprecated.")

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
            successor = self.messages.retyped.get(message.name, message.name)
            after = self.new.messages.get(message.name) or self.new.messages.get(successor)
            g = after.fields.get(field.number) if after else None
            if not after or not g or crossed(field, g, message, after):
                continue
            if alike(field, g) and alike(field.value, g.value):
                sides = Side(self.old, message), Side(self.new, after)
                if witness := value_witness(*sides, field.number, numbers):
                    text = f"{what}: {who(witness)}{self.messages.carried(old.name)}."
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
                    successor = self.messages.retyped.get(name)
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
