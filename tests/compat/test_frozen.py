"""What was released stays: frozen contracts and golden vectors of every release."""

from pathlib import Path

import pytest
from _contract import contract
from _frozen import PUBLISHED, ROOT, WITH_VECTORS, Frozen, numbers
from _upstream import promised
from golden import Golden

import smg_proto
from smg_proto.compat import Contract, diff, load, read_acceptances
from smg_proto.compat._accept import problems

FROZEN = Frozen.here()
GOLDEN = Golden(FROZEN)


def test_every_release_is_frozen_and_no_frozen_file_was_edited() -> None:
    assert list(FROZEN.unsound()) == []


def test_the_contract_of_today_keeps_all_that_was_released() -> None:
    now = contract(smg_proto.descriptor_set())
    assert list(FROZEN.unkept(now, smg_proto.__version__)) == []


@pytest.mark.parametrize("release", [FROZEN.old[-1], *FROZEN.own])
def test_between_a_release_and_today_there_are_only_additions(release: str) -> None:
    then = Contract(promised(FROZEN.descriptors(release)), release)
    report = diff(then, Contract(promised(smg_proto.descriptor_set()), "today"))
    reviewed = ROOT / "tests" / "compat" / "accepted" / f"{release}.txt"
    if reviewed.exists():
        accepted = read_acceptances(reviewed)
        assert [problem for _, problem in problems(accepted, report, smg_proto.__version__)] == []
        report = report.accept(accepted)
    assert report.verdict == "compatible", report.text()


@pytest.mark.parametrize("version", WITH_VECTORS)
def test_no_published_release_that_is_frozen_loses_data_or_calls_today(version: str) -> None:
    report = diff(load(FROZEN.image(f"published-{version}")), load("self"))
    assert not report.fails("rpc"), report.text()


def test_published_releases_and_every_release_of_ours_have_vectors() -> None:
    there = {path.parent.name for path in FROZEN.fixtures()}
    published = {f"published-{version}" for version in WITH_VECTORS}
    assert there == {*published, *FROZEN.upstream, *FROZEN.own}


@pytest.mark.parametrize(
    "path", FROZEN.fixtures(), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_golden_vectors_read_the_same_then_and_now(path: Path) -> None:
    assert list(GOLDEN.problems(path)) == []


def test_since_of_a_mirrored_symbol_is_the_published_release_that_brought_it() -> None:
    first: dict[tuple[object, ...], str] = {}
    for version in PUBLISHED:
        for line in FROZEN.contracts[f"published-{version}"]:
            first.setdefault((line.name, line.kind, line.number, line.type), version)
    wrong = [
        f"{line.name}: since {line.since}, but {brought} has it first"
        for line in contract(smg_proto.descriptor_set())
        if (brought := first.get((line.name, line.kind, line.number, line.type)))
        and line.kind != "reserved"
        # What the oldest frozen release has may be older than that.
        and (numbers(line.since) > numbers(brought) or brought not in (PUBLISHED[0], line.since))
    ]
    assert wrong == []


def test_the_promise_names_every_contract() -> None:
    promise = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    packages = {line.package for line in contract(smg_proto.descriptor_set())}
    assert [package for package in sorted(packages) if f"`{package}`" not in promise] == []
