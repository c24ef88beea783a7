"""The documentation as a site: a folder that a reader opens in a browser, without any network."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from chromium import Page, browser
from support import ROOT, async_eventually, run

import smg_proto
from smg_proto._descriptors import symbols

pytestmark = pytest.mark.site

REFERENCE = "reference/smg.v1.html"
MAX_TOKENS = f"{REFERENCE}#smg.v1.ChatRequest.max_tokens"
CHANGES = "changes/smg-grpc-proto-1.0.0.html"  # a release with breaks
NO_PROSE = ("code", "pre", "script", "style")
SHOWN = ["index.html", "guide.html", "engines.html", REFERENCE, CHANGES]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, ROOT / "scripts" / "build.py", "--site", folder)
    return folder


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browser(tmp_path) as page:
        await page.resize(1280, 900)
        yield page


class Content(HTMLParser):
    """What a page refers to, what can be referred to in it, its text by heading, and its prose."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = {""}
        self.sections: dict[str, str] = {}
        self.prose = ""
        self._heading = ""
        self._open: list[str] = []  # code, scripts and the like
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.targets += [given[name] for name in ("href", "src") if name in given]
        if name := given.get("id"):
            self.anchors.add(name)
            if tag in ("h1", "h2", "h3", "h4"):
                self._heading = name
        if tag in NO_PROSE:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            self.prose += data
        self.sections[self._heading] = self.sections.get(self._heading, "") + data


@pytest.fixture(scope="module")
def files(site: Path) -> dict[str, Content]:
    """Every page, by its address."""
    paths = sorted(site.rglob("*.html"))
    return {path.as_uri(): Content(path.read_text(encoding="utf-8")) for path in paths}


def test_no_link_is_broken(site: Path, files: dict[str, Content]) -> None:
    broken: list[str] = []
    for address, content in files.items():
        for target in content.targets:
            where, anchor = urldefrag(urljoin(address, target))
            if not where.startswith("file:"):
                continue
            there = Path(unquote(where.removeprefix("file://"))).is_file()
            if not there or (where in files and unquote(anchor) not in files[where].anchors):
                broken.append(f"{address.removeprefix(site.as_uri())}: {target}")
    assert broken == []
    assert len(files) > 40


def test_each_symbol_has_an_anchor_with_its_comment_and_release(
    site: Path, files: dict[str, Content]
) -> None:
    wrong: list[str] = []
    for symbol in symbols(smg_proto.descriptor_set()):
        if symbol.package.startswith("google.") or symbol.kind in ("file", "reserved"):
            continue
        sections = files[(site / "reference" / f"{symbol.package}.html").as_uri()].sections
        text = sections.get(symbol.name, "")
        words = symbol.comment.partition("HTTP: ")[0].replace("`", "").split()
        if f"since {symbol.since}" not in text or not {*words} - {"-"} <= {*text.split()}:
            wrong.append(symbol.name)
    assert wrong == []
    text = files[(site / REFERENCE).as_uri()].sections["smg.v1.ChatRequest.max_tokens"]
    assert "HTTP: max_completion_tokens" in text
    text = files[(site / REFERENCE).as_uri()].sections["smg.v1.ChatService.Chat"]
    assert "HTTP: POST /v1/chat/completions" in text


def test_a_page_of_changes_shows_witnesses(site: Path, files: dict[str, Content]) -> None:
    text = " ".join("".join(files[(site / CHANGES).as_uri()].sections.values()).split())
    assert "smg.v1.CompletionRequest.echo" in text
    assert "old to new, lost: smg.v1." in text and "as bytes" in text
    html = (site / CHANGES).read_text(encoding="utf-8")
    assert re.search(r"ChatMessage\.parts</code></a>[^\n]*<ul>\n<li>old to new, misread: ", html)


def test_no_markup_is_left_in_the_text(files: dict[str, Content]) -> None:
    markup = re.compile(r"```|\]\(|\*\*|\{ [.#:]|^ *[-*|] .*$|^#+ .*$", re.MULTILINE)
    left = {address: markup.findall(content.prose) for address, content in files.items()}
    assert {address: found for address, found in left.items() if found} == {}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("max_tokens", MAX_TOKENS),
        ("max_tok", MAX_TOKENS),
        ("smg.v1.ChatRequest.max_tokens", MAX_TOKENS),
        ("StreamChat", f"{REFERENCE}#smg.v1.ChatService.StreamChat"),
    ],
)
async def test_search_finds_a_symbol_while_typing(
    typed: str, found: str, site: Path, page: Page
) -> None:
    await page.open((site / "index.html").as_uri())
    await page.evaluate("document.querySelector('.md-search__button').click()")
    search = "document.activeElement.shadowRoot"
    await async_eventually(lambda: page.evaluate(f"{search}?.activeElement?.tagName === 'INPUT'"))
    await page.type(typed)
    links = f"[...{search}.querySelectorAll('a')].map(a => a.href.replace(/[?][^#]*/, ''))"
    wanted = (site / found.partition("#")[0]).as_uri() + "#" + found.partition("#")[2]

    async def listed() -> bool:
        return wanted in await page.evaluate(links)

    await async_eventually(listed, f"{typed} finds {found}")
    assert all(url.startswith((site.as_uri(), "data:", "about:")) for url in page.requests)
    assert any(url.startswith((site / "search.js").as_uri()) for url in page.requests)


async def test_pages_fit_a_phone_and_use_no_network(
    site: Path, files: dict[str, Content], page: Page
) -> None:
    await page.resize(360, 740)
    wide: list[str] = []
    for address in files:
        await page.open(address)
        if await page.evaluate("document.documentElement.scrollWidth") > 360:
            wide.append(address)
    assert wide == []
    assert [r for r in page.requests if not r.startswith((site.as_uri(), "data:", "about:"))] == []


# How bright the page is, and for each kind of element the least contrast of its text with what is
# behind it, by the formula of WCAG 2.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  const brightness = (colors) => {
    for (const color of ["white", ...colors]) {
      canvas.fillStyle = color
      canvas.fillRect(0, 0, 1, 1)
    }
    const linear = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255).map((c) =>
      c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
  }
  const behind = (element) => element
    ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : []
  const worst = {}
  for (const element of document.querySelectorAll("article *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
    if (!text || element.closest(".headerlink, svg, button") || !element.checkVisibility()) continue
    const ground = behind(element)
    const pair = [brightness(ground), brightness([...ground, getComputedStyle(element).color])]
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)
    const kind = element.tagName + "." + element.className
    worst[kind] = Math.min(worst[kind] ?? contrast, contrast)
  }
  return { page: brightness(behind(document.querySelector("article"))), worst }
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_light_and_in_dark(scheme: str, site: Path, page: Page) -> None:
    await page.prefer(scheme)
    for name in SHOWN:
        await page.open((site / name).as_uri())
        seen: dict[str, Any] = await page.evaluate(CONTRAST)
        assert seen["page"] < 0.1 if scheme == "dark" else seen["page"] > 0.8
        assert seen["worst"]
        assert {kind: ratio for kind, ratio in seen["worst"].items() if ratio < 4.5} == {}, name


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [("", 1, "is not empty: "), ("mine.txt", 2, "cannot be written: ")],
)
def test_other_files_in_the_folder_are_not_changed(
    name: str, status: int, why: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    command = [sys.executable, f"{ROOT}/scripts/build.py", "--site", f"{tmp_path / name}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == status
    assert re.fullmatch(rf"build: {tmp_path / name} {why}.*\n", done.stderr)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["mine"]
