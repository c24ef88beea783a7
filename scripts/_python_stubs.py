"""The texts of the `.pyi` files: what mypy-protobuf writes, and what pyright strict wants."""

import re
from collections.abc import Mapping

from _protos import Protos, plain_module
from _tools import Stop, last_line, run
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse

_HEADER = """\
# The async stub narrows the sync one, and a servicer may be either: both are meant.
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportGeneralTypeIssues=false, reportPrivateUsage=false, reportUnusedClass=false
"""
# A servicer may leave RPCs out: those answer UNIMPLEMENTED, as they do in a later release.
_PLUGINS = {"mypy": "quiet", "mypy_grpc": "quiet,generate_concrete_servicer_stubs"}
_CORRECTIONS = (
    # With the type arguments that it has not, and without the excuse for that.
    (
        "_aio.ServicerContext):  # type: ignore[misc, type-arg]",
        "_aio.ServicerContext[_typing.Any, _typing.Any]):  # type: ignore[misc]",
    ),
    ("GRPC_GENERATED_VERSION: str\n", "\n"),  # in newer modules, but not in ours
    ("GRPC_VERSION: str\n", "\n"),
)


def stubs(protos: Protos) -> dict[str, str]:
    """The full name of each module, and its stub; for every file a `_pb2_grpc` as well."""
    request = CodeGeneratorRequest(
        proto_file=protos.files, file_to_generate=[file.name for file in protos.own]
    )
    modules = {plain_module(name): module for name, module in protos.modules.items()}
    made: dict[str, str] = {}
    for name, parameter in _PLUGINS.items():
        request.parameter = parameter
        done = run(f"protoc-gen-{name}", given=request.SerializeToString())
        if done.returncode:
            raise Stop(2, f"protoc-gen-{name} failed: {last_line(done.stderr)}")
        answer = CodeGeneratorResponse.FromString(done.stdout)
        if answer.error:
            raise Stop(1, f"protoc-gen-{name} refused the protos: {answer.error}")
        for file in answer.file:
            stem, pb2, rest = file.name.replace("/", ".").rpartition("_pb2")
            module = modules[stem + pb2] + rest.removesuffix(".pyi")
            made[module] = _corrected(file.content, modules)
    return made


def _corrected(text: str, modules: Mapping[str, str]) -> str:
    def at_its_place(found: re.Match[str]) -> str:
        module = f"{found[1]}.{found[2]}"
        package, _, name = modules.get(module, module).rpartition(".")
        return f"from {package} import {name} as "

    text = re.sub(r"^from (\S+) import (\w+_pb2) as ", at_its_place, text, flags=re.MULTILINE)
    for old, new in _CORRECTIONS:
        text = text.replace(old, new)
    return _HEADER + text
