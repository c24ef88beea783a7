#!/usr/bin/env python3
"""What comparing contracts costs, beside buf breaking on the same pair and a bare interpreter.

    .venv/bin/python benchmarks/compat.py [ROUNDS]

Prints a table. Every number is the median of interleaved rounds of whole processes, start-up of the
interpreter included, on the clock on the wall. Exit: 0 all bars kept, 1 one is missed.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

import smg_proto

BIN = Path(sys.executable).parent
WIRE = '{"version":"v2","breaking":{"use":["WIRE"]}}'


@dataclass(frozen=True)
class Case:
    name: str
    command: list[str]
    seconds: float | None = None  # at most


def retyped(files: FileDescriptorSet) -> tuple[FileDescriptorSet, int]:
    """The contracts with the first scalar of every message made another: and how many there are."""
    edited = FileDescriptorSet.FromString(files.SerializeToString())
    count = 0
    for file in edited.file:
        for message in file.message_type if not file.package.startswith("google.") else ():
            for field in message.field:
                if not field.type_name:
                    text = field.type == FieldDescriptorProto.TYPE_STRING
                    field.type = (
                        FieldDescriptorProto.TYPE_SINT64
                        if text
                        else FieldDescriptorProto.TYPE_STRING
                    )
                    count += 1
                    break
    return edited, count


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True)
    if done.returncode not in (0, 1, 100):  # 1 and 100: there are findings, as there should be
        sys.exit(f"{' '.join(command)}: {done.stderr.decode()}")
    return time.perf_counter() - started


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    diff = [str(BIN / "smg-proto"), "diff"]
    with tempfile.TemporaryDirectory() as scratch:
        old, new = Path(scratch, "old.binpb"), Path(scratch, "new.binpb")
        today = smg_proto.descriptor_set()
        edited, count = retyped(today)
        old.write_bytes(today.SerializeToString())
        new.write_bytes(edited.SerializeToString())
        buf = [str(BIN / "buf"), "breaking", str(new), "--against", str(old), "--config", WIRE]
        cases = [
            Case("empty interpreter", [sys.executable, "-c", "pass"]),
            Case("protobuf runtime", [sys.executable, "-c", "import google.protobuf.descriptor"]),
            Case("`smg-proto diff self self`", [*diff, "self", "self"], seconds=1),
            Case(f"{count} changed messages: `buf breaking`, WIRE", buf),
            Case(
                f"{count} changed messages: `smg-proto diff`",
                [*diff, str(old), str(new)],
                seconds=3,
            ),
        ]
        taken: dict[str, list[float]] = {case.name: [] for case in cases}
        for _ in range(rounds):
            for case in cases:
                taken[case.name].append(seconds(case.command))
    bare = statistics.median(taken["empty interpreter"])
    missed = False
    print("| process | ms | times an empty interpreter | bar |\n|---|---:|---:|---|")
    for case in cases:
        median = statistics.median(taken[case.name])
        late = case.seconds is not None and median > case.seconds
        missed = missed or late
        bar = f"at most {case.seconds:g} s{', missed' if late else ''}" if case.seconds else ""
        print(f"| {case.name} | {median * 1000:.0f} | {median / bare:.1f} | {bar} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
