"""What a server and a client of different releases do not share."""

from pathlib import Path

from smg_proto.compat import Skew, load, skew

HEAD = 'syntax = "proto3";\npackage shop;\n'
SERVER = """
service Orders {
  rpc Get(Query) returns (Order);
  rpc Older(Query) returns (Order);
  rpc Watch(Query) returns (Order);
}
service Former { rpc Get(Query) returns (Order); }
message Query { string id = 1; bool newer = 5; }
message Order { string id = 1; int32 count = 2; Colour colour = 3; Both both = 4; bool former = 6; }
message Both { bool from_server = 1; Gone gone = 3; }
message Gone { int32 x = 1; }
message Unused { int32 x = 1; bool extra = 2; }
enum Colour { RED = 0; BLUE = 2; }
"""
CLIENT = """
service Orders {
  rpc Get(Query) returns (Order);
  rpc Newer(Query) returns (Order);
  rpc Watch(Query) returns (stream Order);
}
service Added { rpc Get(Query) returns (Order); }
message Query { string name = 1; Both both = 2; bool asked = 3; }
message Order { string id = 1; string count = 2; Colour colour = 3; Both both = 4; bool form = 5; }
message Both { bool from_client = 2; Gone gone = 3; }
message Gone { int32 x = 1; }
message Unused { string x = 1; }
enum Colour { RED = 0; GREEN = 1; }
"""
UNKNOWN = "this package does not know it: "
LACKS = "the server does not know it: "


def between(folder: Path, server: str, client: str) -> Skew:
    for side, text in (("server", server), ("client", client)):
        (folder / side).mkdir()
        (folder / side / "shop.proto").write_text(HEAD + text, encoding="utf-8")
    return skew(load(folder / "server"), load(folder / "client"))


def test_all_that_one_side_lacks_or_reads_differently_is_listed(tmp_path: Path) -> None:
    found = between(tmp_path, SERVER, CLIENT)
    assert (found.shared, found.unserved, found.unknown) == (
        ("shop.Orders",), ("shop.Added",), ("shop.Former",),
    )  # fmt: skip
    assert [(finding.cls, finding.symbol) for finding in found.conflicts] == [
        ("data", "shop.Order.count"),
        ("rpc", "shop.Orders.Watch"),
    ]
    assert [(gap.kind, gap.symbol, gap.message) for gap in found.server_lacks] == [
        ("rpc", "shop.Orders.Newer", "the server lacks it: UNIMPLEMENTED"),
        ("field", "shop.Both.from_client", f"{LACKS}it ignores it and it never sets it"),
        ("value", "shop.Colour.GREEN", f"{LACKS}a number without a name"),
        ("field", "shop.Order.form", f"{LACKS}it never sets it"),
        ("field", "shop.Query.both", f"{LACKS}it ignores it"),
        ("field", "shop.Query.asked", f"{LACKS}it ignores it"),
    ]
    assert [(gap.kind, gap.symbol, gap.message) for gap in found.client_lacks] == [
        ("rpc", "shop.Orders.Older", "this package lacks it: UNIMPLEMENTED"),
        ("field", "shop.Both.from_server", f"{UNKNOWN}it ignores it"),
        ("value", "shop.Colour.BLUE", f"{UNKNOWN}a number without a name"),
        ("field", "shop.Order.former", f"{UNKNOWN}it ignores it"),
        ("field", "shop.Query.newer", f"{UNKNOWN}it cannot set it"),
    ]


def test_sides_without_a_service_in_common_share_nothing(tmp_path: Path) -> None:
    found = between(
        tmp_path,
        "service One { rpc Get(M) returns (M); }\nmessage M { int32 a = 1; }\n",
        "service Other { rpc Get(M) returns (M); }\nmessage M { string a = 1; }\n",
    )
    assert (found.shared, found.unserved, found.unknown) == ((), ("shop.Other",), ("shop.One",))
    assert (found.conflicts, found.server_lacks, found.client_lacks) == ((), (), ())
