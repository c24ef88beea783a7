"""Writes the `.pyi` files: mypy-protobuf's output, adapted to pyright's strict mode."""

from collections.abc import Mapping

from _protos import Protos, plain_module
from _tools import Stop, last_line, run
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

from smg_proto.cli._stubs import STUB_OPTIONS, stub

# Only newer modules have these.
_NEWER = ("GRPC_GENERATED_VERSION: str\n", "GRPC_VERSION: str\n")


def stubs(protos: Protos) -> dict[str, str]:
    """The full name of each module with its stub, including a `_pb2_grpc` for every file."""
    request = CodeGeneratorRequest(
        proto_file=protos.files, file_to_generate=[file.name for file in protos.own]
    )
    modules = {plain_module(name): module for name, module in protos.modules.items()}
    texts: dict[str, str] = {}
    for name, parameter in STUB_OPTIONS.items():
        request.parameter = parameter
        done = run(f"protoc-gen-{name}", given=request.SerializeToString())
        if done.returncode:
            raise Stop(2, f"protoc-gen-{name} failed: {last_line(done.stderr)}")
        response = CodeGeneratorResponse.FromString(done.stdout)
        if response.error:
            raise Stop(1, f"protoc-gen-{name} rejected the protos: {response.error}")
        for file in response.file:
            stem, pb2, rest = file.name.replace("/", ".").rpartition("_pb2")
            module = modules[stem + pb2] + rest.removesuffix(".pyi")
            texts[module] = _corrected(file.content, modules)
    return texts


def _corrected(text: str, modules: Mapping[str, str]) -> str:
    text = stub(text, modules)
    for line in _NEWER:
        text = text.replace(line, "\n")
    return text
