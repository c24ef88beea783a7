"""Resolves what the published servicers of all engines take from smg_grpc_proto; runs none of them.

Prints one line of JSON: how many uses there are, and those that do not resolve.
"""

import ast
import json
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PROTO = "smg_grpc_proto"


def uses(source: str) -> Iterator[tuple[str, str]]:
    """Module of smg_grpc_proto and attribute of it, for all that a file imports and reads."""
    aliases: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith(PROTO):
                for name in names:
                    aliases[name.asname or name.name] = f"{module}.{name.name}"
                    yield module, name.name
            case ast.Import(names=names):
                for name in names:
                    if name.name.startswith(PROTO):
                        aliases[name.asname or name.name] = name.name
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=alias), attr=attribute) if alias in aliases:
                yield aliases[alias], attribute


def resolves(module: str, attribute: str) -> bool:
    """Whether `from module import attribute` works: a name in the module, or a module in it."""
    try:
        if hasattr(import_module(module), attribute):
            return True
        import_module(f"{module}.{attribute}")
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    spec = find_spec("smg_grpc_servicer")
    assert spec and spec.origin
    found = {
        use
        for path in Path(spec.origin).parent.rglob("*.py")
        for use in uses(path.read_text(encoding="utf-8"))
    }
    modules = sorted({module.rpartition(".")[2] for module, _ in found})
    missing = sorted(".".join(use) for use in found if not resolves(*use))
    print(json.dumps({"uses": len(found), "modules": modules, "missing": missing}))
