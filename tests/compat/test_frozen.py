"""What was released stays: frozen contracts and golden vectors of every release."""

import shutil
from pathlib import Path

import pytest
from _contract import contract
from _frozen import PUBLISHED, ROOT, WITH_VECTORS, Frozen, numbers
from golden import Golden

import smg_proto
from smg_proto.compat import diff, load

FROZEN = Frozen.here()
GOLDEN = Golden(FROZEN)


def test_every_release_is_frozen_and_no_frozen_file_was_edited() -> None:
    assert list(FROZEN.defects()) == []


def test_the_contract_of_today_keeps_all_that_was_released() -> None:
    now = contract(smg_proto.descriptor_set())
    assert list(FROZEN.broken_promises(now, smg_proto.__version__)) == []


def test_between_a_release_and_today_there_are_only_additions_and_what_was_reviewed() -> None:
    files, version = smg_proto.descriptor_set(), smg_proto.__version__
    assert list(FROZEN.unaccepted(files, version)) == []


def test_a_break_that_is_not_on_the_list_and_an_entry_without_a_break_are_found(
    tmp_path: Path,
) -> None:
    """Each line of the list is needed: dropped, or about something else, the check fails."""
    home = tmp_path / "compat"
    shutil.copytree(FROZEN.home / "releases", home / "releases")
    shutil.copytree(FROZEN.home / "accepted", home / "accepted")
    frozen, listed = Frozen(home, FROZEN.own), home / "accepted" / "0.5.0.txt"
    files, version = smg_proto.descriptor_set(), smg_proto.__version__
    lines = listed.read_text(encoding="utf-8").splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("data smg.v1."))
    symbol = lines[at].split()[1].rstrip(":")
    listed.write_text("\n".join(lines[:at] + lines[at + 1 :]), encoding="utf-8")
    assert [found.split(":")[0] for found in frozen.unaccepted(files, version)] == [symbol]
    lines[at] = "data smg.v1.Usage.prompt_tokens: never broken"
    listed.write_text("\n".join(lines), encoding="utf-8")
    (stale, broken) = frozen.unaccepted(files, version)
    assert "stale" in stale and broken.startswith(f"{symbol}: data since 0.5.0")


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
