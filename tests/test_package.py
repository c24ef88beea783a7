"""The package as a whole: what importing it costs and offers."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import smg_grpc_proto
import smg_proto

PACKAGE = Path(smg_proto.__file__).parent
GENERATED = sorted(path.stem for path in PACKAGE.glob("*_pb2*.py"))
PUBLIC = [m.name for m in pkgutil.iter_modules([str(PACKAGE)]) if not m.name.startswith("_")]
OLD = [
    f"{name}_pb2{suffix}"
    for name in (
        "common",
        "mlx_engine",
        "sglang_encoder",
        "sglang_scheduler",
        "tokenspeed_encoder",
        "tokenspeed_scheduler",
        "trtllm_service",
        "vllm_engine",
    )
    for suffix in ("", "_grpc")
]


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys; old = set(sys.modules); import smg_proto; print({*sys.modules} - old)"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "{'smg_proto'}"


def test_importing_messages_does_not_load_grpc() -> None:
    code = "import sys, smg_proto.vllm_engine_pb2, smg_proto.smg_pb2; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_client_for_every_engine_needs_no_extra() -> None:
    extras = ("pydantic", "tokenizers", "aiohttp", "jinja2", "opentelemetry")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({extras!r}))
from smg_proto.engine import connect
from smg_proto.engine._contracts import CONTRACTS, load
loaded = [name for name in sys.modules if name.startswith("smg_proto.") and "_pb2" in name]
assert loaded == [], loaded
for name in CONTRACTS:
    load(name)
connect("localhost:1")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_is_an_attribute_of_the_package(name: str) -> None:
    assert name in dir(smg_proto)
    assert getattr(smg_proto, name) is importlib.import_module(f"smg_proto.{name}")


def test_the_error_for_an_unknown_submodule_lists_similar_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'vllm_engin_pb2'.*vllm_engine_pb2"):
        _ = smg_proto.vllm_engin_pb2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'error'; did you mean errors"):
        _ = smg_proto.error  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["proto", "_nothing", "v1.nothing", "nothing.v1", ""])
def test_other_names_are_not_attributes_of_the_package(name: str) -> None:
    assert not hasattr(smg_proto, name)


def test_a_package_without_its_extra_says_what_to_install() -> None:
    code = """
import sys; sys.modules["pydantic"] = None  # as if it was not installed
import inspect, smg_proto
assert not hasattr(smg_proto, "vllm")
names = {name for name, _ in inspect.getmembers(smg_proto)}
assert "llm" in names and "vllm" not in names
try:
    from smg_proto import vllm
except ImportError as error:
    print(error)
smg_proto.vllm
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    advice = "smg_proto.vllm needs pydantic: pip install 'smg-grpc-proto[client]'"
    assert done.stdout.strip() == advice
    assert f"\nAttributeError: smg_proto.vllm cannot be loaded: {advice}" in done.stderr


@pytest.mark.parametrize("name", OLD)
def test_old_import_path_is_the_same_module(name: str) -> None:
    new = importlib.import_module(f"smg_proto.{name}")
    assert importlib.import_module(f"smg_grpc_proto.{name}") is new
    assert importlib.import_module(f"smg_grpc_proto.generated.{name}") is new
    assert getattr(smg_grpc_proto, name) is new
    assert new.__spec__ is not None and new.__spec__.name == f"smg_proto.{name}"


def test_old_import_path_lists_its_modules() -> None:
    assert sorted(smg_grpc_proto.__all__) == OLD
    assert set(OLD) <= set(dir(smg_grpc_proto))
    names: dict[str, object] = {}
    exec("from smg_grpc_proto import *", names)
    assert names["vllm_engine_pb2"] is smg_proto.vllm_engine_pb2


def test_old_import_path_has_the_version_and_rejects_unknown_names() -> None:
    assert smg_grpc_proto.__version__ == smg_proto.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing_pb2'"):
        _ = smg_grpc_proto.nothing_pb2  # type: ignore[attr-defined]


def test_shipped_protos_and_descriptor_set_agree() -> None:
    files = {file.name for file in smg_proto.descriptor_set().file}
    protos = {
        str(p.relative_to(smg_proto.proto_path())) for p in smg_proto.proto_path().rglob("*.proto")
    }
    assert protos and protos == {name for name in files if not name.startswith("google/")}
