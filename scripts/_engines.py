"""The tables of docs/engines.md, from docs/engines.json: which server has which contract.

A cell says what a server supports, and `by` says how that is known: `test` (tests of this
repository run the server; `shown` lists scenarios or FILE::TEST of tests/engines, for the server's
name `engine` there), `run` (it was tried by hand), `source` (the source of that release) or
`contract` (the contract). `rpcs` lists the RPCs. Features without a cell were not checked.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _protos import Protos
from _tools import Stop

MARKS = {"test": "T", "run": "R", "source": "S", "contract": "C"}
_BLOCK = "<!-- {name}, from docs/engines.json by scripts/build.py -->\n{rows}<!-- end -->"

Table = Mapping[str, Any]


def page(text: str, table: str, protos: Protos) -> str:
    """The page with its tables regenerated. The rest of the page is written by hand."""
    known: Table = json.loads(table)
    for name, rows in (
        ("servers", _servers(known, protos)),
        ("capabilities", _capabilities(known)),
        ("watched", _watched(known)),
    ):
        place = re.search(rf"<!-- {name}, .*? -->\n.*?<!-- end -->", text, re.DOTALL)
        if place is None:
            raise Stop(1, f"docs/engines.md: missing markers of the table {name!r}; restore them")
        block = _BLOCK.format(name=name, rows="".join(_row(cells) for cells in rows))
        text = text[: place.start()] + block + text[place.end() :]
    return text


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _head(*cells: str) -> list[Sequence[str]]:
    return [cells, ["---"] * len(cells)]


def _servers(known: Table, protos: Protos) -> Iterable[Sequence[str]]:
    yield from _head("server", "how to start it", "port", "contract", "modules", "who calls it")
    for server in known["servers"]:
        package = server["contract"]
        yield (
            f"**{server['name']}**<br>{server['version']}",
            server["start"],
            server["port"],
            f"[`{package}`](reference/{package}.md)<br>{server['release']}",
            ", ".join(f"`{name}`" for name in modules(package, protos)),
            server["callers"],
        )


def modules(package: str, protos: Protos) -> list[str]:
    """The modules that a program imports for a package: those with its services."""
    from _modules import FACADES

    served = [file for file in protos.own if file.package == package and file.service]
    homes = [protos.modules[file.name] for file in served]
    names = {FACADES.get(home.rpartition(".")[0], "") or home.rpartition(".")[2] for home in homes}
    return sorted(name if name.endswith("_pb2") else f"{name}_pb2" for name in names)


def _capabilities(known: Table) -> Iterable[Sequence[str]]:
    servers = [server for server in known["servers"] if "streams" in server["can"]]
    yield from _head("", *(server["name"] for server in servers))
    for key, title in known["capabilities"].items():
        yield (title, *(_cell(server["can"].get(key)) for server in servers))


def _cell(cell: Mapping[str, Any] | None) -> str:
    return f"{cell['says']} <sup>{MARKS[cell['by']]}</sup>" if cell else ""


def _watched(known: Table) -> Iterable[Sequence[str]]:
    yield from _head("contract", "where it is", "why it is not mirrored")
    for contract in known["watched"]:
        yield f"`{contract['contract']}`", contract["who"], contract["why"]
