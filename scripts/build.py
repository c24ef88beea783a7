#!/usr/bin/env python3
"""Regenerate all that is made from proto/: modules, stubs, facade, descriptor set, reference.

    scripts/build.py            generate, then replace what differs
    scripts/build.py --check    generate, then list what differs (exit 1); change nothing

Exit: 0 fine, 1 the answer is no (a proto does not compile, a file differs), 2 a tool is missing.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _modules import OLD_PATH, V1, alias, facade, new_name, rewrite
from _tools import Stop, protoc, stub_python
from _unasync import sync_folders

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
# What this script owns. A file that matches and that is not generated any more is stale.
OWNED = [
    "smg_proto/*_pb2*.py*",
    "smg_proto/v1/*.py*",
    "smg_proto/descriptors.binpb",
    "smg_grpc_proto/*_pb2*.py",
    "smg_grpc_proto/generated/*_pb2*.py",
    "docs/reference/*.md",
    "smg_proto/*/_sync/*.py",
]


def compile_protos(out: Path) -> None:
    """Run protoc with all plugins over every proto; out receives its own layout of the files."""
    command, stubs = protoc(), stub_python().parent
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    if not files:
        raise Stop(2, f"no .proto file under {PROTO}")
    command += ["-I.", f"--python_out={out}", f"--grpc_python_out={out}"]
    # A servicer may leave RPCs out: those answer UNIMPLEMENTED, as they do in a later release.
    for kind, options in {"mypy": "", "mypy_grpc": ",generate_concrete_servicer_stubs"}.items():
        command += [f"--plugin={stubs}/protoc-gen-{kind}", f"--{kind}_out=quiet{options}:{out}"]
    command += [f"--descriptor_set_out={out}/descriptors.binpb"]
    command += ["--include_imports", "--include_source_info", *files]
    done = subprocess.run(command, cwd=PROTO, capture_output=True, text=True)
    if done.returncode:
        raise Stop(1, f"protoc refused the protos; nothing was changed\n{done.stderr.strip()}")


def reference(descriptors: Path, out: Path) -> dict[Path, bytes]:
    """The reference pages, written in the stubs' environment: it can read descriptors."""
    script = ROOT / "scripts" / "_reference.py"
    subprocess.run([stub_python(), script, descriptors, out], check=True)
    return {Path("docs/reference", page.name): page.read_bytes() for page in out.glob("*.md")}


def generate(out: Path) -> dict[Path, bytes]:
    """Everything that this script owns: path below ROOT to content."""
    compile_protos(out)
    descriptors = out / "descriptors.binpb"
    made = {Path("smg_proto/descriptors.binpb"): descriptors.read_bytes()}
    made |= reference(descriptors, out / "reference")
    made |= sync_folders(ROOT)
    sources = {path: dotted(path.relative_to(out)) for path in sorted(out.rglob("*_pb2*.py*"))}
    moved = {module: new_name(module) for module in sources.values()}
    v1_stubs: dict[str, str] = {}
    for path, module in sources.items():
        new = moved[module]
        if new.endswith("_grpc") and not has_service(path) and not OLD_PATH.fullmatch(new):
            continue
        text = rewrite(path.read_text(), moved, stub=path.suffix == ".pyi")
        made[Path(*new.split(".")).with_suffix(path.suffix)] = text.encode()
        if new.startswith(V1) and path.suffix == ".pyi":
            v1_stubs[new] = text
    if v1_stubs:
        made[Path("smg_proto/v1/__init__.py")] = b'"""smg.v1: a module for each proto file."""\n'
        for suffix in ("_pb2", "_pb2_grpc"):
            source, stub = facade("smg.v1", v1_stubs, suffix)
            made[Path(f"smg_proto/smg{suffix}.py")] = source.encode()
            made[Path(f"smg_proto/smg{suffix}.pyi")] = stub.encode()
    for module in filter(OLD_PATH.fullmatch, sorted(set(moved.values()))):
        for folder in ("smg_grpc_proto", "smg_grpc_proto/generated"):
            made[Path(folder, module.rpartition(".")[2] + ".py")] = alias(module).encode()
    return made


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def has_service(path: Path) -> bool:
    return "Servicer_to_server" in path.read_text()


def differences(made: dict[Path, bytes]) -> list[Path]:
    """Paths below ROOT that are missing, other than generated, or stale."""
    there = {path.relative_to(ROOT) for pattern in OWNED for path in ROOT.glob(pattern)}
    wrong = {p for p, content in made.items() if p not in there or content != read(p)}
    return sorted(wrong | (there - made.keys()))


def read(path: Path) -> bytes:
    return (ROOT / path).read_bytes()


def replace(path: Path, content: bytes | None) -> None:
    """Swap one file for its new content; None: it is stale and goes."""
    if content is None:
        (ROOT / path).unlink()
        return
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    fresh = ROOT / path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.replace(ROOT / path)


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    try:
        with tempfile.TemporaryDirectory() as scratch:
            made = generate(Path(scratch))
    except Stop as stop:
        print(f"build: {stop}", file=sys.stderr)
        return stop.code
    wrong = differences(made)
    for path in wrong:
        if check:
            print(f"build: {path} is not what proto/ gives; run scripts/build.py", file=sys.stderr)
        else:
            replace(path, made.get(path))
            print(f"build: {path}")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
