"""docs/mapping.md names the routes that the front door asks, RPC by RPC."""

import re
from pathlib import Path
from typing import Any

from frontdoor.golden import CASES

PAGE = Path(__file__).parents[2] / "docs" / "mapping.md"
# What stands in golden requests for a part of a path.
IDS = {"resp_1": "{id}", "conv_1": "{id}", "w1": "{id}", "t1": "{id}", "org%2Fm": "{id}"}
PARTS = IDS | {"msg_1": "{item_id}"}


def route(sent: dict[str, Any]) -> str:
    path = sent["path"].partition("?")[0]
    return f"{sent['method']} {'/'.join(PARTS.get(part, part) for part in path.split('/'))}"


def test_the_page_has_the_routes_of_each_rpc() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = {
        name: set(re.findall("`(.*?)`", routes))
        for name, routes in re.findall(r"^\| (\w+\.\w+) \| (.*) \|$", page, re.MULTILINE)
    }
    found: dict[str, set[str]] = {}
    for case in CASES:
        found.setdefault(case["rpc"], set()).update(map(route, case["http"]))
    assert listed == found
