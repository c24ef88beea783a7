"""What was released stays: frozen contracts and golden vectors of every release."""

from pathlib import Path

import pytest
from _contract import contract
from _frozen import WITH_VECTORS, Frozen
from golden import Golden

import smg_proto

FROZEN = Frozen.here()
GOLDEN = Golden(FROZEN)


def test_every_release_is_frozen_and_no_frozen_file_was_edited() -> None:
    assert list(FROZEN.unsound()) == []


def test_the_contract_of_today_keeps_all_that_was_released() -> None:
    now = contract(smg_proto.descriptor_set())
    assert list(FROZEN.unkept(now, smg_proto.__version__)) == []


def test_published_releases_and_every_release_of_ours_have_vectors() -> None:
    there = {path.parent.name for path in FROZEN.fixtures()}
    assert there == {f"published-{version}" for version in WITH_VECTORS} | set(FROZEN.own)


@pytest.mark.parametrize(
    "path", FROZEN.fixtures(), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_golden_vectors_read_the_same_then_and_now(path: Path) -> None:
    assert list(GOLDEN.problems(path)) == []
