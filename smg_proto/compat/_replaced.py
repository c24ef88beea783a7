"""Finds types of the old contract that another type replaced, and what that changes."""

from collections.abc import Collection, Iterator

from smg_proto.compat._contract import Contract, Field
from smg_proto.compat._enums import Enums
from smg_proto.compat._fields import Messages
from smg_proto.compat._json import json_form
from smg_proto.compat._probe import message_witness
from smg_proto.compat._report import Finding
from smg_proto.compat._samples import Side, went_elsewhere

Pair = tuple[str, str]


def replacements(
    messages: Messages, scope: Collection[str], changed: Collection[str]
) -> dict[str, str]:
    """For types of the old contract, the type of another name that reads the same bytes."""
    old, new = messages.old, messages.new
    replaced: dict[str, str] = {}
    for name, service in old.services.items():
        after = new.services.get(name)
        if name not in scope or not after:
            continue
        for method, rpc in service.rpcs.items():
            if method in after.rpcs:
                now = after.rpcs[method]
                for pair in ((rpc.request, now.request), (rpc.response, now.response)):
                    if pair[0] != pair[1] and pair[0] not in replaced and _fits(old, new, pair):
                        replaced[pair[0]] = pair[1]
    for name in old.messages:
        if name not in scope or name not in changed:
            continue
        message, other = old.messages[name], new.messages[name]
        for number, f in message.fields.items():
            g = other.fields.get(number)
            if not g or went_elsewhere(f, g, message, other):
                continue
            before, after_type = f.value.type_name, g.value.type_name
            renamed = before and after_type and before != after_type and before not in replaced
            if renamed and not messages.witness(message, other, number):
                replaced[before] = after_type
    return replaced


def _fits(old: Contract, new: Contract, pair: Pair) -> bool:
    sides = Side(old, old.messages[pair[0]]), Side(new, new.messages[pair[1]])
    return message_witness(*sides) is None


class Inside:
    """Finds what changes inside a field or an RPC when its type is replaced."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._enums = Enums(messages, {})

    def of_types(self, symbol: str, before: str, after: str) -> Iterator[Finding]:
        """One finding of each class that the bytes do not show."""
        reported: set[str] = set()
        for finding in self._all(before, after):
            if finding.cls in ("presence", "json") and finding.cls not in reported:
                reported.add(finding.cls)
                text = f"Was {before}, is {after}, which differs in {finding.symbol}: "
                yield Finding(finding.cls, symbol, text + finding.message)

    def of_field(self, f: Field, g: Field) -> Iterator[Finding]:
        before, after = f.value.type_name, g.value.type_name
        if before and after and before != after:
            other_form = json_form(f) != json_form(g)  # which is a finding for the field
            for finding in self.of_types(f.symbol, before, after):
                if not (other_form and finding.cls == "json"):
                    yield finding

    def _all(self, before: str, after: str) -> Iterator[Finding]:
        old, new = self._messages.old, self._messages.new
        todo: list[Pair] = [(before, after)]
        seen: set[Pair] = set()
        while todo:
            pair = todo.pop(0)
            if pair in seen or (seen and pair[0] == pair[1]):
                continue
            seen.add(pair)
            if pair[0] in old.enums and pair[1] in new.enums:
                yield from self._enums.findings(old.enums[pair[0]], new.enums[pair[1]])
            elif pair[0] in old.messages and pair[1] in new.messages:
                one, other = old.messages[pair[0]], new.messages[pair[1]]
                yield from self._messages.findings(one, other)
                for number, f in one.fields.items():
                    if g := other.fields.get(number):
                        todo.append((f.value.type_name, g.value.type_name))
