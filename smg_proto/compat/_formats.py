"""Formats reports for people, for pull requests and for the tools that annotate them."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from urllib.parse import quote

from smg_proto.compat._limits import MAX_COMMENT_BYTES
from smg_proto.compat._probe import Witness
from smg_proto.compat._report import CLASSES, Finding, FindingClass, Report, at_least
from smg_proto.compat._text import printable

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_PAGE = "https://github.com/smg-grpc-proto/smg-grpc-proto/blob/main/docs/diff.md"


def _by_class(report: Report) -> Iterator[tuple[FindingClass, list[Finding]]]:
    for name in CLASSES:
        if findings := [finding for finding in report.findings if finding.cls == name]:
            yield name, findings


def _by_package(findings: Sequence[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    for package, members in groupby(findings, key=lambda finding: finding.package):
        yield package, list(members)


def _counts(report: Report) -> str:
    counts = [f"{len(findings)} {name}" for name, findings in _by_class(report)]
    counts += [f"{len(report.accepted)} accepted"] if report.accepted else []
    return ", ".join(counts) or "no difference"


def _where(finding: Finding) -> str:
    """The file and line in parentheses; "" if the line is unknown."""
    place = finding.place
    return f" ({printable(place.file)}:{place.line})" if place and place.line else ""


# --- text ----------------------------------------------------------------------------------------


def text(report: Report) -> Iterator[str]:
    yield f"old: {report.old}"
    yield f"new: {report.new}"
    for name, findings in _by_class(report):
        yield f"\n{name}: {CLASSES[name]}"
        for package, members in _by_package(findings):
            yield f"  {package or '(no package)'}"
            for finding in members:
                yield f"    {finding.symbol}{_where(finding)}: {finding.message}"
                for witness in finding.witnesses:
                    yield f"      {witness.direction}, {witness.outcome}: {witness.message}"
                    yield f"        bytes  {witness.bytes or '(none)'}"
                    yield f"        sent   {witness.sent}"
                    yield f"        read   {witness.read}"
    yield f"\nverdict: {report.verdict} ({_counts(report)})"


# --- Markdown, for comments ----------------------------------------------------------------------


def markdown(report: Report, limit: int = MAX_COMMENT_BYTES) -> str:
    """A comment of at most `limit` bytes; findings that do not fit are counted."""
    head = f"**{report.verdict}**: {_code(report.old)} → {_code(report.new)} ({_counts(report)})"
    lines = [head]
    used = len(head.encode()) + 1
    room = limit - 200  # reserve room for the line that counts omitted findings
    omitted = 0
    for name, findings in _by_class(report):
        heading = f"\n### {name}: {CLASSES[name]}\n"
        for package, members in _by_package(findings):
            heading += f"\n**{package or '(no package)'}**\n"
            for finding in members:
                block = "\n".join([*([heading] if heading else []), *_block(finding)])
                size = len(block.encode()) + 1
                if omitted or used + size > room:
                    omitted += 1
                    continue
                lines.append(block)
                used += size
                heading = ""
    if omitted:
        lines.append(f"\n{omitted} more findings are omitted; `--format text` shows all.")
    return "\n".join(lines)


def _block(finding: Finding) -> Iterator[str]:
    yield f"- {_code(finding.symbol)}{_where(finding)}: {finding.message}"
    for witness in finding.witnesses:
        yield (
            f"  - {witness.direction}, {witness.outcome}: {_code(witness.message)} "
            f"as bytes {_code(witness.bytes or '(none)')}; "
            f"sent {_code(witness.sent)}; read {_code(witness.read)}"
        )


def _code(words: str) -> str:
    words = printable(words)
    return f"`` {words} ``" if "`" in words else f"`{words}`"


# --- tools ---------------------------------------------------------------------------------------


def acceptances(report: Report, level: str) -> Iterator[str]:
    """Lines for a file of accepted findings, with the message as the reason."""
    seen: set[tuple[str, str]] = set()
    for finding in report.findings:
        if at_least(finding.cls, level) and (finding.cls, finding.symbol) not in seen:
            seen.add((finding.cls, finding.symbol))
            yield f"{finding.cls} {finding.symbol}: {finding.message}"


def github(report: Report, level: str) -> Iterator[str]:
    """Workflow commands that annotate the lines of a pull request."""
    for finding in report.findings:
        kind = "notice" if finding.cls == "notice" else "warning"
        if at_least(finding.cls, level):
            kind = "error"
        options = {"title": f"{finding.cls}: {finding.symbol}"}
        if finding.place:
            options["file"] = finding.place.file
            if finding.place.line:
                options["line"] = str(finding.place.line)
        shown = ",".join(f"{key}={_property(value)}" for key, value in options.items())
        yield f"::{kind} {shown}::{_data(_with_witness(finding))}"
    yield f"verdict: {report.verdict} ({_counts(report)})"


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")


def _with_witness(finding: Finding) -> str:
    return "\n".join([finding.message, *map(_witness_line, finding.witnesses)])


def _witness_line(witness: Witness) -> str:
    shown = f"bytes {witness.bytes or '(none)'}, sent {witness.sent}, read {witness.read}"
    return f"{witness.direction}, {witness.outcome}: {shown}"


def sarif(report: Report, level: str) -> str:
    """SARIF 2.1.0, for code scanning."""
    from smg_proto import __version__

    rules = [
        {"id": name, "shortDescription": {"text": meaning}, "helpUri": _PAGE}
        for name, meaning in CLASSES.items()
    ]
    driver = {"name": "smg-proto diff", "version": __version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [
            *(_result(finding, level) for finding in report.findings),
            *(_result(finding, level, accepted=True) for finding in report.accepted),
        ],
        "properties": {"old": report.old, "new": report.new, "verdict": report.verdict},
    }
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(finding: Finding, level: str, accepted: bool = False) -> dict[str, object]:
    severity = "note" if finding.cls == "notice" else "warning"
    if at_least(finding.cls, level) and not accepted:
        severity = "error"
    location: dict[str, object] = {
        "logicalLocations": [{"fullyQualifiedName": finding.symbol}],
    }
    if finding.place:
        uri = quote(finding.place.file, errors="surrogateescape")
        physical: dict[str, object] = {"artifactLocation": {"uri": uri}}
        if finding.place.line:
            physical["region"] = {"startLine": finding.place.line}
        location["physicalLocation"] = physical
    shown: dict[str, object] = {
        "ruleId": finding.cls,
        "level": severity,
        "message": {"text": _with_witness(finding)},
        "locations": [location],
        "partialFingerprints": {"finding/v1": f"{finding.cls} {finding.symbol} {finding.message}"},
        "properties": finding.as_dict(),
    }
    if accepted:
        shown["suppressions"] = [{"kind": "external", "status": "accepted"}]
    return shown


def junit(report: Report, level: str) -> str:
    """JUnit XML: a suite per package, a case per changed symbol, a failure if findings fail it."""
    from xml.etree import ElementTree

    root = ElementTree.Element("testsuites", name=printable(f"{report.old} to {report.new}"))
    packages = {finding.package for finding in report.findings} | set(report.packages)
    total = failed = 0
    for package in sorted(packages):
        findings = [finding for finding in report.findings if finding.package == package]
        suite = ElementTree.SubElement(root, "testsuite", name=package or "(no package)")
        symbols = sorted({finding.symbol for finding in findings}) or [package]
        failures = 0
        for symbol in symbols:
            case = ElementTree.SubElement(suite, "testcase", classname=package, name=symbol)
            own = [finding for finding in findings if finding.symbol == symbol]
            if place := next((finding.place for finding in own if finding.place), None):
                case.set("file", place.file)
                case.set("line", str(place.line or 1))
            if worst := [finding for finding in own if at_least(finding.cls, level)]:
                failures += 1
                words = "\n".join(f"{one.cls}: {_with_witness(one)}" for one in worst)
                failure = ElementTree.SubElement(
                    case, "failure", type=worst[0].cls, message=worst[0].message
                )
                failure.text = printable(words, keep="\n")
        suite.set("tests", str(len(symbols)))
        suite.set("failures", str(failures))
        total, failed = total + len(symbols), failed + failures
    root.set("tests", str(total))
    root.set("failures", str(failed))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")
