#!/usr/bin/env python3
"""Regenerate all that is made from proto/: modules, stubs, descriptor set, reference, two pages.

    scripts/build.py            generate, then replace files that differ
    scripts/build.py --check    generate, then list files that differ (exit 1); change nothing
    scripts/build.py --site DIR write the documentation as a site to an empty or new folder

Exit status: 0 success, 1 a proto does not compile or a file differs, 2 a tool is missing.
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
# Standard messages of other projects; smg_proto needs some of each.
STANDARD = ["scripts/standard", "templates/google_rpc"]
ENGINES, ENGINES_TABLE = "docs/engines.md", "docs/engines.json"
SUPPORT, SUPPORT_RECORD = "docs/support.md", "tests/e2e/support.json"
# The files that this script owns, besides parts of INIT and ENGINES. A match that is not generated
# is stale.
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
    """All generated files: path below ROOT to content."""
    from _engines import page
    from _protos import compile_protos
    from _python_messages import literal
    from _reference import pages
    from _support import page as support

    protos = compile_protos(ROOT, "proto")
    image = protos.image()
    made = python(protos)
    made["smg_proto/_standard_files.py"] = literal(compile_protos(ROOT, *STANDARD).files)
    made |= {f"docs/reference/{name}": text for name, text in pages(image).items()}
    text, table, record = (
        (ROOT / path).read_text(encoding="utf-8")
        for path in (ENGINES, ENGINES_TABLE, SUPPORT_RECORD)
    )
    made[ENGINES] = page(text, table, protos)
    made[SUPPORT] = support(SUPPORT_RECORD, record)
    made |= sync_folders(ROOT)
    generated = {Path(path): text.encode() for path, text in made.items()}
    generated[Path("smg_proto/descriptors.binpb")] = image.SerializeToString(deterministic=True)
    init = (ROOT / INIT).read_text(encoding="utf-8")
    generated[INIT] = with_names(init, public(generated)).encode()
    return generated


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
    """The public modules and packages of smg_proto, generated or written by hand."""
    patterns = ("smg_proto/*.py", "smg_proto/*/__init__.py")
    by_hand = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    modules = {*by_hand - owned(), *made}
    inside = (path.relative_to(INIT.parent) for path in modules if INIT.parent in path.parents)
    names = {path.parts[0].removesuffix(".py") for path in inside if path.suffix == ".py"}
    return sorted(name for name in names if not name.startswith("_"))


def owned() -> set[Path]:
    """The existing files that this script owns."""
    return {path.relative_to(ROOT) for pattern in OWNED for path in ROOT.glob(pattern)}


def differences(made: dict[Path, bytes]) -> list[Path]:
    """Paths below ROOT that are missing, out of date or stale."""
    outdated = {path for path, content in made.items() if content != read(path)}
    return sorted(outdated | (owned() - made.keys()))


def read(path: Path) -> bytes | None:
    return (ROOT / path).read_bytes() if (ROOT / path).exists() else None


def replace(path: Path, content: bytes | None) -> None:
    """Replace a file with its new content; None deletes a stale file."""
    target, fresh = ROOT / path, ROOT / path.with_name(path.name + ".new")
    try:
        if content is None:
            target.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        fresh.replace(target)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise Stop(
            2, f"could not write {path}: {error.strerror}; fix that and run this again"
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
