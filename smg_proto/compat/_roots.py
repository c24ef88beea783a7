"""Finds the import name of each proto file of a tree."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePosixPath

from smg_proto.compat import _buf
from smg_proto.compat._files import ContractError
from smg_proto.compat._tree import Tree, excluded

# Comments and strings are matched too, so that an import inside one does not count.
_TOKENS = re.compile(
    r"""//[^\n]*
      | /\*(?s:.*?)(?:\*/|\Z)
      | \bimport\s+(?:(?:public|weak|option)\s+)?(?P<quote>["'])(?P<name>[^"'\n]*)(?P=quote)
      | "(?:\\.|[^"\\\n])*"
      | '(?:\\.|[^'\\\n])*'""",
    re.VERBOSE,
)
_ROUNDS = 20  # each round finds at least one root more


def imports(data: bytes) -> Iterator[tuple[str, int]]:
    """The names that a proto file imports, each with its line."""
    text = data.decode(errors="replace")
    line, place = 1, 0
    for token in _TOKENS.finditer(text):
        if name := token["name"]:
            line += text.count("\n", place, token.start())
            place = token.start()
            yield name, line


class Names:
    """The import name of each proto of a tree, from buf's configuration or from its imports.

    With a configuration, only the files of its modules count. Without one, and if there is a folder
    `proto/`, only the files in it count.
    """

    def __init__(self, tree: Tree, available: Callable[[str], bool]) -> None:
        self._tree = tree
        self.dependencies: list[str] = []
        paths = tree.protos
        if configured := _buf.modules(tree):
            self.dependencies = configured.dependencies
            paths = [path for path in paths if not excluded(path, configured.excludes)]
            for root, includes in configured.includes.items():
                paths = [
                    path
                    for path in paths
                    if (root and not _below(path, [root])) or _below(path, includes)
                ]
            self.names = _relative(paths, configured.roots, "")
            return
        paths = _without_copies(tree, paths)
        if any(path.startswith("proto/") for path in paths):
            paths = [path for path in paths if path.startswith("proto/")]
            roots = ["proto"]
        else:
            roots = [""]
        roots += [
            path.rpartition("/")[0] for path in tree.files if path.rpartition("/")[2] == "buf.yaml"
        ]
        self.names = self._inferred(paths, roots, available)

    def _inferred(
        self, paths: list[str], roots: list[str], available: Callable[[str], bool]
    ) -> dict[str, str]:
        """The names that imports use: `a/b.proto` is x/a/b.proto relative to the root x."""
        imported = {path: [name for name, _ in imports(self._tree.files[path])] for path in paths}
        by_end: dict[str, list[str]] = {}
        for path in paths:
            by_end.setdefault(path.rpartition("/")[2], []).append(path)
        prefix = ""
        names = _relative(paths, roots, prefix)
        for _ in range(_ROUNDS):
            known = set(names.values())
            missing = [
                (path, name)
                for path, wanted in imported.items()
                for name in wanted
                if name not in known
                and not name.startswith("google/protobuf/")
                and not available(name)
            ]
            before = list(roots), prefix
            for path, name in missing:
                same_end = by_end.get(name.rpartition("/")[2], [])
                below = [other for other in same_end if other.endswith(f"/{name}")]
                if below:
                    root = _nearest(path, below)[: -len(name) - 1]
                    if root not in roots:
                        roots.append(root)
                        break
                # The tree may be the content of a folder that imports name: add it as a prefix.
                above = [o for o in same_end if "/" in name and f"/{name}".endswith(f"/{o}")]
                if len(above) == 1 and not prefix:
                    prefix = name[: -len(above[0])]
                    break
            if before == (roots, prefix):
                break
            names = _relative(paths, roots, prefix)
        return names

    def by_name(self) -> Mapping[str, str]:
        """The path of each name. ContractError if two files have the same name."""
        paths: dict[str, str] = {}
        for path, name in self.names.items():
            if first := paths.get(name):
                raise ContractError(
                    f"{self._tree.origin}: {first} and {path} are both imported as {name}; "
                    "give one folder of protos, or exclude one of them"
                )
            paths[name] = path
        return paths


def _without_copies(tree: Tree, paths: Collection[str]) -> list[str]:
    """The paths without duplicates, as after vendoring twice: the one nearest to the top stays."""
    by_content: dict[bytes, str] = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        by_content.setdefault(tree.files[path], path)
    return sorted(by_content.values())


def _below(path: str, folders: Collection[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _relative(paths: Collection[str], roots: Collection[str], prefix: str) -> dict[str, str]:
    """Each path below one of the roots, relative to the innermost that contains it."""
    names: dict[str, str] = {}
    inner_first = sorted(set(roots), reverse=True)
    for path in paths:
        for root in inner_first:
            if not root or path.startswith(f"{root}/"):
                names[path] = path[len(root) + 1 :] if root else prefix + path
                break
    return names


def _nearest(path: str, candidates: Collection[str]) -> str:
    """The candidate that shares the most folders with the path."""
    parts = PurePosixPath(path).parts

    def shared(other: str) -> tuple[int, int]:
        count = 0
        for ours, theirs in zip(parts, PurePosixPath(other).parts, strict=False):
            if ours != theirs:
                break
            count += 1
        return -count, len(other)

    return min(candidates, key=shared)
