#!/usr/bin/env python3
"""Check that the relative links of Markdown files lead to files and headings that exist.

    scripts/links.py            check all Markdown files of the repository
    scripts/links.py FILE...    check only these files

A target must be part of the repository: tracked, or new and not ignored. Links to other sites are
not followed. Exit status: 0 all links are valid, 1 a list of invalid ones, 2 no repository.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]

FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
# The text of a link may hold another pair of brackets (an image, a subscript). Its target is in
# angle brackets or has no spaces.
TEXT = r"\[(?:[^\[\]]|\[[^\]]*\])*\]"
TARGET = r"\(\s*(?:<([^<>]*)>|([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*))(?:\s+[\"'(].*?[\"')])?\s*\)"
INLINE = re.compile(rf"(?={TEXT}{TARGET})")  # lookahead: a link's text may hold another link
DEFINITION = re.compile(r"^ {0,3}\[([^\]^][^\]]*)\]:\s*(?:<([^<>]*)>|(\S+))")
REFERENCE = re.compile(rf"{TEXT}\[([^\]]+)\]")
TAG = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
ANCHOR = re.compile(r"<[a-z]\w*\b[^>]*?\b(?:id|name)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not code, with their numbers. Headings keep their code spans."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            yield number, line if HEADING.match(line) else CODE.sub("", line)


def slug(heading: str) -> str:
    """The anchor of a heading, as on GitHub."""
    plain = re.sub(rf"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]{TARGET}", r"\1", heading)
    plain = re.sub(r"[^\w\- ]", "", plain.replace("`", "").lower())
    return plain.strip().replace(" ", "-")


def anchors(text: str) -> set[str]:
    """All anchors of a Markdown file."""
    names: set[str] = set()
    for _, line in prose(text):
        names.update(ANCHOR.findall(line))
        if heading := HEADING.match(line):
            first = name = slug(heading[1])
            number = 0
            while name in names:
                number += 1
                name = f"{first}-{number}"
            names.add(name)
    return names


def links(text: str) -> Iterator[tuple[int, str]]:
    """Every target in a Markdown file, with its line, including undefined `[text][name]`."""
    lines = list(prose(text))
    names = {" ".join(d[1].lower().split()) for _, line in lines if (d := DEFINITION.match(line))}
    for number, line in lines:
        if definition := DEFINITION.match(line):
            yield number, definition[2] or definition[3]
            continue
        line = CODE.sub("", line)
        for link in INLINE.finditer(line):
            yield number, link[1] if link[1] is not None else link[2]
        for tag in TAG.finditer(line):
            yield number, tag[1]
        for reference in REFERENCE.finditer(line):
            if " ".join(reference[1].lower().split()) not in names:
                yield number, f"[{reference[1]}]"


class Repository:
    """The files of a repository, and their anchors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise OSError(f"no git repository at {root}: {done.stderr.strip()}")
        names = (name for name in done.stdout.split("\0") if name)
        self.files = {name for name in names if (root / name).is_file()}
        self.folders = {str(p) for name in self.files for p in PurePosixPath(name).parents}
        self._anchors: dict[str, set[str]] = {}

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def anchors(self, name: str) -> set[str]:
        if name not in self._anchors:
            self._anchors[name] = anchors(self.read(name))
        return self._anchors[name]

    def fault(self, page: str, target: str) -> str | None:
        """Why a link of a page is invalid; None if it is valid or leads to another site."""
        if ELSEWHERE.match(target):
            return None
        if not target:
            return "a link without a target"
        if target.startswith("["):
            return f"{target} is not defined on this page"
        path, _, anchor = target.partition("#")
        path = unquote(path.partition("?")[0])
        if path.startswith("/"):
            return f"{target}: relative to the root of a site; make it relative to this page"
        name = normpath(PurePosixPath(page).parent / path) if path else page
        if name in self.folders:
            if not anchor:
                return None
            name = normpath(f"{name}/README.md")
        if name not in self.files:
            return f"{target}: no file {name} in the repository"
        if anchor and not (name.endswith(".md") and unquote(anchor) in self.anchors(name)):
            return f"{target}: no heading #{anchor} in {name}"
        return None

    def faults(self, page: str) -> Iterator[str]:
        for line, target in links(self.read(page)):
            if fault := self.fault(page, target):
                yield f"{page}:{line}: {fault}"


def main() -> int:
    try:
        repository = Repository(ROOT)
        named = [Path(word).resolve().relative_to(ROOT).as_posix() for word in sys.argv[1:]]
        pages = named or sorted(name for name in repository.files if name.endswith(".md"))
        faults = [fault for page in pages for fault in repository.faults(page)]
    except (OSError, ValueError) as error:
        print(f"links: {error}", file=sys.stderr)
        return 2
    for fault in faults:
        print(f"links: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
