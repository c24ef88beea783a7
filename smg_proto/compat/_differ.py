"""Compares two contracts: what changed, and whom each change breaks."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from smg_proto.compat._contract import Contract, Place, Rpc
from smg_proto.compat._enums import Enums
from smg_proto.compat._fields import Messages, who
from smg_proto.compat._moves import findings as file_findings
from smg_proto.compat._probe import message_witness
from smg_proto.compat._replaced import Inside, replacements
from smg_proto.compat._report import Finding, Report, sort
from smg_proto.compat._samples import Side, went_elsewhere


def diff(old: Contract, new: Contract, packages: Collection[str] = ()) -> Report:
    """Compare two contracts. packages: compare only these, and the types that they use."""
    differ = _Differ(old, new, packages)
    findings = (differ.located(finding) for finding in differ.findings())
    return Report(old.origin, new.origin, sort(findings), tuple(sorted(differ.packages)))


class _Differ:
    def __init__(self, old: Contract, new: Contract, packages: Collection[str]) -> None:
        self.old, self.new = old, new
        self.packages = _compared(old, new, packages)
        self.own = old.within(self.packages), new.within(self.packages)
        self.changed = old.changed(new)
        self.scope = self.own[0] | self.own[1]
        if self.changed - self.scope:  # a type from outside may matter too
            self.scope |= self._reached(old, self.own[0]) | self._reached(new, self.own[1])
        self.messages = Messages(old, new)
        self.replaced = replacements(self.messages, self.scope, self.changed)
        self.enums = Enums(self.messages, self.replaced)
        self.inside = Inside(self.messages)
        self._located: dict[str, tuple[str, Place | None]] = {}

    def _reached(self, contract: Contract, own: set[str]) -> frozenset[str]:
        """The types that the contract's own types and services use or extend."""
        rpcs = [
            rpc
            for name, service in contract.services.items()
            if name in own
            for rpc in service.rpcs.values()
        ]
        used = {name for rpc in rpcs for name in (rpc.request, rpc.response)}
        # A foreign message that a compared package extends.
        used |= contract.extended_by(self.packages)
        return contract.reached(own | used)

    def _package(self, symbol: str) -> str:
        """The package of a symbol: the longest one that is a prefix of the name."""
        name = symbol
        every = self.old.every_package | self.new.every_package
        while name and name not in every:
            name = name.rpartition(".")[0]
        return name

    def located(self, finding: Finding) -> Finding:
        """The finding with its package and place filled in."""
        symbol = finding.symbol
        if symbol not in self._located:
            place = self.new.place(symbol) or self.old.place(symbol)
            self._located[symbol] = self._package(symbol), place
        package, place = self._located[symbol]
        return replace(finding, package=finding.package or package, place=place)

    def findings(self) -> Iterator[Finding]:
        yield from self._services()
        for name in self._common(self.old.messages, self.new.messages):
            old, new = self.old.messages[name], self.new.messages[name]
            yield from self.messages.findings(old, new)
            for number, f in old.fields.items():
                g = new.fields.get(number)
                if g and not went_elsewhere(f, g, old, new):
                    yield from self.inside.of_field(f, g)
        for name in self._common(self.old.enums, self.new.enums):
            yield from self.enums.findings(self.old.enums[name], self.new.enums[name])
        yield from self._types()
        yield from file_findings(self.old, self.new, self.packages)
        yield from self._not_compared()

    def _common(self, old: Collection[str], new: Collection[str]) -> list[str]:
        return [name for name in old if name in self.changed and name in self.scope]

    # --- services --------------------------------------------------------------------------

    def _services(self) -> Iterator[Finding]:
        for name, service in self.old.services.items():
            if name not in self.scope:
                continue
            if name not in self.new.services:
                text = "Removed: all its calls return UNIMPLEMENTED."
                yield Finding("rpc", name, text, removal=True)
                yield Finding(
                    "source", name, "Removed: missing from generated stubs and servicers."
                )
                continue
            after = self.new.services[name]
            for method, rpc in service.rpcs.items():
                if method not in after.rpcs:
                    text = "Removed: callers get UNIMPLEMENTED."
                    yield Finding("rpc", rpc.name, text, removal=True)
                    text = "Removed: missing from generated stubs and servicers."
                    yield Finding("source", rpc.name, text)
                else:
                    yield from self._rpc(rpc, after.rpcs[method])
            for method, rpc in after.rpcs.items():
                if method not in service.rpcs:
                    text = "Added: older servers return UNIMPLEMENTED."
                    yield Finding("notice", rpc.name, text)
            if after.deprecated and not service.deprecated:
                yield Finding("notice", name, "Deprecated.")
        for name, service in self.new.services.items():
            known = name in self.old.services or service.package not in self.old.packages
            if name in self.scope and not known:
                text = "Added: older servers return UNIMPLEMENTED."
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
                yield Finding("rpc", old.name, f"{text}, a different message on the wire.")
                yield Finding("data", old.name, f"{text}: {who(witness)}.", witness)
            yield from self.inside.of_types(old.name, before, after)
            yield Finding("source", old.name, f"{text}: code must name the new type.")
        if old.idempotency != new.idempotency:
            yield _idempotency(old, new)
        if new.deprecated and not old.deprecated:
            yield Finding("notice", old.name, "Deprecated.")

    # --- types -----------------------------------------------------------------------------

    def _types(self) -> Iterator[Finding]:
        for package in (self.new.packages - self.old.packages) & self.packages:
            yield Finding("notice", package, "Added: a new package.")
        in_any = self.old.has_any or self.new.has_any
        for old, new, kind in (
            (self.old.messages, self.new.messages, "message"),
            (self.old.enums, self.new.enums, "enum"),
        ):
            for name in old:
                if name in self.own[0] and name not in new:
                    successor = self.replaced.get(name)
                    what = f"Replaced by {successor}" if successor else f"The {kind} was removed"
                    text = f"{what}: code that names it fails."
                    if kind == "message" and in_any:
                        text += " An Any that holds it cannot be unpacked."
                    if self.old.services and name not in self.old.served:
                        text += " No RPC used it."
                    yield Finding("source", name, text)
            for name in new:
                if name not in self.own[1] or name in old:
                    continue
                if new[name].package in self.old.packages:
                    yield Finding("notice", name, f"Added: a new {kind}.")

    def _not_compared(self) -> Iterator[Finding]:
        """Foreign packages that differ and were not asked for."""
        both = self.old.every_package & self.new.every_package
        before = {file.name: file for file in self.old.files if file.name in self.old.own}
        after = {file.name: file for file in self.new.files if file.name in self.new.own}
        packages = sorted(
            {
                file.package
                for name, file in before.items()
                if file.package in both - self.old.packages - self.packages
                and after.get(name, file) != file
            }
        )
        for package in packages:
            text = "Differs, but is foreign and not compared; --package compares it."
            yield Finding("notice", package, text)


def _compared(old: Contract, new: Contract, packages: Collection[str]) -> frozenset[str]:
    if packages:
        return frozenset(packages) & (old.every_package | new.every_package)
    if old.partial or new.partial:  # a partial side may have more packages than it shows
        sides = [side.packages for side in (old, new) if side.partial]
        return frozenset[str](set[str].intersection(*map(set[str], sides)))
    return old.packages | new.packages


def _idempotency(old: Rpc, new: Rpc) -> Finding:
    what = f"idempotency_level was {old.idempotency}, is {new.idempotency}"
    if old.idempotency == "NO_SIDE_EFFECTS":
        text = f"{what}: calls by GET from Connect clients are rejected."
        return Finding("rpc", old.name, text)
    if new.idempotency == "NO_SIDE_EFFECTS":
        what += ": older servers reject calls by GET from Connect clients"
    return Finding("notice", old.name, f"{what}.")
