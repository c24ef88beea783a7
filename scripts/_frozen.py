"""The frozen releases: where they are, and checks that they are intact and that proto/ keeps them.

    tests/compat/releases/RELEASE/contract.txt        every symbol, a line each
    tests/compat/releases/RELEASE/descriptors.binpb   its FileDescriptorSet, without comments
    tests/compat/vectors/RELEASE/PACKAGE.jsonl        golden vectors
    tests/compat/SHA256SUMS                           all of the above

RELEASE is a version of this project, `published-X` for a release that others published under this
name until 0.4.28, or NAME-X for one that an engine publishes itself (_upstream.py). The last two
hold facts about the mirrored contracts, without comments; only some published-X have descriptors
and vectors.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from _contract import as_line, broken, contract, dump, facts, parse, place, reused, wire
from _upstream import EXPERIMENTAL, UPSTREAMS, promised
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from smg_proto._descriptors import Symbol
from smg_proto.compat import Contract, diff, read_acceptances
from smg_proto.compat._accept import problems

ROOT = Path(__file__).resolve().parents[1]
COMPAT = ROOT / "tests" / "compat"
PUBLISHED = [f"0.4.{patch}" for patch in range(6, 29)]
WITH_VECTORS = ["0.4.6", "0.4.14", "0.4.20", "0.4.28"]
# The one break of a stable contract, before its first published release: the release that it breaks
# with, and the packages. accepted/RELEASE.txt lists each finding.
RESET = {"0.5.0": frozenset({"smg.v1"})}
_HEADING = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)


def released(changelog: str) -> list[str]:
    """This project's releases, oldest first: the versions with a section in the changelog."""
    versions = sorted(_HEADING.findall(changelog), key=numbers)
    return [version for version in versions if numbers(version) > numbers(PUBLISHED[-1])]


def numbers(version: str) -> tuple[int, ...]:
    """1.20.3 as (1, 20, 3). A development version has the numbers of the release it leads to."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)(\.dev\d+)?$", version)
    if not match:
        raise ValueError(f"{version!r} is not a version such as 1.2.3")
    return tuple(int(part) for part in match.groups()[:3])


class Frozen:
    """The frozen files below a folder, and the releases that it must have."""

    def __init__(self, home: Path, own: list[str]) -> None:
        self.home = home
        self.own = own
        self.old = [f"published-{version}" for version in PUBLISHED]
        self.upstream = [release for upstream in UPSTREAMS for release in upstream.frozen]
        with_vectors = [f"published-{version}" for version in WITH_VECTORS]
        self.readable = [*with_vectors, *self.upstream, *own]

    @classmethod
    def here(cls) -> "Frozen":
        changelog = ROOT / "CHANGELOG.md"
        return cls(
            COMPAT, released(changelog.read_text(encoding="utf-8") if changelog.exists() else "")
        )

    @property
    def last(self) -> str:
        """The release that the next one is compared with."""
        return (self.old + self.own)[-1]

    @cached_property
    def contracts(self) -> dict[str, set[Symbol]]:
        """The contracts of the releases, from contract.txt; empty for an invalid file."""
        contracts: dict[str, set[Symbol]] = {}
        for path in self.home.glob("releases/*/contract.txt"):
            try:
                contracts[path.parent.name] = parse(path.read_text(encoding="utf-8"))
            except ValueError:  # its checksum is wrong too, and is reported
                contracts[path.parent.name] = set()
        return contracts

    def newest(self, release: str, package: str) -> str | None:
        """The release that defines this package today, if a newer one replaces this release."""
        for upstream in UPSTREAMS:
            if package == upstream.package:
                return upstream.frozen[-1]
        return self.old[-1] if release in self.old else None

    def image(self, release: str) -> Path:
        return self.home / "releases" / release / "descriptors.binpb"

    def descriptors(self, release: str) -> FileDescriptorSet:
        return FileDescriptorSet.FromString(self.image(release).read_bytes())

    def vectors(self, release: str) -> Path:
        return self.home / "vectors" / release

    def fixtures(self) -> list[Path]:
        """All files of vectors, including unused ones."""
        return sorted(self.home.glob("vectors/*/*"))

    def files(self) -> list[Path]:
        """All frozen files, as relative paths."""
        paths = [*self.home.glob("releases/*/*"), *self.home.glob("vectors/*/*")]
        return sorted(path.relative_to(self.home) for path in paths)

    def expected(self) -> set[Path]:
        """The frozen files that must exist."""
        every = [*self.old, *self.upstream, *self.own]
        wanted = {Path("releases", name, "contract.txt") for name in every}
        wanted |= {Path("releases", name, "descriptors.binpb") for name in self.readable}
        for release in self.readable:
            lines = self.contracts.get(release, set())
            packages = {line.package for line in lines if line.kind == "message"}
            wanted |= {Path("vectors", release, f"{package}.jsonl") for package in packages}
        return wanted

    def sums(self) -> str:
        """The content of SHA256SUMS, in the format of `sha256sum -c`."""
        digests = (
            (hashlib.sha256((self.home / f).read_bytes()).hexdigest(), f) for f in self.files()
        )
        return "".join(f"{digest}  {file.as_posix()}\n" for digest, file in digests)

    def write(
        self, release: str, lines: set[Symbol], files: FileDescriptorSet, vectors: Path | None
    ) -> None:
        """Freeze a release; without vectors, only its contract lines."""
        home = self.home / "releases" / release
        home.mkdir(parents=True, exist_ok=True)
        (home / "contract.txt").write_text(dump(lines), encoding="utf-8")
        if vectors is not None:
            bare = FileDescriptorSet.FromString(files.SerializeToString())
            for file in bare.file:
                file.ClearField("source_code_info")  # half the size; contract.txt hashes comments
            (home / "descriptors.binpb").write_bytes(bare.SerializeToString(deterministic=True))
            shutil.rmtree(self.vectors(release), ignore_errors=True)
            self.vectors(release).mkdir(parents=True)
            for path in vectors.glob("*.jsonl"):
                shutil.copy(path, self.vectors(release))
        (self.home / "SHA256SUMS").write_text(self.sums(), encoding="utf-8")

    def defects(self) -> Iterator[str]:
        """Frozen files that are missing, superfluous, edited or inconsistent."""
        present, wanted = set(self.files()), self.expected()
        for path in sorted(wanted - present):
            yield f"{path}: missing; every release has one"
        for path in sorted(present - wanted):
            yield f"{path}: belongs to no release of CHANGELOG.md or of the published list"
        listed = self.home / "SHA256SUMS"
        old = (
            set(listed.read_text(encoding="utf-8").splitlines()) if listed.exists() else set[str]()
        )
        for line in sorted(old ^ set(self.sums().splitlines())):
            yield f"SHA256SUMS: a frozen file was edited, added or dropped: {line.split()[-1]}"
        for release in self.readable:
            yield from self._mismatches(release)

    def _mismatches(self, release: str) -> Iterator[str]:
        """Differences between the contract lines and the descriptors of a release."""
        where = f"releases/{release}/contract.txt"
        if not self.image(release).exists() or release not in self.contracts:
            return  # missing, and reported as such
        try:
            expected = facts(contract(self.descriptors(release)))
        except DecodeError:
            yield f"releases/{release}/descriptors.binpb: not a FileDescriptorSet"
            return
        if different := sorted(facts(self.contracts[release]) ^ expected, key=as_line):
            yield f"{where}: differs from descriptors.binpb beside it: {different[0].name}"

    def broken_promises(self, now: set[Symbol], version: str) -> Iterator[str]:
        """Where today's contract breaks a released one.

        A mirror of an experimental contract must only equal the last published release.
        """
        for release in self.own:
            frozen = self.contracts.get(release, set())
            free = EXPERIMENTAL | RESET.get(release, frozenset[str]())
            kept = (symbol for symbol in frozen if symbol.package not in free)
            for lost in broken(kept, now):
                yield f"{lost.name}: differs from {release}: {as_line(wire(lost))}"
            if release == version and (stale := sorted(frozen ^ now, key=as_line)):
                yield f"releases/{release}: stale: proto/ has changed: {stale[0].name}"
        bare, last = facts(now), self.old[-1]
        for upstream in UPSTREAMS:
            published = self.contracts.get(upstream.frozen[-1], set())
            mirror = {symbol for symbol in bare if symbol.package == upstream.package}
            for different in sorted(published ^ mirror, key=as_line):
                line = as_line(different)
                yield f"{different.name}: differs from {upstream.frozen[-1]}: {line}"
        mirrored = self.contracts.get(last, set())
        for lost in broken(mirrored, bare):
            yield f"{lost.name}: differs from {last}: {as_line(wire(lost))}"
        packages = {symbol.package for symbol in mirrored}
        taken = {place(symbol) for symbol in mirrored}
        for release in self.old[:-1]:
            released_then = self.contracts.get(release, set())
            removed = {symbol for symbol in released_then if place(symbol) not in taken}
            for field in reused(removed, {field for field in bare if field.package in packages}):
                yield f"{field.name}: {field.number} had another type in {release}"

    def unaccepted(self, files: FileDescriptorSet, version: str) -> Iterator[str]:
        """Findings against the released contracts that accepted/RELEASE.txt does not accept.

        Entries that accept nothing are reported too.
        """
        for release in (self.old[-1], *self.own):
            then = Contract(promised(self.descriptors(release)), release)
            report = diff(then, Contract(promised(files), "today"))
            reviewed = self.home / "accepted" / f"{release}.txt"
            if reviewed.exists():
                accepted = read_acceptances(reviewed)
                for entry, problem in problems(accepted, report, version):
                    yield f"accepted/{release}.txt:{entry.line}: {problem}"
                report = report.accept(accepted)
            for finding in report.findings:
                if finding.cls != "notice":
                    yield f"{finding.symbol}: {finding.cls} since {release}: {finding.message}"
