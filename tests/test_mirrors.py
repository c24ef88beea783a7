"""Mirrors of what engines publish themselves: the published text, symbol for symbol.

Published means: in the crates that carry the text. Their descriptors are frozen in tests/compat.
"""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from _contract import contract
from _frozen import Frozen
from _upstream import UPSTREAMS, Unreachable, Upstream
from contract_facts import as_others_have_it
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from support import ROOT, missing

import smg_proto

FROZEN = Frozen.here()
MODULES = {
    "vllm/control.proto": "vllm_control_pb2",
    "vllm/inference.proto": "vllm_inference_pb2",
    "sglang/runtime/v1/sglang.proto": "sglang_runtime_pb2",
    "openengine/v1/error.proto": "openengine.error_pb2",
    "openengine/v1/generation.proto": "openengine.generation_pb2",
    "openengine/v1/kv.proto": "openengine.kv_pb2",
    "openengine/v1/lifecycle.proto": "openengine.lifecycle_pb2",
    "openengine/v1/lora.proto": "openengine.lora_pb2",
    "openengine/v1/model.proto": "openengine.model_pb2",
    "openengine/v1/openengine.proto": "openengine.openengine_pb2",
    "openengine/v1/server.proto": "openengine.server_pb2",
}
COUNTS = {  # messages, fields, RPCs
    "vllm": (66, 175, 23),
    "sglang.runtime.v1": (50, 139, 26),
    "openengine.v1": (63, 243, 11),
}
EACH = pytest.mark.parametrize("upstream", UPSTREAMS, ids=lambda upstream: upstream.name)


def published(upstream: Upstream) -> dict[str, FileDescriptorProto]:
    """The files of the newest release, under the names that they have here."""
    files = FROZEN.descriptors(upstream.frozen[-1]).file
    own = [file for file in files if file.package == upstream.package]
    for file in own:
        file.name = upstream.names.get(file.name, file.name)
    return {file.name: file for file in own}


def ours(package: str) -> dict[str, FileDescriptorProto]:
    """The files of proto/, without what only concerns other languages and readers."""
    files = [file for file in smg_proto.descriptor_set().file if file.package == package]
    for file in files:
        file.ClearField("options")
        file.ClearField("source_code_info")
    return {file.name: file for file in files}


@EACH
def test_the_mirror_equals_the_published_contract_including_field_order(upstream: Upstream) -> None:
    here, there = ours(upstream.package), published(upstream)
    assert here.keys() == there.keys()
    for name, file in there.items():
        assert here[name] == file, name


@EACH
def test_the_mirror_has_every_message_field_and_rpc(upstream: Upstream) -> None:
    kinds = [
        line.kind
        for line in contract(smg_proto.descriptor_set())
        if line.package == upstream.package
    ]
    counts = tuple(kinds.count(kind) for kind in ("message", "field", "rpc"))
    assert counts == COUNTS[upstream.package]


@EACH
def test_the_modules_embed_the_published_descriptors_unchanged(upstream: Upstream) -> None:
    for file in as_others_have_it(upstream).file:
        if file.package == upstream.package:
            module = import_module(f"smg_proto.{MODULES[file.name]}")
            assert module.DESCRIPTOR.serialized_pb == file.SerializeToString(), file.name


def test_every_module_of_a_mirror_is_tested() -> None:
    assert {name for upstream in UPSTREAMS for name in published(upstream)} == MODULES.keys()


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
@EACH
def test_foreign_generated_code_shares_the_process(
    upstream: Upstream, order: str, implementation: str, tmp_path: Path
) -> None:
    done = share_a_process(as_others_have_it(upstream), order, implementation, tmp_path)
    assert not done.returncode, done.stderr[-2000:]


def test_code_generated_from_a_bare_file_name_cannot_share_the_process(tmp_path: Path) -> None:
    # What docs/engines.md warns of. The registry of descriptors takes a symbol from one file only.
    bare = FROZEN.descriptors("vllm-proto-0.6.0")
    done = share_a_process(bare, "theirs first", "upb", tmp_path)
    assert done.returncode
    assert re.search(r"duplicate symbol .?vllm\.", done.stderr), done.stderr[-2000:]


def share_a_process(
    files: FileDescriptorSet, order: str, implementation: str, folder: Path
) -> "subprocess.CompletedProcess[str]":
    image = folder / "image.binpb"
    image.write_bytes(files.SerializeToString())
    variables = {
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation,
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "peers.published", image, order],
        cwd=ROOT / "tests",
        env=variables,
        capture_output=True,
        text=True,
    )


def test_observations_of_servers_have_one_form() -> None:
    form = re.compile(r"Observed in [\w-]+(?: [\w-]+)? \d+\.\d+\.\d+: ")
    comments = [
        " ".join(place.leading_comments.split())
        for file in smg_proto.descriptor_set().file
        if file.package in COUNTS
        for place in file.source_code_info.location
    ]
    observed = [text for text in comments if "bserved" in text]
    assert len(observed) > 40
    for text in observed:
        assert len(form.findall(text)) == text.count("bserved"), text


@pytest.mark.packaging
@EACH
def test_the_frozen_descriptors_are_those_of_the_crates(upstream: Upstream) -> None:
    for version, release in zip(upstream.releases, upstream.frozen, strict=True):
        try:
            files = upstream.published(version)
        except Unreachable as error:
            missing(str(error))
        assert by_name(files) == by_name(FROZEN.descriptors(release)), release


def by_name(files: FileDescriptorSet) -> dict[str, FileDescriptorProto]:
    return {file.name: file for file in files.file}
