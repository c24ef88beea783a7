"""The generators of Python modules against those that they stand in for."""

import ast
import subprocess
import sys
from pathlib import Path

import _protos
import pytest
from _facades import facade
from _protos import Protos, compile_protos, plain_module
from _python_messages import pb2
from _python_services import pb2_grpc
from support import ROOT, find_python, make_environment

ODD = """\
// Detached from what follows.

// About the file.
syntax = "proto3";

package odd.v1;

import "google/protobuf/any.proto";
import "odd/v1/plain.proto";

option java_package = "x.\\"y'\\\\z\\t";
option deprecated = true;

enum E {
  option allow_alias = true;
  option deprecated = true;
  E_UNSPECIFIED = 0;
  E_A = 1 [deprecated = true];
  E_B = 1;
  E_NEGATIVE = -5;
  reserved 7 to 9;
  reserved "E_OLD";
}

message Outer {
  option deprecated = true;
  message Inner {
    enum Deep {
      DEEP_UNSPECIFIED = 0;
      DEEP_X = 1 [deprecated = true];
    }
    message Leaf {
      map<string, Deep> m = 1 [deprecated = true];
    }
    repeated Leaf leaves = 1;
    oneof which {
      string a = 2 [deprecated = true];
      bytes b_c = 3;
    }
  }
  enum Second {
    SECOND_UNSPECIFIED = 0;
  }
  optional int32 x = 1 [json_name = "ex"];
  repeated int64 not_packed = 2 [packed = false];
  map<int32, Inner> inners = 3;
  google.protobuf.Any any = 4;
  odd.v1.Plain.Nested plain = 5;
  reserved 100 to max;
  double import = 19;
  string None = 20;
  string snake_case__name2_ = 21;
}

message Empty {}

message Same {
  message Same {}
  Same s = 1;
}

// What S "is".
//   Indented.
//
// After an empty line, é.
service S {
  option deprecated = true;
  // Detached from M.

  // What M is.
  rpc M(Outer) returns (odd.v1.Plain); // And what follows it.
  rpc NoComment(stream google.protobuf.Any) returns (stream Outer.Inner) {
    option deprecated = true;
    option idempotency_level = NO_SIDE_EFFECTS;
  }
  /* A block
   * with "stars"
   */
  rpc Up(stream Outer.Inner.Leaf) returns (odd.v1.Plain.Nested) {}
  // Ends with a "quote"
  rpc Down(Empty) returns (stream Empty);
}

service Nothing {}

service OfOthersOnly {
  rpc M(google.protobuf.Any) returns (google.protobuf.Any);
}
"""
PLAIN = """\
syntax = "proto3";
package odd.v1;
message Plain {
  message Nested {}
}
"""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Protos with all that is seldom."""
    home = tmp_path / "protos"
    (home / "odd/v1").mkdir(parents=True)
    (home / "odd/v1/some-things.proto").write_text(ODD, encoding="utf-8")
    (home / "odd/v1/plain.proto").write_text(PLAIN, encoding="utf-8")
    return home


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module where its proto's name says, as the original generators have it."""
    monkeypatch.setattr(_protos, "module_of", plain_module)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with protoc 25.1 and its plugin for gRPC: wheels end with 3.12."""
    python = find_python("3.12")
    pins = ["grpcio-tools==1.62.3", "protobuf==4.25.8", "setuptools==80.9.0"]
    return make_environment(tmp_path_factory.mktemp("original") / "venv", pins, python=python)


def ours(protos: Protos) -> dict[str, str]:
    made: dict[str, str] = {}
    for file in protos.own:
        stem = protos.modules[file.name].replace(".", "/")
        made[f"{stem}.py"] = pb2(file, protos)
        made[f"{stem}_grpc.py"] = pb2_grpc(file, protos)
    return made


def theirs(original: Path, protos: Path, out: Path) -> dict[str, str]:
    out.mkdir()
    names = [str(path.relative_to(protos)) for path in protos.rglob("*.proto")]
    command = [str(original), "-m", "grpc_tools.protoc", "-I."]
    command += [f"--python_out={out}", f"--grpc_python_out={out}", *names]
    subprocess.run(command, cwd=protos, check=True)
    return {
        str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in out.rglob("*.py")
    }


@pytest.mark.packaging
@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("source", ["odd", "proto"])
def test_the_modules_are_those_of_the_original_generators(
    source: str, odd: Path, original: Path, tmp_path: Path
) -> None:
    folder = odd if source == "odd" else ROOT / "proto"
    assert ours(compile_protos(folder, ".")) == theirs(original, folder, tmp_path / "theirs")


@pytest.mark.usefixtures("unmoved")
def test_modules_of_odd_protos_import_and_work(odd: Path, tmp_path: Path) -> None:
    for name, text in ours(compile_protos(odd, ".")).items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    code = """
import pickle
from odd.v1 import plain_pb2, some_things_pb2, some_things_pb2_grpc
inner = some_things_pb2.Outer.Inner(b_c=b"!")
outer = some_things_pb2.Outer(x=3, inners={1: inner}, plain=plain_pb2.Plain.Nested())
assert pickle.loads(pickle.dumps(outer)) == outer
assert some_things_pb2_grpc.SServicer.M.__doc__.startswith("What M is.")
"""
    env = {"PYTHONPATH": str(tmp_path / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("unmoved")
def test_a_facade_has_all_that_the_files_of_its_package_declare(odd: Path, tmp_path: Path) -> None:
    services = 'syntax = "proto3"; package odd.v1; import "odd/v1/plain.proto";'
    services += "service Only { rpc M(Plain) returns (Plain); }"
    (odd / "odd/v1/services.proto").write_text(services, encoding="utf-8")
    protos = compile_protos(odd, ".")
    for name, text in (ours(protos) | facade("whole", protos.own, protos)).items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    code = """
import whole_pb2, whole_pb2_grpc
from odd.v1 import some_things_pb2
assert whole_pb2.Outer is some_things_pb2.Outer and whole_pb2.E_A == 1
assert set(whole_pb2.DESCRIPTOR.services_by_name) == {"S", "Nothing", "OfOthersOnly", "Only"}
assert whole_pb2_grpc.OnlyStub and whole_pb2_grpc.add_SServicer_to_server
"""
    env = {"PYTHONPATH": str(tmp_path / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("comment", [r"A \back\slash", 'Three """quotes"""', "Ends with \\"])
def test_a_comment_with_any_text_becomes_the_docstring(comment: str, tmp_path: Path) -> None:
    # The original generator writes a module that does not import, or says something else.
    proto = tmp_path / "odd" / "a.proto"
    proto.parent.mkdir()
    proto.write_text(
        f'syntax = "proto3"; package odd;\n// {comment}\nservice S {{}}\n', encoding="utf-8"
    )
    protos = compile_protos(tmp_path, ".")
    text = pb2_grpc(protos.own[0], protos)
    stub = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    assert (ast.get_docstring(stub) or "").strip() == comment
