"""What the text of a finding adds to its class."""

from pathlib import Path

import pytest

from smg_proto.compat import ContractError, diff, load


def texts(folder: Path, old: str, new: str) -> dict[str, str]:
    """The messages of the findings between two versions of one file, by symbol."""
    for side, body in (("old", old), ("new", new)):
        file = folder / side / "shop.proto"
        file.parent.mkdir()
        file.write_text(f'syntax = "proto3";\npackage shop;\n{body}\n', encoding="utf-8")
    report = diff(load(folder / "old"), load(folder / "new"))
    by_symbol: dict[str, list[str]] = {}
    for finding in report.findings:
        by_symbol.setdefault(finding.symbol, []).append(finding.message)
    return {symbol: "\n".join(messages) for symbol, messages in by_symbol.items()}


ANY = 'import "google/protobuf/any.proto";\nmessage Box { google.protobuf.Any content = 1; }\n'
GONE = "message Gone { int32 x = 1; }\n"


@pytest.mark.parametrize(
    ("old", "new", "mentioned"),
    [(ANY, "", True), ("", ANY, True), (ANY, ANY, True), ("", "", False)],
)
def test_a_removed_message_may_be_in_an_any_of_either_side(
    old: str, new: str, mentioned: bool, tmp_path: Path
) -> None:
    kept = "message Kept { int32 x = 1; }\n"
    found = texts(tmp_path, old + kept + GONE, new + kept)
    assert ("An Any that holds it cannot be unpacked." in found["shop.Gone"]) is mentioned


def test_a_number_that_was_reserved_may_still_be_sent(tmp_path: Path) -> None:
    found = texts(
        tmp_path,
        "message M { reserved 2; int32 a = 1; }",
        "message M { int32 a = 1; int32 b = 2; int32 c = 3; }",
    )
    assert found["shop.M.b"].endswith(
        "The number was reserved: older peers may still send something else."
    )
    assert found["shop.M.c"] == "Added as 3: older peers ignore it."


def test_the_fields_that_carry_a_broken_message_are_named_over_any_distance(
    tmp_path: Path,
) -> None:
    around = "message B { A a = 1; }\nmessage C { B b = 1; C again = 2; }\n"
    found = texts(
        tmp_path,
        f"message A {{ int32 x = 1; }}\n{around}",
        f"message A {{ string x = 1; }}\n{around}",
    )
    assert "; carried by shop.B.a, shop.C.b, shop.C.again" in found["shop.A.x"]


@pytest.mark.parametrize("requirement", ["prost", "prost@", "prost@latest", "-x@1.0", "prost==1.0"])
def test_a_crate_has_a_name_and_a_version(requirement: str) -> None:
    with pytest.raises(ContractError, match="not NAME@VERSION; use crate:NAME@VERSION"):
        load(f"crate:{requirement}")
