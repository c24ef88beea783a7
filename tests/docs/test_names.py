"""What the pages name, what a package lists and what the stubs have is one and the same."""

import ast
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

import smg_proto
from docs.pages import PAGES, blocks

PACKAGE = Path(smg_proto.__file__).parent
# Users are given these and never make one; what their constructors take is not for users.
GIVEN = re.compile(r"(Async)?(\w+Stream|Resource)")


def name_of(path: Path) -> str:
    """The module in a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def public_modules() -> list[str]:
    """The handwritten modules with `__all__`, of which no name begins with an underscore."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if "_pb2" not in path.name]
    found = [name_of(path) for path in files if "\n__all__ = [" in path.read_text(encoding="utf-8")]
    return [name for name in found if "._" not in name]


MODULES = public_modules()
GENERATED = sorted(
    name_of(path) for path in PACKAGE.rglob("*_pb2*.py") if not path.name.startswith("_")
)


@cache
def listed(module: str) -> set[str]:
    """The public names of a module."""
    loaded = importlib.import_module(module)
    if module == "smg_proto":
        return {name for name in dir(loaded) if not name.startswith("_")} | {"__version__"}
    if module in GENERATED:
        return {name for name in vars(loaded) if not name.startswith("_")}
    return set(loaded.__all__)


def fault(name: str) -> str | None:
    """Why a dotted name is not public; None if it is."""
    parts = name.split(".")
    module = parts.pop(0)
    while parts and f"{module}.{parts[0]}" in {*MODULES, *GENERATED, "smg_proto.v1"}:
        module += f".{parts.pop(0)}"
    if not parts:
        return None
    if parts[0] not in listed(module):
        return f"{name}: {module} does not list {parts[0]}"
    found: object = importlib.import_module(module)
    for part in parts:
        if (part.startswith("_") and part != "__version__") or not hasattr(found, part):
            return f"{name}: no public {part}"
        found = getattr(found, part)
    return None


def imports(code: str) -> Iterator[str]:
    """What a program takes from this package, as dotted names."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("smg_proto"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smg_proto"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def spoken() -> Iterator[tuple[str, str]]:
    """What the pages say, and import: the place, and the dotted name."""
    for page in PAGES:
        if page.name != "CHANGELOG.md":  # it has the names of its time
            for name in re.findall(
                r"\bsmg_proto(?:\.\w+)+(?![\w/])", page.read_text(encoding="utf-8")
            ):
                if "FILE" not in name:  # it stands for a name
                    yield page.relative_to(ROOT).as_posix(), name
    for block in blocks():
        if block.language == "python":
            yield from ((block.id, name) for name in imports(block.text))
    for example in sorted((ROOT / "examples").rglob("*.py")):
        for name in imports(example.read_text(encoding="utf-8")):
            yield example.relative_to(ROOT).as_posix(), name


@pytest.mark.parametrize(("where", "name"), sorted(set(spoken())))
def test_a_name_on_a_page_is_public(where: str, name: str) -> None:
    assert fault(name) is None, where


@pytest.mark.parametrize("name", ["smg_proto.vllm.aio", "smg_proto.errors._words", "smg_proto.x"])
def test_a_name_that_is_not_public_is_noticed(name: str) -> None:
    assert fault(name) is not None


@pytest.mark.parametrize("module", [name for name in MODULES if name != "smg_proto.cli"])
def test_a_public_module_has_a_page_that_names_it(module: str) -> None:
    pages = [page for page in PAGES if page.parent.name == "docs"]
    assert [page for page in pages if re.search(rf"\b{module}\b", page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("module", [name for name in GENERATED if name.endswith("_pb2")])
def test_a_generated_module_is_in_the_readme(module: str) -> None:
    name = module.removeprefix("smg_proto.")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in readme or f"`{name.rpartition('.')[0]}.*`" in readme


@pytest.mark.parametrize("module", MODULES)
def test_the_names_in_all_exist(module: str) -> None:
    loaded = importlib.import_module(module)
    assert len(set(loaded.__all__)) == len(loaded.__all__)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []
    assert loaded.__doc__


@pytest.mark.parametrize("module", GENERATED)
def test_a_stub_has_the_names_of_its_module(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__file__ is not None
    stub = ast.parse(Path(loaded.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    promised = {name for name in top_level(stub) if not name.startswith("_")}
    present = {name for name in listed(module) if not inspect.ismodule(vars(loaded)[name])}
    # Names that stubs have of their own accord: aliases, and stubs of an asyncio channel.
    own = {name for name in promised if re.match(r"Global___|\w+AsyncStub$", name)}
    assert promised - own - present == set()
    # Of each service grpc also makes a class of static methods, which it calls experimental.
    services = {name.removesuffix("Servicer") for name in promised if name.endswith("Servicer")}
    assert present - promised - services == set()


def top_level(tree: ast.Module) -> Iterator[str]:
    """What a stub defines or exports."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.asname == alias.name)


@pytest.mark.parametrize("module", MODULES)
def test_the_types_in_public_signatures_are_public(module: str) -> None:
    public = {id(getattr(importlib.import_module(m), n)) for m in MODULES for n in listed(m)}
    hidden = {
        f"{where} mentions {kind.__module__}.{kind.__qualname__}"
        for where, kind in mentioned(importlib.import_module(module))
        if kind.__module__.startswith("smg_proto") and "_pb2" not in kind.__module__
        if id(kind) not in public
    }
    assert hidden == set()


def mentioned(module: types.ModuleType) -> Iterator[tuple[str, type]]:
    """The classes in the annotations of what a module lists, and where they stand."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield from annotated(name, value)
        elif inspect.isclass(value):
            for base in value.__mro__:
                if base.__module__.startswith("smg_proto") and "_pb2" not in base.__module__:
                    yield from annotated(name, base)
                    for member, function in members(base):
                        if not (member == "__init__" and GIVEN.fullmatch(base.__name__)):
                            yield from annotated(f"{name}.{member}", function)


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, as functions."""
    for name, value in vars(owner).items():
        if name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
            continue
        for attribute in ("fget", "func", "__func__"):  # property, cached_property, classmethod
            value = getattr(value, attribute, value)
        if inspect.isfunction(value):
            yield name, value


def annotated(where: str, thing: Any) -> Iterator[tuple[str, type]]:
    names = namespace(thing.__module__)
    for label, hint in typing.get_type_hints(thing, names, names).items():
        if not label.startswith("_"):
            yield from ((where, kind) for kind in classes(hint))


@cache
def namespace(module: str) -> dict[str, Any]:
    """A module's names, those for type checkers included."""
    loaded = importlib.import_module(module)
    names = dict(vars(loaded))
    for node in ast.walk(ast.parse(inspect.getsource(loaded))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module, "exec"), names)
    return names


def classes(hint: Any) -> Iterator[type]:
    """The classes in a type."""
    if isinstance(hint, list | tuple):  # the parameters of a Callable
        for part in hint:
            yield from classes(part)
    elif isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    else:
        if isinstance(origin := typing.get_origin(hint), type):
            yield origin
        for part in typing.get_args(hint):
            yield from classes(part)
