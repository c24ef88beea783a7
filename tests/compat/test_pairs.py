"""Minimal pairs of schemas over all of protobuf, each with the verdict that it deserves."""

import pytest
from pairs import Pair, contract, pairs, written

from smg_proto.compat import diff


def test_the_pairs_are_many_and_each_verdict_is_among_them() -> None:
    assert len(pairs()) >= 150
    assert {pair.cls for pair in pairs()} == {
        "data", "rpc", "presence", "json", "source", "compatible",
    }  # fmt: skip


@pytest.mark.parametrize("pair", pairs(), ids=str)
def test_a_pair_has_its_class_and_direction(pair: Pair) -> None:
    report = diff(contract(pair, "old"), contract(pair, "new"))
    assert report.verdict == pair.cls, report.text()
    witnesses = [w for f in report.findings for w in f.witnesses]
    ways = {witness.direction for witness in witnesses}
    told = "both" if len(ways) == 2 else "".join(ways)
    assert told == pair.direction, report.text()
    data = [finding for finding in report.findings if finding.cls == "data"]
    assert all(f.by_name for f in data) == (pair.by_name or not data), report.text()
    assert ("judging by the names" in report.text()) == any(f.by_name for f in data)
    for finding in report.findings:
        assert bool(finding.witness) == (finding.cls == "data")


def test_what_buf_says_is_written_beside_each_pair() -> None:
    for path, text in written():
        assert path.read_text("utf-8") == text, "run tests/compat/pairs.py --write"
