"""What the text of a finding adds to its class."""

from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from smg_proto.compat import ContractError, diff, load
from smg_proto.compat._json import special_form


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


def test_numbers_that_are_no_longer_reserved_are_named(tmp_path: Path) -> None:
    found = texts(
        tmp_path,
        "message M { reserved 2, 4 to 6, 9; int32 a = 1; }",
        "message M { int32 a = 1; int32 b = 2; }",
    )
    assert found["shop.M"] == "No longer reserved: 4 to 6.\nNo longer reserved: 9."


def test_what_becomes_deprecated_is_a_notice(tmp_path: Path) -> None:
    found = texts(
        tmp_path,
        "message M { int32 a = 1; }",
        "message M { int32 a = 1 [deprecated = true]; }",
    )
    assert found == {"shop.M.a": "Deprecated."}


@pytest.mark.parametrize(
    "module", ["any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers"]
)
def test_the_types_of_google_that_have_a_json_form_of_their_own_are_known(module: str) -> None:
    file = import_module(f"google.protobuf.{module}_pb2").DESCRIPTOR
    for descriptor in file.message_types_by_name.values():
        shown = MessageToDict(GetMessageClass(descriptor)())
        # The default value of these two looks like one of any other message.
        plain = shown == {} and descriptor.name not in ("Any", "Struct")
        assert (special_form(descriptor.full_name) is None) is plain, descriptor.full_name


@pytest.mark.parametrize(
    ("fields", "successor"),
    [("int32 x = 1; int32 y = 2;", True), ("string x = 1;", False)],
)
def test_a_type_of_an_rpc_is_replaced_only_by_one_that_reads_the_same_bytes(
    fields: str, successor: bool, tmp_path: Path
) -> None:
    found = texts(
        tmp_path,
        "service S { rpc Call(Old) returns (Reply); }\n"
        "message Old { int32 x = 1; }\nmessage Reply {}\n",
        "service S { rpc Call(New) returns (Reply); }\n"
        f"message New {{ {fields} }}\nmessage Reply {{}}\n",
    )
    assert ("Replaced by shop.New" in found["shop.Old"]) is successor
    assert ("The message was removed" in found["shop.Old"]) is not successor


def test_what_changes_inside_a_replaced_type_is_reported_at_the_rpc(tmp_path: Path) -> None:
    found = texts(
        tmp_path,
        "service S { rpc Call(Old) returns (Reply); }\n"
        "message Old { Inner inner = 1; }\n"
        "message Inner { optional int32 x = 1; Inner more = 2; }\n"
        "message Reply {}\n",
        "service S { rpc Call(New) returns (Reply); }\n"
        "message New { Other inner = 1; }\nmessage Other { int32 x = 1; Other more = 2; }\n"
        "message Reply {}\n",
    )
    assert "which differs in shop.Inner.x" in found["shop.S.Call"]
