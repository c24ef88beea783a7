"""Are the golden vectors what they were, for the release that wrote them, for others, for us?

Every check starts from the fixtures that lie there: what today's code no longer knows shows up.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from _contract import wire
from _frozen import RESET, Frozen
from _upstream import EXPERIMENTAL
from _vectors import UNKNOWN, files_of, messages
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from smg_proto._descriptors import Symbol

REQUIRED = {"unset", "zero", "full", "max", "unknown"}
Classes = dict[str, type[Message]]


@cache
def todays_classes() -> Classes:
    """The message classes of the installed package, from its generated modules."""
    return {m.full_name: GetMessageClass(m) for m in messages(files_of("smg_proto"))}


def written(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


class Golden:
    """The vectors of all releases below one folder."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self._touched: dict[tuple[str, str, bool], set[str]] = {}

    @cached_property
    def readers(self) -> dict[str, Classes]:
        """Release to the message classes that its descriptors give."""
        return {release: self._classes(release) for release in self.frozen.readable}

    def _classes(self, release: str) -> Classes:
        pool = DescriptorPool()
        protos = self.frozen.descriptors(release).file
        files = [pool.AddSerializedFile(proto.SerializeToString()) for proto in protos]
        return {m.full_name: GetMessageClass(m) for m in messages(files)}

    def problems(self, path: Path) -> Iterator[str]:
        """What is wrong with one file of vectors."""
        release, package = path.parent.name, path.name.removesuffix(".jsonl")
        where = f"vectors/{release}/{path.name}"
        if release not in self.readers:
            yield f"{where}: no such release"
            return
        seen: dict[str, set[str]] = {}
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                vector = json.loads(text)
                name, case, value = vector["message"], vector["case"], vector["json"]
                wire = bytes.fromhex(vector["hex"])
            except (ValueError, KeyError) as error:
                yield f"{where}:{number}: not a vector: {error!r}"
                continue
            seen.setdefault(name, set()).add(case)
            for problem in self._vector(release, name, case, value, wire):
                yield f"{where}:{number}: {name} {case}: {problem}"
        lines = self.frozen.contracts[release]
        for name in sorted(x.name for x in lines if (x.kind, x.package) == ("message", package)):
            if lacking := REQUIRED - seen.pop(name, set()):
                yield f"{where}: {name} has no vector for {', '.join(sorted(lacking))}"
        for name in seen:
            yield f"{where}: {name} is no message of {package} in {release}"

    def _vector(self, release: str, name: str, case: str, value: Any, wire: bytes) -> Iterator[str]:
        try:
            own = self.readers[release][name]
            original = own.FromString(wire)
            yield from disagreement(original, value, case)
        except (KeyError, DecodeError) as error:
            yield f"{release} itself cannot read it: {error!r}"
            return
        if self.broken(release, self.newest(release, name), name):
            pass  # of a contract that promises nothing, or did not yet
        elif today := todays_classes().get(name):
            try:
                message = today.FromString(wire)
            except DecodeError:
                yield "today's types cannot read it"
                return
            if not survives(original, today):
                yield "today's types write back something else"
            if not self.names_changed(release, name):
                yield from disagreement(message, value, case)
            elif case != "unknown" and not fully_known(message):
                yield "today's types do not know all of its fields"
        elif not self.gone(release, name):
            yield "today's types lack this message"
        for older in self.older(release):
            reader = self.readers[older].get(name)
            if not reader or self.broken(older, release, name):
                continue
            # Where presence changed, an older reader may take an explicit zero for none.
            if self.changed(older, release, name) and re.search("zero|empty|^min$", case):
                continue
            if not survives(original, reader):
                yield f"data is lost on the way through a reader of {older}"

    def older(self, release: str) -> list[str]:
        return self.frozen.readable[: self.frozen.readable.index(release)]

    def newest(self, release: str, name: str) -> str | None:
        """The last release that others published of the contract that has this message."""
        package = self.readers[release][name].DESCRIPTOR.file.package
        return self.frozen.newest(release, package)

    def gone(self, release: str, name: str) -> bool:
        """Dropped or moved before the last published release: history that nobody can mend."""
        newest = self.newest(release, name)
        return newest is not None and name not in self.readers[newest]

    def names_changed(self, release: str, name: str) -> bool:
        """Likewise renamed, so that its JSON of then is not its JSON of today."""
        newest = self.newest(release, name)
        return newest is not None and self.changed(release, newest, name)

    def broken(self, old: str, new: str | None, name: str) -> bool:
        """Changed so that data is lost: by an experimental contract's engine, or by a reset."""
        package = self.readers[old][name].DESCRIPTOR.file.package
        if package in RESET.get(old, ()):
            return True
        if new is None or package not in EXPERIMENTAL:
            return False
        return self.changed(old, new, name, data=True)

    def changed(self, old: str, new: str, name: str, data: bool = False) -> bool:
        if (old, new, data) not in self._touched:
            contracts = self.frozen.contracts
            self._touched[old, new, data] = touched(contracts[old], contracts[new], data)
        return name in self._touched[old, new, data]


def disagreement(message: Message, value: Any, case: str) -> Iterator[str]:
    """What keeps a message from being the value that the JSON beside it shows."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if MessageToDict(message) != value:
        yield "the bytes do not say what the JSON says"
    elif written(ParseDict(value, type(message)())) != written(known):
        yield "the JSON does not say what the bytes say"
    if case == "unknown":
        size, rest = len(written(known)), written(message)
        if UNKNOWN not in rest or len(rest) != size + len(UNKNOWN):
            yield "the unknown fields were not kept"
    elif not fully_known(message):
        yield "some of it is unknown fields"


def survives(message: Message, reader: type[Message]) -> bool:
    """Is it the same after another release has read it and written it again?"""
    try:
        forwarded = written(reader.FromString(written(message)))
    except DecodeError:
        return False
    return written(type(message).FromString(forwarded)) == written(message)


def fully_known(message: Message) -> bool:
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return written(known) == written(message)


@cache
def fact(line: Symbol, data: bool) -> Symbol:
    """What of a symbol may not change: all of it, or with data, what keeps data."""
    if not data:
        return wire(line)
    single = line.presence in ("implicit", "explicit")
    return replace(wire(line), since="", presence="" if single else line.presence)


def touched(old: set[Symbol], new: set[Symbol], data: bool = False) -> set[str]:
    """The messages that have, or reach, a field or oneof that is not the same any more.

    With data: only where that loses data; presence may come and go.
    """
    there = {fact(line, data) for line in new}
    found = {
        line.name.rpartition(".")[0]
        for line in old
        if line.kind in ("field", "oneof") and fact(line, data) not in there
    }
    holders: dict[str, set[str]] = {}
    for line in old:
        if line.kind == "field":
            for used in re.findall(r"[\w.]+", line.type):
                holders.setdefault(used, set()).add(line.name.rpartition(".")[0])
    queue = list(found)
    while queue:
        new_ones = holders.get(queue.pop(), set()) - found
        found |= new_ones
        queue += new_ones
    return found
