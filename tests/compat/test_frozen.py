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


def test_the_current_contract_keeps_all_released_symbols() -> None:
    now = contract(smg_proto.descriptor_set())
    assert list(FROZEN.broken_promises(now, smg_proto.__version__)) == []


def test_changes_since_a_release_are_additions_or_reviewed() -> None:
    files, version = smg_proto.descriptor_set(), smg_proto.__version__
    assert list(FROZEN.unaccepted(files, version)) == []


def test_unlisted_breaks_and_entries_without_a_break_are_found(
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
def test_no_frozen_release_loses_data_or_calls_with_the_current_contract(version: str) -> None:
    report = diff(load(FROZEN.image(f"published-{version}")), load("self"))
    assert not report.fails("rpc"), report.text()


def test_published_and_own_releases_have_vectors() -> None:
    there = {path.parent.name for path in FROZEN.fixtures()}
    published = {f"published-{version}" for version in WITH_VECTORS}
    assert there == {*published, *FROZEN.upstream, *FROZEN.own}


@pytest.mark.parametrize(
    "path", FROZEN.fixtures(), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_golden_vectors_are_still_read_the_same(path: Path) -> None:
    assert list(GOLDEN.problems(path)) == []


def test_since_of_a_mirrored_symbol_is_the_release_that_added_it() -> None:
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
