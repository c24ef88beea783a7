"""The contract site, as a reader has it: opened from a folder in a browser, without any network."""

import re
import sys
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from chromium import Page, browser
from support import ROOT, async_eventually, run

import smg_proto
from smg_proto._descriptors import symbols

pytestmark = pytest.mark.site

SYMBOL = "smg.v1.ChatRequest.max_tokens"
CHANGES = "changes/vllm-proto-0.5.0.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, ROOT / "scripts" / "build.py", "--site", folder)
    return folder


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browser(tmp_path / "profile") as page:
        await page.resize(1280, 900)
        yield page


class Links(HTMLParser):
    """The anchors of a file and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.targets.append(value)


@pytest.fixture(scope="module")
def files(site: Path) -> dict[str, Links]:
    """Every page of the site, by its address."""
    return {
        path.as_uri(): Links(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }


def test_no_link_is_broken(site: Path, files: dict[str, Links]) -> None:
    broken: list[str] = []
    for address, links in files.items():
        for target in links.targets:
            where, anchor = urldefrag(urljoin(address, target))
            if not where.startswith("file:"):
                continue
            there = Path(unquote(where.removeprefix("file://"))).is_file()
            if not there or (where in files and unquote(anchor) not in files[where].anchors):
                broken.append(f"{address.removeprefix(site.as_uri())}: {target}")
    assert broken == []
    assert len(files) > 40
