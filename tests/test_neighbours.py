"""One process imports this package beside others that bring protos of their own."""

import json
import subprocess
from pathlib import Path

import pytest
from _upstream import UPSTREAMS
from contract_facts import as_others_have_it
from peers.start import PUBLISHED
from support import ROOT, make_environment, run

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(300)]

DISTRIBUTIONS = [
    "pymilvus",
    "qdrant-client",
    "tritonclient[grpc]",
    "opentelemetry-proto",
    "googleapis-common-protos",
    "grpcio-tools",  # not imported: it generates what a user would
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
def test_all_packages_import_into_one_process(python: Path, order: list[str]) -> None:
    done = import_in_order(python, *order)
    assert not done.returncode, done.stderr[-2000:]
    imported = json.loads(done.stdout)
    assert list(imported) == order
    assert all(imported.values()), f"a package without generated modules: {imported}"


@pytest.fixture(scope="module")
def generated(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What others generate from the engines' own protos, by the newest generator.

    The wheels of vLLM 0.33.0 and SGLang 0.5.23 have no such code, nor the proto files: their
    servers are compiled. TensorRT-LLM's server runs on code that buf generated.
    """
    folder = tmp_path_factory.mktemp("generated")
    for upstream in UPSTREAMS:
        files = as_others_have_it(upstream)
        image = folder / "image.binpb"
        image.write_bytes(files.SerializeToString())
        names = [file.name for file in files.file if file.package == upstream.package]
        options = [f"--descriptor_set_in={image}", f"--python_out={folder}"]
        options += [f"--grpc_python_out={folder}"]
        run(python, "-m", "grpc_tools.protoc", *options, *names)
    return folder


@pytest.mark.parametrize("first", ["smg_proto", "theirs"])
def test_users_generated_code_of_the_engines_protos_can_be_imported_too(
    python: Path, generated: Path, first: str
) -> None:
    program = f"""
import pickle, sys
def ours():
    from smg_proto import openengine_pb2, sglang_runtime_pb2, vllm_control_pb2, vllm_inference_pb2
    from smg_proto import openengine_pb2_grpc
    return openengine_pb2, sglang_runtime_pb2, vllm_inference_pb2
def theirs():
    from openengine.v1 import generation_pb2, openengine_pb2_grpc
    from sglang.runtime.v1 import sglang_pb2
    from vllm import control_pb2, inference_pb2
    return generation_pb2, sglang_pb2, inference_pb2
if {first!r} == "theirs":
    theirs()
for mine, other in zip(ours(), theirs()):
    assert mine.GenerateRequest is other.GenerateRequest
    assert pickle.loads(pickle.dumps(other.GenerateRequest())) == mine.GenerateRequest()
"""
    run(python, "-c", program, cwd=generated, PYTHONPATH=str(generated))


def test_the_published_package_conflicts(tmp_path: Path) -> None:
    # What the path-qualified file names are for; it shows that the test above can fail.
    python = make_environment(tmp_path / "env", [PUBLISHED, "pymilvus"])
    done = import_in_order(python, "pymilvus", "smg_grpc_proto")
    assert done.returncode and "common.proto" in done.stderr
