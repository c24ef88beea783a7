"""Checks the changelog and the version of a release against the contracts."""

import re
from collections.abc import Iterable, Iterator

from _contract import as_line, changed, contract
from _frozen import Frozen, numbers
from _upstream import EXPERIMENTAL, UPSTREAMS, promised
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from smg_proto._descriptors import Symbol
from smg_proto.compat import Contract, diff

UNRELEASED = "Unreleased"
STEPS = ("none", "patch", "minor", "major")


def section(changelog: str, title: str) -> str:
    """The text under `## [title]`; empty if there is no such heading."""
    match = re.search(
        rf"^## \[{re.escape(title)}\].*\n((?:(?!## |\[[^\]]+\]: ).*\n?)*)", changelog, re.MULTILINE
    )
    return match[1].strip() if match else ""


def released_section(changelog: str, version: str, date: str) -> str:
    """The changelog with the unreleased section under the heading of a version, and its link."""
    if section(changelog, version):
        return changelog
    heading = f"## [{UNRELEASED}]"
    changelog = changelog.replace(heading, f"{heading}\n\n## [{version}] - {date}", 1)
    return re.sub(
        rf"^\[{UNRELEASED}\]: (.*/compare/)(\S+)\.\.\.HEAD$",
        rf"[{UNRELEASED}]: \1v{version}...HEAD\n[{version}]: \1\2...v{version}",
        changelog,
        flags=re.MULTILINE,
    )


def step(old: str, new: str) -> str:
    """The size of the step between two versions, as one of STEPS."""
    before, after = numbers(old), numbers(new)
    for name, was, now in zip(("major", "minor", "patch"), before, after, strict=True):
        if was != now:
            return name if now > was else "none"
    return "none"


def names(symbol: str, packages: Iterable[str]) -> list[str]:
    """The names of a symbol that a changelog may use: in full, or within its package."""
    return [symbol, *(symbol.removeprefix(f"{p}.") for p in packages if symbol.startswith(f"{p}."))]


def problems(frozen: Frozen, files: FileDescriptorSet, text: str, version: str) -> Iterator[str]:
    """Why these contracts cannot be released as this version with this section."""
    last = frozen.last.removeprefix("published-")
    old, new = frozen.contracts[frozen.last], contract(files)
    packages = {line.package for line in old | new}
    symbols = changed(old, new)
    for symbol in symbols:
        accepted = names(symbol, packages)
        if not any(re.search(rf"(?<![\w.]){re.escape(n)}(?!\.?\w)", text) for n in accepted):
            name = accepted[-1]
            yield f"CHANGELOG.md does not mention {name} ({symbol}), which changed since {last}"
    yield from misdated(frozen, new, version)
    before = Contract(promised(frozen.descriptors(frozen.last)), last)
    verdict = diff(before, Contract(promised(files), "proto/")).verdict
    if verdict != "compatible":
        needed, why = "major", f"the change is of class {verdict}"
    elif symbols:
        needed, why = "minor", "contracts have changed"
    else:
        needed, why = "patch", "a release needs a version of its own"
    if STEPS.index(step(last, version)) < STEPS.index(needed):
        yield f"{last} to {version} is too small a step: {why}; make it a {needed} release"


def misdated(frozen: Frozen, new: set[Symbol], version: str) -> Iterator[str]:
    """New symbols whose comment names the wrong release.

    A mirrored symbol may also name a published release after the last frozen one. A symbol of an
    experimental contract, new or not, names the first of its engine's releases that has it.
    """
    yield from misdated_upstream(frozen, new)
    released = {line.name for line in frozen.contracts[frozen.last]}
    mirrored = {line.package for line in frozen.contracts[frozen.old[-1]]}
    release = ".".join(str(number) for number in numbers(version))
    wrong: dict[str, list[str]] = {}
    ours = (line for line in new if line.package not in EXPERIMENTAL and line.name not in released)
    for line in sorted(ours, key=as_line):
        upstream = line.package in mirrored and line.since
        if line.since != release and not (
            upstream and numbers(line.since) > numbers(frozen.old[-1].removeprefix("published-"))
        ):
            wrong.setdefault(line.since or "-", []).append(line.name)
    for since, symbols in wrong.items():
        more = f" and {len(symbols) - 1} more" if symbols[1:] else ""
        yield f"{symbols[0]}{more}: new, but the comment says since {since}, not {release}"


def misdated_upstream(frozen: Frozen, new: set[Symbol]) -> Iterator[str]:
    for upstream in UPSTREAMS:
        first: dict[str, str] = {}
        for version, release in zip(upstream.releases, upstream.frozen, strict=True):
            for line in frozen.contracts.get(release, set()):
                first.setdefault(line.name, version)
        mirror = (line for line in new if line.package == upstream.package)
        for line in sorted(mirror, key=as_line):
            if line.since != first.get(line.name):
                actual = first.get(line.name, "no release")
                yield f"{line.name}: the comment says since {line.since}, but {actual} added it"
