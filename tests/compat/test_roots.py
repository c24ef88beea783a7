"""The name under which each proto of a tree is imported."""

from collections.abc import Collection

import pytest

from smg_proto.compat import ContractError
from smg_proto.compat._roots import Names, imports
from smg_proto.compat._tree import Tree


def tree(*paths: str, **importing: str) -> Tree:
    """Files with these paths, all different. importing: files with an import, __ for the dot."""
    result = Tree("here")
    for number, path in enumerate(paths):
        result.add(path, f"// {number}\n".encode())
    for path, name in importing.items():
        result.add(path.replace("__", "."), f'import "{name}";\n'.encode())
    return result


def names(files: Tree, available: Collection[str] = ()) -> dict[str, str]:
    found = Names(files, lambda name: name in available)
    assert found.by_name() == {name: path for path, name in found.names.items()}
    return found.names


def same(*paths: str) -> dict[str, str]:
    return {path: path for path in paths}


def test_imports_are_found_outside_of_comments_and_strings_with_their_lines() -> None:
    text = b"""
import "a.proto"; // import "no.proto";
/* caf\xe9: import "no.proto";
*/ import public 'b.proto'; import weak "c.proto";
option x = "import \\"no.proto\\"; // "; import
  "d.proto";
import option "e.proto"; import "";
/* import "no.proto";
"""
    assert list(imports(text)) == [
        ("a.proto", 2), ("b.proto", 4), ("c.proto", 4), ("d.proto", 5), ("e.proto", 7),
    ]  # fmt: skip


def test_without_imports_names_are_relative_to_the_top_to_proto_or_to_a_module() -> None:
    assert names(tree("a/x.proto", "y.proto")) == same("a/x.proto", "y.proto")
    assert names(tree("proto/a/x.proto", "other/y.proto")) == {"proto/a/x.proto": "a/x.proto"}
    module = tree("one/buf.yaml", "one/a/x.proto", "two/a/x.proto")
    assert names(module) == {"one/a/x.proto": "a/x.proto", "two/a/x.proto": "two/a/x.proto"}


def test_the_root_is_where_an_import_is_found() -> None:
    wanted = tree("api/money/money.proto", "api/other.proto", shop__proto="money/money.proto")
    assert names(wanted) == {
        "api/money/money.proto": "money/money.proto",
        "api/other.proto": "other.proto",
        "shop.proto": "shop.proto",
    }


def test_the_nearest_of_several_roots_is_taken() -> None:
    wanted = tree("far/money/m.proto", "near/b/money/m.proto", "near/a/money/m.proto")
    wanted.add("near/b/shop.proto", b'import "money/m.proto";')
    assert names(wanted)["near/b/money/m.proto"] == "money/m.proto"
    assert names(wanted)["near/a/money/m.proto"] == "near/a/money/m.proto"
    equal = tree("b/c/money/m.proto", "a/money/m.proto", shop__proto="money/m.proto")
    assert names(equal)["a/money/m.proto"] == "money/m.proto"  # the shorter one


def test_what_is_known_available_or_of_google_gives_no_root() -> None:
    known = tree("money/m.proto", "vendor/money/m.proto", shop__proto="money/m.proto")
    assert names(known) == same("money/m.proto", "vendor/money/m.proto", "shop.proto")
    given = tree("vendor/money/m.proto", shop__proto="money/m.proto")
    assert names(given)["vendor/money/m.proto"] == "money/m.proto"
    assert names(given, {"money/m.proto"}) == same("vendor/money/m.proto", "shop.proto")
    any_ = "google/protobuf/any.proto"
    google = tree(f"vendor/{any_}", shop__proto=any_)
    assert names(google) == same(f"vendor/{any_}", "shop.proto")


def test_the_tree_may_be_the_content_of_the_folder_that_imports_name() -> None:
    content = tree("money/m.proto", "x.proto", shop__proto="company/api/money/m.proto")
    assert names(content) == {
        "money/m.proto": "company/api/money/m.proto",
        "x.proto": "company/api/x.proto",
        "shop.proto": "company/api/shop.proto",
    }
    plain = tree("b/m.proto", shop__proto="m.proto")  # a name without a folder names none
    assert names(plain) == {"b/m.proto": "m.proto", "shop.proto": "shop.proto"}
    other = tree("money/m.proto", shop__proto="company/api/cash/m.proto")
    assert names(other) == same("money/m.proto", "shop.proto")


def test_of_equal_files_the_one_nearest_to_the_top_stays() -> None:
    copies = Tree("here")
    for path in ("a/b/c/x.proto", "z/x.proto", "b/x.proto"):
        copies.add(path, b"the same")
    assert names(copies) == same("b/x.proto")


def test_two_files_with_one_name_are_an_error() -> None:
    twice = tree("one/buf.yaml", "one/x.proto", "two/buf.yaml", "two/x.proto")
    with pytest.raises(ContractError) as raised:
        names(twice)
    assert str(raised.value) == (
        "here: one/x.proto and two/x.proto are both imported as x.proto; "
        "give one folder of protos, or exclude one of them"
    )
