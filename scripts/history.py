#!/usr/bin/env python3
"""Write docs/history.md: every release compared with the one before by smg-proto diff and buf.

It covers the package that had this name before, and the engines' own contracts.

    scripts/history.py            write the page
    scripts/history.py --check    only check that it is up to date

Exit status: 0 success, 1 check failed, 2 a release is not available.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import _venv
from _tools import program

if TYPE_CHECKING:
    from smg_proto.compat import Contract, Report

ROOT = _venv.ROOT
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "history.md"
BEFORE_FROZEN = ["0.3.2", "0.3.3", *(f"0.4.{patch}" for patch in range(6))]
BUF_LEVELS = ("FILE", "WIRE_JSON", "WIRE")
INTRO = """\
# What each published release changed

## smg-grpc-proto

Each release of `smg-grpc-proto` before this repository's first is compared with the one before it.
The table has the number of findings of `smg-proto diff` by class, and the number of errors of
`buf breaking` at three of its levels. `scripts/history.py` writes this page. To see the findings of
a pair with their witnesses:

    smg-proto diff pypi:smg-grpc-proto==0.4.10 pypi:smg-grpc-proto==0.4.11

buf's WIRE level does not report data loss behind a `reserved` number (part of 0.4.2, all of 0.4.6).
It reports errors although no byte differs in 0.4.13: messages that moved, and a field that became
the first member of a oneof.

"""
UPSTREAM = """\

## {name}

The releases of `{name}`, whose package `{package}` is a mirror of an experimental contract
([stability.md](stability.md)).{note} To see the findings of a pair:

    cd tests/compat/releases
    smg-proto diff {old}/descriptors.binpb {new}/descriptors.binpb

"""
NOTES = {
    "vllm-proto": """ 0.5.0 gave presence to `RandomSampling.top_k`, `top_p` and `min_p`: a zero
from an older peer reads as unset, and an older peer loses an explicit zero. `buf breaking` reports
this only at its level FILE.""",
}
WITNESSES = """
Messages that one release wrote and the other read differently, as bytes:

"""
SPEAKERS = """
## Compatible releases

For each contract that others publish: the package that has it, the first release with it, and the
first releases that are compatible with this package. *Compatible*: no data is lost or misread and
no call fails, in either direction. *Exact*: in addition, both sides agree on whether unset and zero
differ. `smg-proto check` shows the same for a running server.

| contract | package | first in | compatible from | exact from |
| --- | --- | --- | --- | --- |
"""
HEADER = ["release", "verdict", "data", "rpc", "presence", "json", "source"]


def reports(contracts: "Sequence[Contract]") -> "list[Report]":
    """Each release against the one before."""
    from smg_proto.compat import diff

    return [diff(old, new) for old, new in pairwise(contracts)]


def rows(
    versions: Sequence[str], contracts: "Sequence[Contract]", compared: "Sequence[Report]"
) -> Iterator[list[str]]:
    """One row for each release except the first."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from smg_proto._descriptors import declarations, usual_json_name
    from smg_proto.compat import CLASSES

    with tempfile.TemporaryDirectory() as scratch:
        images = [Path(scratch, f"{version}.binpb") for version in versions]
        for contract, image in zip(contracts, images, strict=True):
            files = FileDescriptorSet(file=contract.files)
            for declared in (d for file in files.file for d in declarations(file)):
                # Generated modules leave out default names, but buf needs them.
                if declared.kind == "field" and not declared.proto.json_name:
                    declared.proto.json_name = usual_json_name(declared.proto.name)
            image.write_bytes(files.SerializeToString())
        for place, report in enumerate(compared, 1):
            classes = [finding.cls for finding in report.findings]
            counts = [classes.count(name) for name in CLASSES if name != "notice"]
            errors = [buf_errors(images[place - 1], images[place], level) for level in BUF_LEVELS]
            yield [versions[place], report.verdict, *(str(n or "") for n in [*counts, *errors])]


def since(compared: "Sequence[tuple[str, Report]]", level: str) -> str:
    """The first release since which none fails at the level."""
    passing = takewhile(lambda one: not one[1].fails(level), reversed(compared))
    return next((version for version, _ in reversed(list(passing))), "none")


def buf_errors(old: Path, new: Path, level: str) -> int:
    """The number of errors that buf breaking reports at a level."""
    config = f'{{"version":"v2","breaking":{{"use":["{level}"]}}}}'
    command = [program("buf"), "breaking", str(new), "--against", str(old), "--config", config]
    done = subprocess.run([*command, "--error-format", "json"], capture_output=True, text=True)
    if done.returncode not in (0, 100):  # 100: there are errors to report
        sys.exit(f"history: buf breaking failed: {done.stderr.strip()}")
    return len(done.stdout.splitlines())


def table(versions: Sequence[str], contracts: "Sequence[Contract]") -> str:
    header = [*HEADER, *(f"buf {level}" for level in BUF_LEVELS)]
    compared = reports(contracts)
    lines = [header, ["---"] * len(header), *rows(versions, contracts, compared)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    shown = list(witnesses(versions, compared))
    return text + (WITNESSES + "".join(shown) if shown else "")


def witnesses(versions: Sequence[str], compared: "Sequence[Report]") -> Iterator[str]:
    """A line for each data finding and direction."""
    for version, report in zip(versions[1:], compared, strict=True):
        for finding in report.findings:
            for one in finding.witnesses:
                named = ", judging by the names" if one.by_name else ""
                yield (
                    f"- {version}, `{finding.symbol}`, {one.direction}, {one.outcome}{named}: "
                    f"`{one.bytes or '(none)'}`, sent as `{one.sent}`, is read as `{one.read}`\n"
                )


def speakers(carriers: "Mapping[str, tuple[Sequence[str], Sequence[Contract]]]") -> Iterator[str]:
    """A row for each contract in these packages."""
    from smg_proto.compat import diff, load

    ours = load("self")
    for carrier, (versions, contracts) in carriers.items():
        for package in sorted(contracts[-1].packages & ours.packages):
            has = [
                (v, c) for v, c in zip(versions, contracts, strict=True) if package in c.packages
            ]
            compared = [(version, diff(contract, ours, [package])) for version, contract in has]
            compatible, exact = (since(compared, level) for level in ("rpc", "presence"))
            yield f"| `{package}` | `{carrier}` | {has[0][0]} | {compatible} | {exact} |\n"


def page() -> str:
    from _frozen import PUBLISHED, Frozen
    from _upstream import UPSTREAMS

    from smg_proto.compat import load

    versions = [*BEFORE_FROZEN, *PUBLISHED]
    published = [load(f"pypi:smg-grpc-proto=={version}") for version in versions]
    text = INTRO + table(versions, published)
    carriers = {"smg-grpc-proto": (versions, published)}
    for upstream in UPSTREAMS:
        contracts = [load(Frozen.here().image(release)) for release in upstream.frozen]
        carriers[upstream.name] = list(upstream.releases), contracts
        if len(upstream.releases) > 1:
            text += UPSTREAM.format(
                name=upstream.name,
                package=upstream.package,
                note=NOTES.get(upstream.name, ""),
                old=upstream.frozen[-2],
                new=upstream.frozen[-1],
            )
            text += table(upstream.releases, contracts)
    return text + SPEAKERS + "".join(speakers(carriers))


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    _venv.enter()
    os.environ.setdefault("SMG_PROTO_CACHE", str(ROOT / ".cache"))
    from smg_proto.compat import ContractError

    try:
        text = page()
    except ContractError as error:
        print(f"history: {error}", file=sys.stderr)
        return 2
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"history: {PAGE.relative_to(ROOT)} is stale; run {__file__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
