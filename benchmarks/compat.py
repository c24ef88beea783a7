#!/usr/bin/env python3
"""What comparing contracts costs, beside buf breaking on the same pair and a bare interpreter.

    .venv/bin/python benchmarks/compat.py [ROUNDS]

Prints a table. Every number is the median of interleaved rounds of whole processes, start-up of the
interpreter included: seconds of CPU, and the largest resident memory. The bar for a pair of
descriptor sets is one run of buf, for its level WIRE, the least that it does; a pair in which every
message breaks is shown without a bar. Exit: 0 all bars kept, 1 one is missed.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import google.protobuf

if TYPE_CHECKING or sys.argv[1:2] == ["make"]:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as F
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    import smg_proto

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
EVERY = "every message changed"
CONFIG = '{"version":"v2","breaking":{"use":["WIRE"]}}'


@dataclass(frozen=True)
class Case:
    name: str
    command: list[str]
    beside: str = ""  # the case that it is compared with
    bar: bool = True  # its figures are the bar
    seconds: float | None = None  # of CPU at most
    status: int = 0  # the exit status that it must have


@dataclass(frozen=True)
class Cost:
    cpu: float
    memory: float  # MiB


def retyped(files: "FileDescriptorSet", every: int = 1) -> "tuple[FileDescriptorSet, int]":
    """The contracts with the first scalar of messages made another: and how many there are."""
    edited = FileDescriptorSet.FromString(files.SerializeToString())
    seen = count = 0
    for file in edited.file:
        for message in file.message_type if not file.package.startswith("google.") else ():
            seen += 1
            scalar = next((field for field in message.field if not field.type_name), None)
            if scalar and seen % every == 0:
                text = scalar.type == F.TYPE_STRING
                scalar.type = F.TYPE_SINT64 if text else F.TYPE_STRING
                count += 1
    return edited, count


def large(messages: int) -> "FileDescriptorSet":
    """Messages of ten fields that hold one another, in files of a hundred."""
    kinds = [F.TYPE_STRING, F.TYPE_INT32, F.TYPE_INT64, F.TYPE_DOUBLE, F.TYPE_BOOL, F.TYPE_BYTES]
    found = FileDescriptorSet()
    for number in range(messages):
        if number % 100 == 0:
            file = found.file.add(name=f"f{number // 100}.proto", package="big", syntax="proto3")
            if number:
                file.dependency.append(f"f{number // 100 - 1}.proto")
        message = file.message_type.add(name=f"M{number}")
        for place in range(1, 10):
            kind = kinds[(number + place) % len(kinds)]
            label = F.LABEL_REPEATED if place % 4 == 0 else F.LABEL_OPTIONAL
            message.field.add(
                name=f"f{place}", number=place, label=label, type=kind, json_name=f"f{place}"
            )
        if number % 20:
            message.field.add(
                name="next", number=10, label=F.LABEL_OPTIONAL, type=F.TYPE_MESSAGE,
                type_name=f".big.M{number - 1}", json_name="next",
            )  # fmt: skip
    return found


def built(protos: Path) -> "FileDescriptorSet":
    """The set as buf writes it, with its places in the source and its comments."""
    image = protos / "image.binpb"
    config = '{"version":"v2","modules":[{"path":"."}]}'
    command = [str(BIN / "buf"), "build", "--config", config, "-o", str(image)]
    subprocess.run(command, cwd=protos, check=True)
    data = image.read_bytes()
    image.unlink()
    return FileDescriptorSet.FromString(data)


def cost(command: list[str], expected: int) -> Cost:
    """Of one run, its children included."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def make(scratch: Path) -> None:
    """Write the pairs, each into a folder whose name says what it is."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(smg_proto.proto_path(), folder, dirs_exist_ok=True)
        own = built(Path(folder))
    for title, files, every in (
        ("1 contracts of this package", own, 30),
        ("2 contracts of this package", own, 1),
        ("3 1,000 messages", large(1_000), 10),
        ("4 10,000 messages", large(10_000), 100),
    ):
        edited, count = retyped(files, every)
        data = files.SerializeToString()
        changed = EVERY if every == 1 else f"{count} changed"
        pair = scratch / f"{title} ({len(data) // 1024:,} KiB), {changed}"
        pair.mkdir()
        (pair / "old.binpb").write_bytes(data)
        (pair / "new.binpb").write_bytes(edited.SerializeToString())


def cases(scratch: Path) -> Iterator[Case]:
    diff = [str(BIN / "smg-proto"), "diff"]
    yield Case("empty interpreter", [sys.executable, "-c", "pass"])
    yield Case("protobuf runtime", [sys.executable, "-c", "import google.protobuf.descriptor"])
    yield Case("`smg-proto diff self self`", [*diff, "self", "self"], seconds=2)
    for folder in sorted(scratch.iterdir()):
        old, new = folder / "old.binpb", folder / "new.binpb"
        named = folder.name[2:]
        buf = [str(BIN / "buf"), "breaking", str(new), "--against", str(old), "--config", CONFIG]
        theirs = f"{named}: `buf breaking`"
        # There are findings, as there should be; buf's 1 is for what it cannot read.
        yield Case(theirs, buf, status=100)
        command, bar = [*diff, str(old), str(new)], not named.endswith(EVERY)
        yield Case(f"{named}: `smg-proto diff`", command, theirs, bar, status=1)


def main() -> int:
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]))
        return 0
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        # By a process of its own: what a child takes of memory begins with what its parent has.
        subprocess.run([sys.executable, __file__, "make", folder], check=True)
        # As pip does when it installs.
        for package in (ROOT / "smg_proto", Path(google.protobuf.__file__).parent):
            subprocess.run([sys.executable, "-m", "compileall", "-q", package], check=True)
        chosen = list(cases(Path(folder)))
        taken: dict[str, list[Cost]] = {case.name: [] for case in chosen}
        for _ in range(rounds):
            for case in chosen:
                taken[case.name].append(cost(case.command, case.status))
    middle = {
        name: Cost(
            statistics.median(one.cpu for one in costs),
            statistics.median(one.memory for one in costs),
        )
        for name, costs in taken.items()
    }
    missed = False
    print("| process | CPU, ms | of buf's | memory, MiB | of buf's | bar |")
    print("|---|---:|---:|---:|---:|---|")
    for case in chosen:
        mine, bar, ratios = middle[case.name], "", ["", ""]
        if case.beside:
            theirs = middle[case.beside]
            parts = mine.cpu / theirs.cpu, mine.memory / theirs.memory
            late = max(parts) > 1 and case.bar
            ratios = [f"{part:.2f}" for part in parts]
            bar = ("no more than buf" if case.bar else "none") + (", missed" if late else "")
            missed = missed or late
        elif case.seconds:
            late = mine.cpu > case.seconds
            bar = f"at most {case.seconds:g} s" + (", missed" if late else "")
            missed = missed or late
        print(
            f"| {case.name} | {mine.cpu * 1000:.0f} | {ratios[0]} "
            f"| {mine.memory:.0f} | {ratios[1]} | {bar} |"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
