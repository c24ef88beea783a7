"""Reads buf.yaml and buf.work.yaml: modules, excluded paths and dependencies.

They are read here and not by buf, so that a folder gives the same contract without buf installed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from smg_proto.compat._files import ContractError
from smg_proto.compat._tree import Tree


@dataclass
class Modules:
    """Folders that import names are relative to, and paths to exclude."""

    roots: list[str] = field(default_factory=list[str])  # "" is the top
    excludes: list[str] = field(default_factory=list[str])
    # By root: if present, only these paths below it belong to the module.
    includes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    dependencies: list[str] = field(default_factory=list[str])


def modules(tree: Tree) -> Modules | None:
    """The configuration at the top of the tree; None if there is none."""
    if "buf.work.yaml" in tree.files:
        work = _mapping(tree, "buf.work.yaml")
        result = Modules()
        for folder in _texts(work.get("directories")):
            _add_v1_module(tree, _clean(folder), result)
        return result
    if "buf.yaml" not in tree.files:
        return None
    config = _mapping(tree, "buf.yaml")
    if str(config.get("version")) != "v2":
        result = Modules()
        _add_v1_module(tree, "", result)
        return result
    result = Modules(dependencies=_texts(config.get("deps")))
    listed: Any = config.get("modules")
    modules: list[Any] = listed if _is_list(listed) else [{}]
    for module in map(_members, modules):
        if module is not None:
            root = _clean(str(module.get("path", ".")))
            result.roots.append(root)
            result.excludes += map(_clean, _texts(module.get("excludes")))
            if includes := _texts(module.get("includes")):
                result.includes[root] = [_clean(path) for path in includes]
    return result


def _add_v1_module(tree: Tree, folder: str, result: Modules) -> None:
    """Add a module of version v1 or v1beta1, which may lack a buf.yaml of its own."""
    name = f"{folder}/buf.yaml" if folder else "buf.yaml"
    config = _mapping(tree, name) if name in tree.files else {}
    build = _members(config.get("build")) or {}
    inner = [_clean(f"{folder}/{root}") for root in _texts(build.get("roots"))]
    result.roots += inner or [folder]
    result.excludes += [_clean(f"{folder}/{path}") for path in _texts(build.get("excludes"))]
    result.dependencies += _texts(config.get("deps"))


def _clean(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/".join(parts)


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value] if _is_list(value) else []


def _members(value: Any) -> dict[str, Any] | None:
    """The value if it is a mapping, else None."""
    return value if _is_mapping(value) else None


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_mapping(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _mapping(tree: Tree, name: str) -> dict[str, Any]:
    try:
        value: Any = read_yaml(tree.files[name].decode())
    except (ValueError, RecursionError) as error:
        hint = "give the folder of the protos instead"
        raise ContractError(f"{tree.origin}: {name}: {error}; {hint}") from error
    return _members(value) or {}


# --- the part of YAML that these files use -------------------------------------------------------

_MAX_LENGTH, _MAX_LINE = 2**18, 1_000
_Line = tuple[int, str]  # indentation, text
_KEY = re.compile(r"""("[^"]*"|'[^']*'|[^\s#:"'\[\]{},&*!|>%@`-][^#:]*?)\s*:(?:\s+(.*))?""")


def read_yaml(text: str) -> Any:
    """Read block mappings and lists, flow lists and scalars. ValueError for any other YAML."""
    lines: list[_Line] = []
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"more than {_MAX_LENGTH} characters")
    for number, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"(^|\s)#.*", "", line).rstrip()
        if len(bare) > _MAX_LINE:
            raise ValueError(f"line {number} has more than {_MAX_LINE} characters")
        if bare.strip() in ("", "---"):
            continue
        if "\t" in bare[: len(bare) - len(bare.lstrip())]:
            raise ValueError(f"line {number} is indented with a tab")
        lines.append((len(bare) - len(bare.lstrip()), bare.strip()))
    value, rest = _block(lines, 0, 0)
    if rest != len(lines):
        raise ValueError(f"unexpected {lines[rest][1]!r}")
    return value


def _block(lines: list[_Line], at: int, least: int) -> tuple[Any, int]:
    """The mapping or list that begins at a line, and the line after it."""
    if at >= len(lines) or lines[at][0] < least:
        return None, at
    indent, text = lines[at]
    if text == "-" or text.startswith("- "):
        listed: list[Any] = []
        while at < len(lines) and lines[at][0] == indent and lines[at][1].startswith("-"):
            inner = lines[at][1][1:].strip()
            if not inner:
                value, at = _block(lines, at + 1, indent + 1)
            elif _KEY.fullmatch(inner):
                # The rest of the line starts a mapping, indented to where it begins.
                offset = indent + len(lines[at][1]) - len(inner)
                lines[at] = offset, inner
                value, at = _block(lines, at, offset)
            else:
                value, at = _scalar(inner), at + 1
            listed.append(value)
        return listed, at
    members: dict[str, Any] = {}
    while at < len(lines) and lines[at][0] == indent:
        match = _KEY.fullmatch(lines[at][1])
        if not match:
            raise ValueError(f"{lines[at][1]!r} is not supported here")
        key = match[1].strip("\"'")
        if match[2]:
            members[key], at = _scalar(match[2]), at + 1
        else:
            listed_here = at + 1 < len(lines) and lines[at + 1][1].startswith("-")
            least = indent if listed_here else indent + 1
            members[key], at = _block(lines, at + 1, least)
    return members, at


def _scalar(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return list(_items(text[1:-1]))
    if text == "{}":
        return {}
    if text[:1] in ("{", "[", "&", "*", "!", "|", ">"):
        raise ValueError(f"{text!r} is not supported here")
    return text.strip("\"'")


def _items(text: str) -> Iterator[str]:
    for item in text.split(","):
        if item.strip():
            yield item.strip().strip("\"'")
