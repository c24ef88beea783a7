#!/usr/bin/env python3
"""Regenerate all that is made from proto/: modules, stubs, facade, descriptor set, reference.

    scripts/build.py            generate, then replace what differs
    scripts/build.py --check    generate, then list what differs (exit 1); change nothing
    scripts/build.py --site DIR write the documentation as a site into a folder that is empty or new

Exit: 0 fine, 1 the answer is no (a proto does not compile, a file differs), 2 a tool is missing.
"""

import argparse
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import _tools
import _venv
from _modules import FACADES, OLD_FOLDERS, OLD_PATH, old_path, with_names
from _tools import Stop
from _unasync import sync_folders

if TYPE_CHECKING:
    from _protos import Protos

ROOT = _venv.ROOT
sys.path.insert(0, str(ROOT))
INIT = Path("smg_proto/__init__.py")
# Descriptions of messages that are not ours to define; smg_proto needs a few of each.
STANDARD = ["scripts/standard", "templates/google_rpc"]
ENGINES, ENGINES_TABLE = "docs/engines.md", "docs/engines.json"
# What this script owns, besides parts of INIT and ENGINES. What matches and is not generated is
# stale.
OWNED = [
    "smg_proto/*_pb2*.py*",
    *(f"{package.replace('.', '/')}/*.py*" for package in FACADES),
    "smg_proto/_standard_files.py",
    "smg_proto/descriptors.binpb",
    *(f"{folder}/*_pb2*.py" for folder in OLD_FOLDERS),
    "docs/reference/*.md",
    "smg_proto/*/_sync/*.py",
]


def generate() -> dict[Path, bytes]:
    """Everything that this script owns: path below ROOT to content."""
    from _engines import page
    from _protos import compile_protos
    from _python_messages import literal
    from _reference import pages

    protos = compile_protos(ROOT, "proto")
    image = protos.image()
    made = python(protos)
    made["smg_proto/_standard_files.py"] = literal(compile_protos(ROOT, *STANDARD).files)
    made |= {f"docs/reference/{name}": text for name, text in pages(image).items()}
    text, table = ((ROOT / path).read_text(encoding="utf-8") for path in (ENGINES, ENGINES_TABLE))
    made[ENGINES] = page(text, table, protos)
    made |= sync_folders(ROOT)
    found = {Path(path): text.encode() for path, text in made.items()}
    found[Path("smg_proto/descriptors.binpb")] = image.SerializeToString(deterministic=True)
    init = (ROOT / INIT).read_text(encoding="utf-8")
    found[INIT] = with_names(init, public(found)).encode()
    return found


def site(out: Path) -> None:
    """The documentation as static files."""
    from _protos import compile_protos
    from _site import build

    build(compile_protos(ROOT, "proto").image(), out)
    print(f"build: {out / 'index.html'}")


def python(protos: "Protos") -> dict[str, str]:
    """All generated Python: path below ROOT to text."""
    from _facades import facade
    from _python_messages import pb2
    from _python_services import pb2_grpc
    from _python_stubs import stubs
    from _upstream import mirrored, plain

    modules: dict[str, str] = {}
    aliases = {f"smg_proto.{name}_pb2" for name in OLD_PATH}
    for file in protos.own:
        module = protos.modules[file.name]
        if upstream := mirrored(Path(file.name)):
            modules[module] = pb2(plain(file), protos, json_names=upstream.json_names)
        else:
            modules[module] = pb2(file, protos)
        if file.service or module in aliases:
            modules[f"{module}_grpc"] = pb2_grpc(file, protos)
    made = {path_of(module, ".py"): text for module, text in modules.items()}
    typed = stubs(protos)
    made |= {path_of(module, ".pyi"): typed[module] for module in modules}
    for package, name in FACADES.items():
        files = [f for f in protos.own if protos.modules[f.name].rpartition(".")[0] == package]
        for path, text in facade(name, files, protos).items():
            made[f"smg_proto/{path}"] = text
        title = f'"""{files[0].package}: a module for each proto file."""\n'
        made[f"{package.replace('.', '/')}/__init__.py"] = title
    return made | old_path()


def path_of(module: str, suffix: str) -> str:
    return module.replace(".", "/") + suffix


def public(made: Iterable[Path]) -> list[str]:
    """The public modules and packages of smg_proto: generated ones, and those written by hand."""
    patterns = ("smg_proto/*.py", "smg_proto/*/__init__.py")
    by_hand = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    modules = {*by_hand - owned(), *made}
    inside = (path.relative_to(INIT.parent) for path in modules if INIT.parent in path.parents)
    names = {path.parts[0].removesuffix(".py") for path in inside if path.suffix == ".py"}
    return sorted(name for name in names if not name.startswith("_"))


def owned() -> set[Path]:
    """What is there of what this script owns."""
    return {path.relative_to(ROOT) for pattern in OWNED for path in ROOT.glob(pattern)}


def differences(made: dict[Path, bytes]) -> list[Path]:
    """Paths below ROOT that are missing, other than generated, or stale."""
    wrong = {path for path, content in made.items() if content != read(path)}
    return sorted(wrong | (owned() - made.keys()))


def read(path: Path) -> bytes | None:
    return (ROOT / path).read_bytes() if (ROOT / path).exists() else None


def replace(path: Path, content: bytes | None) -> None:
    """Swap one file for its new content; None: it is stale and goes."""
    there, fresh = ROOT / path, ROOT / path.with_name(path.name + ".new")
    try:
        if content is None:
            there.unlink()
            return
        there.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(there)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise Stop(
            2, f"{path} cannot be written: {error.strerror}; mend that, run again"
        ) from error


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only compare")
    what.add_argument("--site", metavar="DIR", type=Path, help="only write the site, into DIR")
    arguments = parser.parse_args()
    check = arguments.check
    try:
        _tools.enter()
        if arguments.site:
            site(arguments.site)
            return 0
        made = generate()
        wrong = differences(made)
        for path in wrong:
            if check:
                print(f"build: {path} is out of date; run scripts/build.py", file=sys.stderr)
            else:
                replace(path, made.get(path))
                print(f"build: {path}")
    except Stop as stop:
        print(f"build: {stop}", file=sys.stderr)
        return stop.code
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
