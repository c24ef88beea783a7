"""What 1.0.0 breaks of 0.5.0 is written down, finding by finding, and it is nothing else."""

from pathlib import Path

import pytest

from smg_proto.compat import Finding, diff, load

ACCEPTED = Path(__file__).with_name("accepted-1.0.0.txt")
OLD = Path(__file__).parent / "releases" / "0.5.0" / "descriptors.binpb"


def accepted() -> list[str]:
    lines = ACCEPTED.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    report = diff(load(str(OLD)), load("self"))
    return [finding for finding in report.findings if finding.cls != "notice"]


def test_every_break_is_accepted_by_name(findings: list[Finding]) -> None:
    found = sorted(f"{finding.cls} {finding.symbol}" for finding in findings)
    assert found == sorted(accepted())


def test_no_other_contract_breaks(findings: list[Finding]) -> None:
    assert [f.symbol for f in findings if not f.symbol.startswith("smg.v1.")] == []
