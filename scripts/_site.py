"""The documentation as a site: static files made of docs/, the contracts and their releases."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from posixpath import dirname, normpath, relpath
from typing import Any

import _tools
from _changelog import UNRELEASED, section
from _frozen import Frozen, released
from _reference import PRESENCE, Pages, paragraphs, short
from _tools import Stop
from _upstream import UPSTREAMS
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from links import ELSEWHERE, links

from smg_proto import __version__
from smg_proto._descriptors import Symbol, symbols
from smg_proto.compat import Contract, Report, diff
from smg_proto.compat._formats import markdown

ROOT = Path(__file__).resolve().parents[1]
FILES = "https://github.com/smg-grpc-proto/smg-grpc-proto/blob/main"
INDEX = "docs/README.md"  # its sections and links are the navigation
# Pages that have another place in the site than below docs/.
PLACES = {
    INDEX: "index.md",
    "docs/reference/README.md": "reference/index.md",
    "CHANGELOG.md": "changes/index.md",
}
MAX_REPORT_BYTES = 10_000_000
_HTTP = re.compile(r"\s*\bHTTP: (.+?)\.(?=\s|$)", re.DOTALL)
_ROUTES = re.compile(r"^\| (\w+\.\w+) \| (.+) \|$", re.MULTILINE)

_CHANGES = """\
# Changes

What `smg-proto diff` finds between the releases whose descriptors are kept here. A finding of class
`data` has a witness: bytes that one release wrote and the other one read. [History](../history.md)
has every published release, [smg-proto diff](../diff.md) says what the classes mean.

| release | against | verdict |
|---|---|---|
"""

Nav = list[dict[str, Any]]


def build(files: FileDescriptorSet, out: Path) -> None:
    """Write the site into a folder, which has to be empty or new."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise Stop(1, f"{out} is not empty: the site needs a folder of its own; name another")
    except OSError as error:
        raise Stop(2, f"{out} cannot be written: {error.strerror}; name another folder") from error
    pages = reference(files) | changes(files) | written()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        shutil.copytree(ROOT / "docs", home / "docs", ignore=shutil.ignore_patterns("*.md"))
        for asset in ("site.css", "iframe-worker.js"):
            shutil.copy(ROOT / "scripts" / "site" / asset, home / "docs")
        for name, text in pages.items():
            (home / "docs" / name).parent.mkdir(exist_ok=True)
            (home / "docs" / name).write_text(text, encoding="utf-8")
        settings = (ROOT / "scripts" / "site" / "zensical.toml").read_text(encoding="utf-8")
        config = f"project.nav = {_toml(navigation(pages))}\n{settings}"
        (home / "zensical.toml").write_text(config, encoding="utf-8")
        done = _tools.run("zensical", "build", cwd=home)
        if done.returncode:
            raise Stop(1, f"zensical: {_tools.last_line(done.stderr or done.stdout)}")
        # These two would have to know the address of the site.
        without = shutil.ignore_patterns("404.html", "sitemap.xml")
        shutil.copytree(home / "site", out, ignore=without, dirs_exist_ok=True)


def navigation(pages: dict[str, str]) -> Nav:
    """The sections of the index with the pages that they name, in its order."""
    found: Nav = [{"Home": "index.md"}]
    text = (ROOT / INDEX).read_text(encoding="utf-8")
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        entries: Nav = []
        for name, target in re.findall(r"^- \[(.+?)\]\((\S+?)\)", body, re.MULTILINE):
            page = place(normpath(f"docs/{target}"))
            folder = dirname(page)
            inside = [p for p in pages if folder and dirname(p) == folder and p != page]
            below: list[Any] = [page, *({_title(pages[p]): p} for p in inside)]
            entries.append({name: below if inside else page})
        found.append({title: entries})
    return found


def _title(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("# ")).removeprefix("# ")


def _toml(value: "str | Sequence[Any] | dict[str, Any]") -> str:
    match value:
        case str():
            return json.dumps(value)
        case dict():
            return f"{{ {', '.join(f'{_toml(k)} = {_toml(v)}' for k, v in value.items())} }}"
        case _:
            return f"[{', '.join(map(_toml, value))}]"


# --- pages that people write ---------------------------------------------------------------------


def written() -> dict[str, str]:
    """The pages of docs/; the index has the first screen of README above its sections."""
    made = {
        place(f"docs/{path.name}"): relocated(path.read_text(encoding="utf-8"), f"docs/{path.name}")
        for path in sorted((ROOT / "docs").glob("*.md"))
    }
    readme = relocated((ROOT / "README.md").read_text(encoding="utf-8"), "README.md")
    first, sections = readme.partition("\n## ")[0], made["index.md"].partition("\n## ")[2]
    return made | {"index.md": f"{first}\n## {sections}"}


def place(name: str) -> str:
    """Where a file of the repository is in the site, below docs/ or by its own name."""
    return PLACES.get(name, name.removeprefix("docs/"))


def relocated(text: str, source: str) -> str:
    """A page with links to where their targets are: in the site, or in the repository."""
    lines = text.splitlines(keepends=True)
    for number, target in links(text):
        moved = f"]({_moved(target, source)})"
        lines[number - 1] = lines[number - 1].replace(f"]({target})", moved)
    return "".join(lines)


def _moved(target: str, source: str) -> str:
    if ELSEWHERE.match(target) or target.startswith("#"):
        return target
    path, mark, anchor = target.partition("#")
    name = normpath(PurePosixPath(source).parent / path.partition("?")[0])
    if name in PLACES or name.startswith("docs/"):
        return relpath(place(name), dirname(place(source)) or ".") + mark + anchor
    return f"{FILES}/{name}{mark}{anchor}"


# --- reference -----------------------------------------------------------------------------------


class SymbolPages(Pages):
    """Reference pages with a heading for each symbol; its anchor is the symbol's full name."""

    def __init__(self, everything: Sequence[Symbol], routes: dict[str, str]) -> None:
        super().__init__(everything)
        self.routes = routes  # by SERVICE.RPC

    def anchor(self, name: str) -> str:
        return name

    def section(self, top: Symbol, inside: list[Symbol]) -> list[str]:
        title = top.name.removeprefix(f"{top.package}.")
        lines = [f"### {title} {{ #{top.name} }}", *self.description(top, [top.kind]), ""]
        for part in inside:
            if part.kind == "reserved":
                what = f"`{part.type}`" if part.type else part.number
                lines += [f"Reserved, never to be used again: {what}.", ""]
            else:
                name = f"<span>{title}.</span>{short(part)}"
                lines += [f"#### {name} {{ #{part.name} }}"]
                lines += [*self.description(part, self.traits(part)), ""]
        return lines

    def traits(self, part: Symbol) -> list[str]:
        """What a part is on the wire, in a few words each."""
        match part.kind:
            case "rpc":
                sides = (self.type(side, part.package) for side in part.type.split(" -> "))
                return [" → ".join(sides)]
            case "value":
                return [f"= {part.number}"]
            case "oneof":
                return ["oneof: at most one is set"]
            case _:
                presence = f"oneof `{part.oneof}`" if part.oneof else PRESENCE[part.presence]
                kind = self.type(part.type, part.package)
                return [f"{presence} {kind} = {part.number}".strip()]

    def description(self, symbol: Symbol, traits: list[str]) -> Iterator[str]:
        """A line of facts, and the comment."""
        facts = [*traits, f"since {symbol.since}"]
        facts += (f"HTTP: {' '.join(names.split())}" for names in _HTTP.findall(symbol.comment))
        if route := self.routes.get(".".join(symbol.name.split(".")[-2:])):
            facts.append(f"HTTP: {route}")
        rest = replace(symbol, comment=_HTTP.sub("", symbol.comment).strip())
        yield from ("", " · ".join(facts), "{ .facts }", "", paragraphs(rest))


def reference(files: FileDescriptorSet) -> dict[str, str]:
    """The index of the packages, and a page for each."""
    mapping = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
    pages = SymbolPages(list(symbols(files)), dict(_ROUTES.findall(mapping)))
    made = {f"reference/{package}.md": pages.page(package) for package in sorted(pages.packages)}
    return {"reference/index.md": pages.index()} | made


# --- changes -------------------------------------------------------------------------------------


def changes(files: FileDescriptorSet) -> dict[str, str]:
    """What each release changed, with witnesses: a page for each, the newest first, and a list."""
    changelog = relocated((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "CHANGELOG.md")
    known = {symbol.name: symbol.package for symbol in symbols(files)}
    made: dict[str, str] = {}
    rows = ""
    for name, report in reports(files):
        title, page = f"{name} {report.new}", f"{name}-{report.new}.md"
        news = ""
        if name == "smg-grpc-proto":
            to_come = report.new == __version__ and report.new not in released(changelog)
            news = section(changelog, UNRELEASED if to_come else report.new)
        found = _linked(markdown(report, limit=MAX_REPORT_BYTES), known)
        made[f"changes/{page}"] = f"# {title}\n\n{news}\n\n## Contracts\n\n{found}\n"
        rows += f"| [{title}]({page}) | {report.old} | {report.verdict} |\n"
    return {"changes/index.md": _CHANGES + rows} | made


def reports(files: FileDescriptorSet) -> Iterator[tuple[str, Report]]:
    """Each release whose descriptors are kept against the one before, the newest first."""
    frozen = Frozen.here()
    ours = [release for release in frozen.readable if release not in frozen.upstream]
    series = {"smg-grpc-proto": ours} | {one.name: one.frozen for one in UPSTREAMS}
    for name, releases in series.items():
        contracts = [
            Contract(frozen.descriptors(release), re.sub(r"^[a-z-]+-(?=\d)", "", release))
            for release in releases
        ]
        if name == "smg-grpc-proto" and __version__ not in releases:
            contracts.append(Contract(files, __version__))
        for old, new in reversed([*pairwise(contracts)]):
            yield name, diff(old, new)


def _linked(text: str, known: dict[str, str]) -> str:
    """A report whose symbols lead to the reference, if they are still there; lists in it are four
    blanks in."""

    def link(found: re.Match[str]) -> str:
        package = known.get(found[1])
        return f"[{found[0]}](../reference/{package}.md#{found[1]})" if package else found[0]

    return re.sub(r"^  - ", "    - ", re.sub(r"`([\w.]+)`", link, text), flags=re.MULTILINE)
