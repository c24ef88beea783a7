"""docs/README.md leads to every page, and the picture shows what there is."""

import json
import re
from xml.etree import ElementTree

from support import ROOT

DOCS = ROOT / "docs"


def test_the_index_names_every_page_once() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^- \[.+?\]\((\S+?)\): \S", index, re.MULTILINE)
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert sorted(named) == sorted(pages | {"../CHANGELOG.md", "reference/README.md"})


def test_the_picture_names_every_engine_contract() -> None:
    picture = ElementTree.parse(DOCS / "who-speaks-what.svg").getroot()
    output = {text.text for text in picture.iterfind("{*}text")}
    known = json.loads((DOCS / "engines.json").read_text(encoding="utf-8"))
    generating = [server for server in known["servers"] if "streams" in server["can"]]
    for server in generating:
        called = " *" if "the gateway" in server["callers"] else ""
        assert f"{server['contract']}{called}" in output
    assert {"smg.v1", "HTTP", "entity.grpc", "smg-proto serve"} <= output
    assert all(picture.findtext(f"{{*}}{name}", "").strip() for name in ("title", "desc"))
