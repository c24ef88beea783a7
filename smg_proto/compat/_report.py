"""Findings and the verdict on them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from smg_proto.compat._contract import Place
from smg_proto.compat._probe import Witness

if TYPE_CHECKING:
    from smg_proto.compat._accept import Acceptance

FindingClass = Literal["data", "rpc", "presence", "json", "source", "notice"]
Verdict = Literal["data", "rpc", "presence", "json", "source", "compatible"]
Format = Literal["text", "markdown", "json", "sarif", "github", "junit", "accept"]
FORMATS: tuple[Format, ...] = get_args(Format)

# Worst first. Only `notice` is compatible.
CLASSES: dict[FindingClass, str] = {
    "data": "bytes are misread, lost or cannot be parsed",
    "rpc": "a call fails: its path, its shape or its streaming differs",
    "presence": "unset and zero become, or stop being, different",
    "json": "proto3 JSON differs",
    "source": "code that is compiled against it must change",
    "notice": "breaks nobody",
}
_ORDER: dict[str, int] = {name: place for place, name in enumerate([*CLASSES, "compatible"])}


@dataclass(frozen=True)
class Finding:
    """One change, with a sentence on whom it affects. Every `data` finding has a witness."""

    cls: FindingClass
    symbol: str
    message: str
    witness: Witness | None = None
    removal: bool = False  # one side simply lacks it, as an older peer does
    package: str = ""
    place: Place | None = None  # in the new contract, or in the old one if it was removed

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        """The witness, and the one of the other direction if that fails too."""
        first = self.witness
        second = first.reverse if first else None
        return tuple(witness for witness in (first, second) if witness)

    @property
    def by_name(self) -> bool:
        """Whether only names show that something is wrong: a guess, though a good one."""
        return bool(self.witness) and all(witness.by_name for witness in self.witnesses)

    def as_dict(self) -> dict[str, object]:
        return {
            "class": self.cls,
            "package": self.package,
            "symbol": self.symbol,
            "message": self.message,
            "removal": self.removal,
            "by_name": self.by_name,
            "file": self.place.file if self.place else None,
            "line": self.place.line if self.place else None,
            "witness": asdict(self.witness) if self.witness else None,
        }


@dataclass(frozen=True)
class Report:
    """The differences between two contracts, worst first."""

    old: str
    new: str
    findings: Sequence[Finding]
    packages: Sequence[str] = ()  # the packages that were compared
    accepted: Sequence[Finding] = ()  # reviewed findings, which do not count for the verdict

    @property
    def verdict(self) -> Verdict:
        worst = min((_ORDER[finding.cls] for finding in self.findings), default=_ORDER["notice"])
        for verdict in ("data", "rpc", "presence", "json", "source"):
            if worst == _ORDER[verdict]:
                return verdict
        return "compatible"

    def fails(self, level: str = "source") -> bool:
        """Whether there is a finding of this class or a worse one."""
        return any(at_least(finding.cls, level) for finding in self.findings)

    def accept(self, acceptances: "Iterable[Acceptance]") -> "Report":
        """The report without the findings that these accept."""
        keys = {(acceptance.cls, acceptance.symbol) for acceptance in acceptances}
        rest = [finding for finding in self.findings if (finding.cls, finding.symbol) not in keys]
        accepted = [finding for finding in self.findings if (finding.cls, finding.symbol) in keys]
        return replace(self, findings=tuple(rest), accepted=tuple(accepted))

    def render(self, form: Format, level: str = "source") -> str:
        """The report in a format. Findings of the level or worse are marked as failures."""
        from smg_proto.compat import _formats

        match form:
            case "text":
                return "\n".join(_formats.text(self))
            case "markdown":
                return _formats.markdown(self)
            case "json":
                return self.json()
            case "sarif":
                return _formats.sarif(self, level)
            case "github":
                return "\n".join(_formats.github(self, level))
            case "junit":
                return _formats.junit(self, level)
            case "accept":
                return "\n".join(_formats.acceptances(self, level))

    def text(self) -> str:
        return self.render("text")

    def markdown(self) -> str:
        return self.render("markdown")

    def json(self) -> str:
        shown = {
            "verdict": self.verdict,
            "old": self.old,
            "new": self.new,
            "packages": [*self.packages],
            "findings": [finding.as_dict() for finding in self.findings],
            "accepted": [finding.as_dict() for finding in self.accepted],
        }
        return json.dumps(shown, indent=2)


def at_least(cls: str, level: str) -> bool:
    """Whether the class is as bad as the level, or worse."""
    return _ORDER[cls] <= _ORDER[level]


def sort(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (_ORDER[f.cls], f.package, f.symbol, f.message)))
