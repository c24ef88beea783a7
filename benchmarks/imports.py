#!/usr/bin/env python3
"""What importing the package costs, beside the runtimes that it needs and the published package.

    .venv/bin/python benchmarks/imports.py [ROUNDS]

Prints a table. Every number is the median of interleaved rounds, each import in a fresh
interpreter, in CPU time: other work on the machine disturbs that less than the clock on the wall.
Exit: 0 all bars kept, 1 one is missed.
"""

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / ".cache" / "benchmarks"
PUBLISHED = "smg-grpc-proto==0.4.28"

RUNTIME = (
    "from google.protobuf import descriptor, descriptor_pool, symbol_database\n"
    "from google.protobuf.internal import builder"
)
GRPC = f"import grpc\n{RUNTIME}"


@dataclass(frozen=True)
class Case:
    name: str
    code: str
    published: bool = False  # in the environment with the published package
    base: str = ""  # the case that this one is compared with
    ratio: float | None = None  # at most this many times the base
    above: float | None = None  # at most this many milliseconds above the base


CASES = [
    Case("empty interpreter", "pass"),
    Case("protobuf runtime", RUNTIME),
    Case("grpc and runtime", GRPC),
    Case("`smg_proto`", "import smg_proto", base="empty interpreter", above=3),
    Case(
        "`smg_proto.vllm_engine_pb2`",
        "import smg_proto.vllm_engine_pb2",
        base="protobuf runtime",
        ratio=1.15,
    ),
    *(
        Case(
            f"`smg_proto.{module}`",
            f"import smg_proto.{module}",
            base="protobuf runtime",
            ratio=1.15,
        )
        for module in ("vllm_inference_pb2", "vllm_control_pb2", "sglang_runtime_pb2")
    ),
    Case("`smg_proto.smg_pb2`", "import smg_proto.smg_pb2", base="protobuf runtime", above=15),
    Case(
        "`smg_proto.openengine_pb2`",
        "import smg_proto.openengine_pb2",
        base="protobuf runtime",
        above=15,
    ),
    Case(
        "`smg_proto.vllm_engine_pb2_grpc`",
        "import smg_proto.vllm_engine_pb2_grpc",
        base="grpc and runtime",
        ratio=1.07,
    ),
    Case("`smg_proto.smg_pb2_grpc`", "import smg_proto.smg_pb2_grpc", base="grpc and runtime"),
    Case("published `smg_grpc_proto`", "import smg_grpc_proto", True, base="empty interpreter"),
    Case(
        "published `vllm_engine_pb2`",
        "import smg_grpc_proto.generated.vllm_engine_pb2",
        True,
        base="protobuf runtime",
    ),
    Case(
        "published `vllm_engine_pb2_grpc`",
        "import smg_grpc_proto.generated.vllm_engine_pb2_grpc",
        True,
        base="grpc and runtime",
    ),
]


def environment(name: str, *requirements: str) -> Path:
    """The Python of a virtual environment with these, all modules compiled."""
    home = STORE / name
    python = home / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    venv = [*uv, "venv", "-q", "--clear", "--python", sys.executable, str(home)]
    subprocess.run(venv, check=True)
    install = [*uv, "pip", "install", "-q", "--compile-bytecode", "--python", str(python)]
    subprocess.run([*install, *requirements], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    code = "from importlib.metadata import version as v; print(v('protobuf'), v('grpcio'))"
    output = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(zip(("protobuf", "grpcio"), output.split(), strict=True))


def milliseconds(python: Path, code: str) -> float:
    timed = f"import time\na = time.process_time()\n{code}\nprint(time.process_time() - a)"
    # -I: neither this checkout nor the caller's settings.
    done = subprocess.run([python, "-I", "-c", timed], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 41
    published = environment("published", PUBLISHED)
    same = [f"{name}=={version}" for name, version in versions(published).items()]
    ours = environment("ours", *same, str(ROOT))
    taken: dict[str, list[float]] = {case.name: [] for case in CASES}
    for _ in range(rounds):
        for case in CASES:
            taken[case.name].append(milliseconds(published if case.published else ours, case.code))
    median = {name: statistics.median(times) for name, times in taken.items()}
    print(f"Python {sys.version.split()[0]}, {', '.join(same)}; medians of {rounds} rounds\n")
    print("| import | ms | over | ms more | times | bar |\n|---|---:|---|---:|---:|---|")
    missed = 0
    for case in CASES:
        print(f"| {case.name} | {median[case.name]:.1f} | ", end="")
        if not case.base:
            print("| | | |")
            continue
        more = median[case.name] - median[case.base]
        times = median[case.name] / median[case.base] if median[case.base] >= 1 else None
        bar = ""
        if case.above is not None:
            missed += more > case.above
            bar = f"at most {case.above:g} ms more"
        if case.ratio is not None:
            missed += times is None or times > case.ratio
            bar = f"at most {case.ratio:g} times"
        print(f"{case.base} | {more:.1f} | {f'{times:.2f}' if times else ''} | {bar} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
