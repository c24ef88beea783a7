#!/usr/bin/env python3
"""The pairs of schemas in pairs/*.txt: read, compiled, and judged by buf and by this package.

    tests/compat/pairs.py            say where one of them says something else than is written
    tests/compat/pairs.py --write    write both: the levels of buf, and reports/*.txt, the findings

A pair is one text in which {-old-} and {+new+} stand for what only one side has:

    == title | class, direction | what buf says
    proto3
    message M { int32 a = 1; {+string b = 2;+} }

The class is the verdict of `smg-proto diff`; `by name` behind it: only the names tell. buf: FILE,
WIRE_JSON and WIRE where that level fails, - for none, x where buf cannot compile the pair. The line
after the title is the syntax or edition of t.proto. With several files each begins with
`@ NAME SYNTAX [.SUBPACKAGE or =PACKAGE]`, `@[old]` or `@[new]` where one side lacks it. $P is the
package, the same for no two pairs. `messageset=new:M` sets an option that buf does not compile.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from smg_proto.compat import Contract, Finding, diff
from smg_proto.compat._programs import program

FOLDER = Path(__file__).parent / "pairs"
LEVELS = ("FILE", "WIRE_JSON", "WIRE")
SIDES = ("old", "new")


@dataclass
class Pair:
    name: str  # also its package and folder
    file: str  # that it is written in
    title: str
    cls: str
    direction: str  # "" where the class is not data
    by_name: bool
    buf: str
    text: str
    message_set: tuple[str, str] | None = None  # side, message
    files: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def __str__(self) -> str:
        return f"{self.name} {self.title}"


def side_of(text: str, side: str) -> str:
    kept, dropped = (r"\{-(.*?)-\}", r"\{\+.*?\+\}") if side == "old" else (
        r"\{\+(.*?)\+\}", r"\{-.*?-\}",
    )  # fmt: skip
    return re.sub(kept, r"\1", re.sub(dropped, "", text, flags=re.S), flags=re.S)


def parse(file: str, number: int, head: str, body: str) -> Pair:
    name = f"{file.removesuffix('.txt')}{number}"
    title, judged, *output = (part.strip() for part in head.split("|"))
    cls, *rest = (part.strip() for part in judged.split(","))
    pair = Pair(name, file, title, cls, "", "by name" in rest, output[0] if output else "", body)
    pair.direction = next((word for word in rest if word != "by name"), "")
    if not body.startswith("@"):
        body = f"@ t.proto {body}"
    for side in SIDES:
        pair.files[side] = {}
        for chunk in re.split(r"^@", body, flags=re.M)[1:]:
            only = re.match(r"\[(old|new)\]", chunk)
            if only and only[1] != side:
                continue
            first, _, text = side_of(chunk[only.end() if only else 0 :], side).partition("\n")
            path, syntax, *more = first.split()
            package = name
            for word in more:
                if word.startswith("messageset="):
                    which, _, message = word.partition("=")[2].partition(":")
                    pair.message_set = which, message
                else:
                    package = word[1:] if word.startswith("=") else name + word
            kind = f'syntax = "{syntax}"' if syntax[:5] == "proto" else f'edition = "{syntax}"'
            inside = re.sub(r'"((?!google/)[\w/]+\.proto)"', rf'"{name}/\1"', text)
            pair.files[side][f"{name}/{path}"] = f"{kind};\npackage {package};\n{inside}".replace(
                "$P", name
            )
    return pair


@cache
def pairs() -> tuple[Pair, ...]:
    found: list[Pair] = []
    for path in sorted(FOLDER.glob("*.txt")):
        for number, block in enumerate(
            re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.M)[1:]
        ):
            head, _, body = block.partition("\n")
            found.append(parse(path.name, number, head, body.strip() + "\n"))
    return tuple(found)


def buf() -> str:
    found = program("buf")
    assert found, "pip install buf-bin"
    return found


# --- compiled ------------------------------------------------------------------------------------


def build(folder: Path, chosen: Mapping[str, str]) -> Path:
    """An image of these files; all pairs are in one, since each has a package of its own."""
    protos = folder / "protos"
    for name, text in chosen.items():
        (protos / name).parent.mkdir(parents=True, exist_ok=True)
        (protos / name).write_text(text, encoding="utf-8")
    image = folder / "image.binpb"
    config = '{"version":"v2","modules":[{"path":"protos"}]}'
    command = [buf(), "build", "--config", config, "-o", str(image)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr + done.stdout
    return image


@cache
def compiled(side: str) -> Mapping[str, FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as scratch:
        every = {name: text for pair in pairs() for name, text in pair.files[side].items()}
        data = build(Path(scratch), every).read_bytes()
    files = {file.name: file for file in FileDescriptorSet.FromString(data).file}
    for pair in pairs():
        if pair.message_set and pair.message_set[0] in (side, "both"):
            for file in (files[name] for name in pair.files[side]):
                for message in file.message_type:
                    if message.name == pair.message_set[1]:
                        message.options.message_set_wire_format = True
    return files


def as_protobuf_js(file: FileDescriptorProto) -> FileDescriptorProto:
    """The file with relative names of its own package's types, no optional fields, and the last
    numbers of ranges."""
    shorter = FileDescriptorProto()
    shorter.CopyFrom(file)
    prefix = f".{file.package}." if file.package else "."
    scopes: list[FileDescriptorProto | DescriptorProto] = [shorter]
    spans: list[Any] = []
    while scopes:
        scope = scopes.pop()
        if isinstance(scope, DescriptorProto):
            for field in scope.field:
                if field.type_name:
                    field.type_name = field.type_name.removeprefix(prefix)
                    field.ClearField("proto3_optional")
            scopes += scope.nested_type
            spans += [*scope.reserved_range, *scope.extension_range]
        else:
            scopes += scope.message_type
        for extension in scope.extension:
            if extension.type_name:
                extension.type_name = extension.type_name.removeprefix(prefix)
            extension.extendee = extension.extendee.removeprefix(prefix)
    for rpc in (rpc for service in shorter.service for rpc in service.method):
        rpc.input_type = rpc.input_type.removeprefix(prefix)
        rpc.output_type = rpc.output_type.removeprefix(prefix)
    if any(span.end == span.start + 1 for span in spans):  # otherwise nobody can tell
        for span in spans:
            span.end -= 1
    return shorter


def contract(
    pair: Pair,
    side: str,
    change: Callable[[FileDescriptorProto], FileDescriptorProto] = lambda file: file,
) -> Contract:
    files = compiled(side)
    wanted, todo = dict[str, FileDescriptorProto](), [*pair.files[side]]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted[name] = files[name]
            todo += files[name].dependency
    own = frozenset(pair.files[side])
    return Contract(FileDescriptorSet(file=map(change, wanted.values())), side, own=own)


# --- what buf says -------------------------------------------------------------------------------


def judged_by_buf() -> dict[str, str]:
    """For each pair the levels at which `buf breaking` fails."""
    broken: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        images: list[Path] = []
        for side in SIDES:
            folder = Path(scratch, side)
            folder.mkdir()
            images.append(build(folder, {n: t for p in pairs() for n, t in p.files[side].items()}))
        for level in LEVELS:
            config = f'{{"version":"v2","breaking":{{"use":["{level}"]}}}}'
            command = [buf(), "breaking", str(images[1]), "--against", str(images[0])]
            command += ["--config", config, "--error-format", "json"]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            assert done.returncode in (0, 100), done.stderr
            for line in done.stdout.splitlines():
                output = json.loads(line)
                for name in re.findall(
                    r"\b([a-z0-9]+?\d+)/", f"{output.get('path')} {output['message']}"
                ):
                    broken.setdefault(name, set()).add(level)
                if "path" not in output:
                    for name in re.findall(r"\b([a-z]+[0-9]*?[a-z]\d+)\b", output["message"]):
                        broken.setdefault(name, set()).add(level)
    output = {
        p.name: " ".join(lv for lv in LEVELS if lv in broken.get(p.name, ())) for p in pairs()
    }
    return {p.name: "x" if p.message_set else output[p.name] or "-" for p in pairs()}


def recorded(finding: Finding) -> str:
    removal = " removal" if finding.removal else ""
    where = f" ({finding.package})"  # of a file
    if finding.place and finding.place.line:
        where = f" ({finding.place.file.rpartition('/')[2]}:{finding.place.line})"
    lines = [f"{finding.cls}{removal} {finding.symbol}{where}: {finding.message}"]
    for one in finding.witnesses:
        name = ", by name" * one.by_name
        said = f"{one.direction}, {one.outcome}{name}: {one.message} {one.bytes or '(no bytes)'}"
        lines += [f"    {said}: {one.sent}  ->  {one.read}"]
    return "\n".join([*lines, ""])


def reports() -> Iterator[tuple[Path, str]]:
    """Each file of findings as it is with what they say today."""
    for name, members in groupby(pairs(), lambda pair: pair.file):
        blocks: list[str] = []
        for pair in members:
            findings = diff(contract(pair, "old"), contract(pair, "new")).findings
            lines = "".join(map(recorded, findings))
            blocks.append(f"== {pair.title}\n" + re.sub(rf"\b{pair.name}\b", "$P", lines))
        yield FOLDER / "reports" / name, "\n".join(blocks)


def written() -> Iterator[tuple[Path, str]]:
    """Each file of pairs as it is with what buf says today."""
    output = judged_by_buf()
    for path in sorted(FOLDER.glob("*.txt")):
        numbers = iter(range(10_000))

        def head(match: re.Match[str], path: Path = path, numbers: Iterator[int] = numbers) -> str:
            title, judged, *_ = match[1].split("|")
            return (
                f"== {title.strip()} | {judged.strip()} | {output[f'{path.stem}{next(numbers)}']}"
            )

        yield (
            path,
            re.sub(r"^== (.*)$", head, path.read_text(encoding="utf-8"), flags=re.M),
        )


def main() -> int:
    stale = False
    for path, text in (*written(), *reports()):
        if not path.exists() or text != path.read_text(encoding="utf-8"):
            stale = True
            print(f"{path}: is not what is written")
            if "--write" in sys.argv[1:]:
                path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
