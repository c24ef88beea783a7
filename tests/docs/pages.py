"""The Markdown pages of the repository, and the code on them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from links import slug
from support import ROOT

# docs/reference/ is generated and has no code.
FOLDERS = (".", ".github", "benchmarks", "clients/*", "docs")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
FENCED = re.compile(r"^( *)(`{3,})(.*)\n((?s:.*?))^\1\2 *$", re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?:(?: {4}.*)?\n)*? {4}.*\n(?:(?: {4}.*)?\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of code."""

    page: Path
    id: str  # docs/errors.md#writing, docs/testing.md#run-one.2; without # above the first section
    line: int  # of its first line of code
    language: str  # as the fence says; empty for an indented block
    text: str


def blocks() -> Iterator[Block]:
    """Every block on every page, in order."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        seen: dict[tuple[str, str], int] = {}
        for line, language, code in sorted([*fenced(text), *indented(text)]):
            where = page.relative_to(ROOT).as_posix()
            if headings := re.findall(r"^## +(.*)$", head(text, line), re.MULTILINE):
                where += f"#{slug(headings[-1])}"
            number = seen[where, language] = seen.get((where, language), 0) + 1
            name = where if number == 1 else f"{where}.{number}"
            yield Block(page, name, line, language, code)


def head(text: str, line: int) -> str:
    """What stands above a line, without blocks of code."""
    return FENCED.sub("", "".join(text.splitlines(keepends=True)[: line - 2]))


def fenced(text: str) -> Iterator[tuple[int, str, str]]:
    for found in FENCED.finditer(text):
        margin, _, language, code = found.groups()
        line = text.count("\n", 0, found.start(4)) + 1
        yield line, language.strip(), re.sub(f"^{margin}", "", code, flags=re.MULTILINE)


def indented(text: str) -> Iterator[tuple[int, str, str]]:
    # A fence keeps its lines, so that numbers stay right.
    plain = FENCED.sub(lambda found: re.sub(r".*", "", found[0]) or "\n", text)
    for found in INDENTED.finditer(plain):
        line = plain.count("\n", 0, found.start()) + 1
        yield line, "", re.sub("^ {4}", "", found[0].rstrip() + "\n", flags=re.MULTILINE)
