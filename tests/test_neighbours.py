"""One process imports this package beside others that bring protos of their own."""

import json
import subprocess
from pathlib import Path

import pytest
from peers.start import PUBLISHED
from support import ROOT, make_environment

pytestmark = pytest.mark.packaging

DISTRIBUTIONS = [
    "pymilvus",
    "qdrant-client",
    "tritonclient[grpc]",
    "opentelemetry-proto",
    "googleapis-common-protos",
]
NEIGHBOURS = ["pymilvus", "qdrant_client", "tritonclient.grpc", "opentelemetry.proto"]
NEIGHBOURS += ["google.rpc", "google.api", "google.type", "google.longrunning"]
OURS = ["smg_proto", "smg_grpc_proto"]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("neighbours") / "env"
    return make_environment(home, [wheel, *DISTRIBUTIONS])


def import_in_order(python: Path, *packages: str) -> "subprocess.CompletedProcess[str]":
    program = ROOT / "tests" / "peers" / "neighbours.py"
    return subprocess.run([python, program, *packages], capture_output=True, text=True)


@pytest.mark.parametrize(
    "order", [[*OURS, *NEIGHBOURS], [*NEIGHBOURS, *OURS]], ids=["first", "last"]
)
def test_all_import_into_one_process(python: Path, order: list[str]) -> None:
    done = import_in_order(python, *order)
    assert not done.returncode, done.stderr[-2000:]
    imported = json.loads(done.stdout)
    assert list(imported) == order
    assert all(imported.values()), f"a package without generated modules: {imported}"


def test_the_published_package_could_not(tmp_path: Path) -> None:
    # What the path-qualified file names are for; it shows that the test above can fail.
    python = make_environment(tmp_path / "env", [PUBLISHED, "pymilvus"])
    done = import_in_order(python, "pymilvus", "smg_grpc_proto")
    assert done.returncode and "common.proto" in done.stderr
