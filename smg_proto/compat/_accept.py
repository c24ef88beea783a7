"""Accepted findings: a reviewed list, each with a reason and optionally a last version.

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
    """Accepts every finding of one class about one symbol, for a stated reason."""

    cls: FindingClass
    symbol: str
    reason: str
    until: str | None = None  # the first version that it no longer covers
    line: int = 0


def read_acceptances(path: Path) -> list[Acceptance]:
    """Read a file of accepted findings. ContractError names the line that is invalid."""
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
    entries: dict[tuple[str, str], Acceptance] = {}
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
            raise ContractError(f"{path}:{number}: invalid entry; {hint}")
        entry = Acceptance(name, match[2], match[4], match[3], number)
        if first := entries.get((name, entry.symbol)):
            raise ContractError(f"{path}:{number}: duplicate of line {first.line}; remove one")
        entries[name, entry.symbol] = entry
    return list(entries.values())


def problems(
    acceptances: Sequence[Acceptance], report: Report, release: str | None
) -> Iterator[tuple[Acceptance, str]]:
    """Entries that are stale or expired, each with the problem.

    report: the report with no finding accepted yet. release: the version of the new contract.
    Entries about packages that were not compared are ignored.
    """
    reported = {(finding.cls, finding.symbol) for finding in report.findings}
    symbols = {finding.symbol for finding in report.findings}
    for entry in acceptances:
        symbol = entry.symbol
        compared = symbol in symbols or any(
            not package or f"{symbol}.".startswith(f"{package}.") for package in report.packages
        )
        if (entry.cls, symbol) not in reported:
            if compared or symbol.endswith(".proto"):
                yield entry, f"stale: there is no {entry.cls} finding about {symbol}; remove it"
        elif entry.until and release is None:
            text = f"accepted until {entry.until}, but the version of NEW is unknown"
            yield entry, f"{text}; give --release VERSION"
        elif entry.until and release and _version(release) >= _version(entry.until):
            yield entry, f"expired: {symbol} was accepted until {entry.until}; this is {release}"


def _version(text: str) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """A sort key for versions: the numbers, then whether it is a prerelease."""
    match = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)(.*)", text)
    if not match:
        return (), 0, ()
    numbers = [int(part) for part in match[1].split(".")][:20]
    while numbers and not numbers[-1]:
        numbers.pop()
    rest = match[2].lower().lstrip(".-_")
    prerelease = rest.startswith(("a", "b", "c", "rc", "dev", "pre"))
    return tuple(numbers), -1 if prerelease else 0, tuple(map(int, re.findall(r"\d{1,9}", rest)))
