"""Imports run one way, and what is not public says so by its name."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "smg_proto"
# Each part of the package, and the parts that it may import; CONTRIBUTING.md draws the same.
# Generated modules (`generated`) and the root (`__init__`) may be imported from everywhere.
ARROWS: dict[str, set[str]] = {
    "__init__": set(),
    "generated": set(),
    "_standard_files": set(),
    "_standard": {"_standard_files"},
    "_google_rpc": {"_standard"},
    "_descriptors": set(),
    "errors": {"_google_rpc"},
    "_target": set(),
    "_channel": {"_target"},
    "_connect": {"_channel", "errors"},
    "_probe": set(),
    "_tokens": {"_channel"},
    "streams": set(),
    "build": set(),
    "_http": {"errors"},
    "_serving": {"_descriptors", "_standard", "errors"},
    "vllm": {"_standard", "_channel", "_tokens"},
    "engine": {"_standard", "_channel", "_probe", "_tokens"},
    "compat": {"_standard", "_descriptors", "_channel", "_probe"},
    "sagellm": {"vllm"},
    "llm": {"engine", "vllm", "_http", "_serving", "errors"},
    "frontdoor": {"_http", "_serving", "errors"},
    "testing": {"llm", "_serving", "errors", "streams"},
    "_pytest_plugin": {"testing"},
    "cli": {"compat", "engine", "frontdoor", "testing", "_serving", "_standard", "_descriptors"},
    "__main__": {"cli"},
}
EVERYWHERE = {"__init__", "generated"}


def part_of(module: str) -> str:
    """The part of the package that a module is in: `smg_proto.vllm.x` is in `vllm`."""
    _, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    if not first:
        return "__init__"
    generated = first.endswith(("_pb2", "_pb2_grpc")) or first in ("v1", "openengine")
    return "generated" if generated else first


def handwritten() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "_pb2" not in path.name:
            relative = path.relative_to(ROOT).with_suffix("")
            yield ".".join(relative.parts).removesuffix(".__init__"), path


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Every module of this package that a file imports, wherever the statement stands."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("smg_proto"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smg_proto"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = PACKAGE.joinpath(*whole.split(".")[1:])
                is_module = target.is_dir() or target.with_suffix(".py").is_file()
                yield whole if is_module else str(node.module)


@pytest.mark.parametrize(("module", "path"), [*handwritten()])
def test_imports_run_one_way(module: str, path: Path) -> None:
    part = part_of(module)
    if module == "smg_proto":
        return  # it names every module, for type checkers
    allowed = {part, *EVERYWHERE, *ARROWS[part]}
    wrong = [name for name in imported(path) if part_of(name) not in allowed]
    assert wrong == [], f"{module} may import {sorted(allowed)}"


def test_there_are_no_cycles() -> None:
    done: set[str] = set()

    def visit(part: str, path: tuple[str, ...]) -> None:
        assert part not in path, " -> ".join((*path, part))
        if part not in done:
            for target in sorted(ARROWS[part]):
                visit(target, (*path, part))
            done.add(part)

    for part in ARROWS:
        visit(part, ())


def test_every_arrow_is_used() -> None:
    used: dict[str, set[str]] = {}
    for module, path in handwritten():
        parts = {part_of(name) for name in imported(path)}
        used.setdefault(part_of(module), set()).update(parts)
    unused = [
        f"{part} -> {target}"
        for part, targets in ARROWS.items()
        for target in targets
        if target not in used[part]
    ]
    assert unused == []


def test_private_modules_have_private_names() -> None:
    public = []
    for module, path in handwritten():
        names = module.split(".")[1:]
        private = any(name.startswith("_") for name in names) or path.name == "__init__.py"
        if not private:
            public.append(module)
    assert public == ["smg_proto.build", "smg_proto.errors", "smg_proto.streams"]


def test_every_public_package_lists_what_is_public() -> None:
    silent = [
        module
        for module, path in handwritten()
        if path.name == "__init__.py"
        and not any(name.startswith("_") for name in module.split("."))
        and module not in ("smg_proto", "smg_proto.openengine", "smg_proto.v1")
        and "__all__ = [" not in path.read_text(encoding="utf-8")
    ]
    assert silent == []
