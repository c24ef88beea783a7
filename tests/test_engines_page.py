"""docs/engines.md and the table behind it: what it names is there, and every contract is in it."""

import json
import re
from typing import Any

import pytest
from _engines import MARKS
from engines.scenarios import SCENARIOS
from engines.test_scenarios import DEVIATIONS
from support import ROOT

import smg_proto

PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
TABLE: dict[str, Any] = json.loads((ROOT / "docs" / "engines.json").read_text(encoding="utf-8"))
SERVERS = TABLE["servers"]
# Packages that no engine serves, or that have no services.
NOT_OF_ENGINES = {"smg.v1", "smg.grpc.common", "entity.grpc", "sagellm.v1"}
EACH = pytest.mark.parametrize("server", SERVERS, ids=lambda server: server["name"])


def packages() -> set[str]:
    files = smg_proto.descriptor_set().file
    return {file.package for file in files if not file.package.startswith("google.")}


def rpcs(package: str) -> set[str]:
    return {
        f"{service.name}.{method.name}"
        for file in smg_proto.descriptor_set().file
        if file.package == package
        for service in file.service
        for method in service.method
    }


def row(start: str) -> list[str]:
    """The cells of the one row on the page whose first cell starts so."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_every_contract_of_an_engine_has_a_server() -> None:
    assert {server["contract"] for server in SERVERS} == packages() - NOT_OF_ENGINES


def test_watched_contracts_are_on_the_page_and_not_mirrored() -> None:
    watched = {contract["contract"] for contract in TABLE["watched"]}
    assert watched == {"smg.worker.v1", "sglang.api.v1"}
    assert not watched & packages()
    assert all(f"| `{name}` | " in PAGE for name in watched)


@EACH
def test_the_modules_on_the_page_have_the_services_of_the_contract(server: dict[str, Any]) -> None:
    named = re.findall(r"`(\w+_pb2)`", row(f"**{server['name']}**")[4])
    served = {
        service.full_name
        for name in named
        for service in getattr(smg_proto, name).DESCRIPTOR.services_by_name.values()
    }
    wanted = {rpc.partition(".")[0] for rpc in rpcs(server["contract"])}
    assert served == {f"{server['contract']}.{service}" for service in wanted}
    for name in named:
        assert getattr(smg_proto, f"{name}_grpc")


@EACH
def test_every_cell_has_its_source_and_names_existing_rpcs(
    server: dict[str, Any],
) -> None:
    assert server["can"].keys() <= TABLE["capabilities"].keys()
    known = rpcs(server["contract"])
    for cell in server["can"].values():
        assert cell["says"] and cell["by"] in MARKS
        assert set(cell.get("rpcs", [])) <= known


@EACH
def test_tested_cells_name_existing_tests(server: dict[str, Any]) -> None:
    for key, cell in server["can"].items():
        assert (cell["by"] == "test") == bool(cell.get("shown")), key
        for shown in cell.get("shown", []):
            file, _, test = shown.rpartition("::")
            if file:
                text = (ROOT / "tests" / "engines" / file).read_text(encoding="utf-8")
                assert f"def {test}(" in text, shown
            else:  # a scenario: an engine that cannot do it deviates from it
                assert shown in SCENARIOS
                deviates = shown in DEVIATIONS.get(server["engine"], {})
                assert deviates == cell["says"].startswith("no"), (server["engine"], shown)


@EACH
def test_every_cell_of_a_server_that_generates_is_on_the_page(server: dict[str, Any]) -> None:
    if "streams" not in server["can"]:
        return
    column = row(" | ").index(server["name"])
    for key, title in TABLE["capabilities"].items():
        cell = server["can"].get(key)
        output = f"{cell['says']} <sup>{MARKS[cell['by']]}</sup>" if cell else ""
        assert row(f"{title} |")[column] == output, title
