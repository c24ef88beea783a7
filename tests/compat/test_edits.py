"""Every kind of breaking edit is caught, with the class that it deserves; no benign one is."""

import pytest
from edits import BENIGN, BREAKING, Edit, current, edits

from smg_proto.compat import Contract, diff

BREAKING_EDITS, BENIGN_EDITS = edits(BREAKING), edits(BENIGN)
# Besides the verdict: what else must be found.
ALSO = {
    "an RPC answers another message": "rpc",
    "remove a field": "json",
    "rename a field": "source",
    "rename a package": "source",
    "remove an RPC": "source",
    "stream the requests": "source",
    "a member out of its oneof": "source",
    "a field alone into a new oneof": "source",
}


@pytest.fixture(scope="module")
def before() -> Contract:
    return Contract(current(), "today")


def test_the_edits_are_many_and_of_several_contracts() -> None:
    assert len(BREAKING_EDITS) >= 60
    assert len(BENIGN_EDITS) >= 20
    packages = {edit.symbol.rpartition(".")[0] for edit in BREAKING_EDITS}
    assert len(packages) > 5


@pytest.mark.parametrize("edit", BREAKING_EDITS, ids=str)
def test_a_breaking_edit_is_caught_with_its_class(edit: Edit, before: Contract) -> None:
    report = diff(before, Contract(edit.new(), "edited"))
    assert report.verdict == edit.cls, report.text()
    findings = [finding for finding in report.findings if finding.cls == edit.cls]
    assert findings
    assert all((finding.witness is not None) == (finding.cls == "data") for finding in findings)
    assert edit.kind not in ALSO or ALSO[edit.kind] in {f.cls for f in report.findings}


@pytest.mark.parametrize("edit", BENIGN_EDITS, ids=str)
def test_a_benign_edit_is_at_most_a_notice(edit: Edit, before: Contract) -> None:
    report = diff(before, Contract(edit.new(), "edited"))
    assert report.verdict == "compatible", report.text()
    assert not report.fails()
    back = diff(Contract(edit.new(), "edited"), before)  # and it is not compatible for being blind
    taken_away = edit.kind.startswith("add ")
    assert (back.verdict != "compatible") == taken_away, back.text()
