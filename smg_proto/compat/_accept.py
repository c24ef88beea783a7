"""Accepted findings: a reviewed list, each with a reason, and perhaps with an end.

# smg.v1 of 0.5.0 was never on an index.
data smg.v1.Usage.prompt_tokens: figures have presence from 1.0.0 on
json smg.v1.Usage.total until 1.2.0: the old name goes then
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import MAX_ACCEPT_BYTES, size
from smg_proto.compat._report import CLASSES, FindingClass, Report

_LINE = re.compile(r"(\w+) +(\S+?)(?: +until +(\S+?))? *: +(\S.*)")


@dataclass(frozen=True)
class Acceptance:
    """All findings of a class about a symbol, accepted by somebody for a reason."""

    cls: FindingClass
    symbol: str
    reason: str
    until: str | None = None  # the first version that is not accepted any more
    line: int = 0


def read_acceptances(path: Path) -> list[Acceptance]:
    """The accepted findings in a file; ContractError names the line that is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ACCEPT_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise ContractError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ContractError(f"{path}: not UTF-8 text") from error
    if len(data) > MAX_ACCEPT_BYTES:
        raise ContractError(f"{path}: more than {size(MAX_ACCEPT_BYTES)}")
    found: dict[tuple[str, str], Acceptance] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        name: FindingClass | None = next(
            (cls for cls in CLASSES if match and cls == match[1]), None
        )
        if not match or not name:
            kinds = ", ".join(CLASSES)
            hint = f"write CLASS SYMBOL: REASON, or CLASS SYMBOL until VERSION: REASON ({kinds})"
            raise ContractError(f"{path}:{number}: not an accepted finding; {hint}")
        one = Acceptance(name, match[2], match[4], match[3], number)
        if first := found.get((name, one.symbol)):
            raise ContractError(f"{path}:{number}: says again what line {first.line} says")
        found[name, one.symbol] = one
    return list(found.values())


def problems(
    acceptances: Sequence[Acceptance], report: Report, release: str | None
) -> Iterator[tuple[Acceptance, str]]:
    """What is wrong with a list: entries that accept nothing, and those whose time is over.

    report: before anything is accepted. release: the version that the new contract is of.
    Entries about packages that were not compared are left alone.
    """
    there = {(finding.cls, finding.symbol) for finding in report.findings}
    files = {finding.symbol for finding in report.findings}
    for one in acceptances:
        compared = one.symbol in files or any(
            not package or f"{one.symbol}.".startswith(f"{package}.") for package in report.packages
        )
        if (one.cls, one.symbol) not in there:
            if compared or one.symbol.endswith(".proto"):
                yield one, f"stale: there is no {one.cls} finding about {one.symbol}; remove it"
        elif one.until and release is None:
            text = f"holds until {one.until}, and the version of NEW is not known"
            yield one, f"{text}; give --release VERSION"
        elif one.until and release and _version(release) >= _version(one.until):
            yield one, f"expired: {one.symbol} was accepted until {one.until}; this is {release}"


def _version(text: str) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """To compare versions by: numbers, then whether it is a release or before one."""
    match = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)(.*)", text)
    if not match:
        return (), 0, ()
    numbers = [int(part) for part in match[1].split(".")][:20]
    while numbers and not numbers[-1]:
        numbers.pop()
    rest = match[2].lower().lstrip(".-_")
    before = rest.startswith(("a", "b", "c", "rc", "dev", "pre"))
    return tuple(numbers), -1 if before else 0, tuple(map(int, re.findall(r"\d{1,9}", rest)))
