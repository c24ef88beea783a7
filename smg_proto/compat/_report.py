"""Findings, the verdict over them, and how they are shown."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from smg_proto.compat._probe import Witness

FindingClass = Literal["data", "rpc", "presence", "json", "source", "notice"]
Verdict = Literal["data", "rpc", "presence", "json", "source", "compatible"]

# Worst first. `notice` alone is compatible.
CLASSES: dict[FindingClass, str] = {
    "data": "bytes are misread, lost or cannot be parsed",
    "rpc": "a call fails: its path, its shape or its streaming differs",
    "presence": "unset and zero become, or stop being, different",
    "json": "proto3 JSON differs",
    "source": "code that is compiled against it must be changed",
    "notice": "nobody breaks",
}
_ORDER: dict[str, int] = {name: place for place, name in enumerate([*CLASSES, "compatible"])}


@dataclass(frozen=True)
class Finding:
    """One change, and one sentence on who notices. Each `data` finding has a witness."""

    cls: FindingClass
    symbol: str
    message: str
    witness: Witness | None = None
    removal: bool = False  # one side lacks it, and that is all: a matter of age between peers

    def as_dict(self) -> dict[str, object]:
        witness = asdict(self.witness) if self.witness else None
        return {
            "class": self.cls,
            "symbol": self.symbol,
            "message": self.message,
            "witness": witness,
        }


@dataclass(frozen=True)
class Report:
    """What `diff` found between two contracts, worst first."""

    old: str
    new: str
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        worst = min((_ORDER[finding.cls] for finding in self.findings), default=_ORDER["notice"])
        for verdict in ("data", "rpc", "presence", "json", "source"):
            if worst == _ORDER[verdict]:
                return verdict
        return "compatible"

    def fails(self, level: str = "source") -> bool:
        """Is there a finding of this class or a worse one?"""
        return any(_ORDER[finding.cls] <= _ORDER[level] for finding in self.findings)

    def text(self) -> str:
        return "\n".join(_text(self))

    def markdown(self) -> str:
        return "\n".join(_markdown(self))

    def json(self) -> str:
        findings = [finding.as_dict() for finding in self.findings]
        return json.dumps({"verdict": self.verdict, "findings": findings}, indent=2)


def sort(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (_ORDER[f.cls], f.symbol, f.message)))


def _by_class(report: Report) -> Iterator[tuple[FindingClass, list[Finding]]]:
    for name in CLASSES:
        if findings := [finding for finding in report.findings if finding.cls == name]:
            yield name, findings


def _counts(report: Report) -> str:
    counts = [f"{len(found)} {name}" for name, found in _by_class(report)]
    return ", ".join(counts) or "no difference"


def _text(report: Report) -> Iterator[str]:
    yield f"old: {report.old}"
    yield f"new: {report.new}"
    for name, findings in _by_class(report):
        yield f"\n{name}: {CLASSES[name]}"
        for finding in findings:
            yield f"  {finding.symbol}: {finding.message}"
            for witness in _witnesses(finding):
                yield f"    {witness.direction}, {witness.outcome}: {witness.message}"
                yield f"      bytes  {witness.bytes or '(none)'}"
                yield f"      sent   {witness.sent}"
                yield f"      read   {witness.read}"
    yield f"\nverdict: {report.verdict} ({_counts(report)})"


def _markdown(report: Report) -> Iterator[str]:
    yield f"**{report.verdict}**: `{report.old}` → `{report.new}` ({_counts(report)})"
    for name, findings in _by_class(report):
        yield f"\n### {name}: {CLASSES[name]}\n"
        for finding in findings:
            yield f"- `{finding.symbol}`: {finding.message}"
            for witness in _witnesses(finding):
                yield (
                    f"  - {witness.direction}, {witness.outcome}: `{witness.message}` "
                    f"as bytes `{witness.bytes or '(none)'}`; "
                    f"sent {_code(witness.sent)}; read {_code(witness.read)}"
                )


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _witnesses(finding: Finding) -> Iterator[Witness]:
    witness = finding.witness
    while witness:
        yield witness
        witness = witness.reverse
