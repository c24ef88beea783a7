"""Generated Python modules and their stubs, which import others from where these are."""

import re
from collections.abc import Mapping

# pyright strict: the async stub narrows the sync one, and a servicer may be either.
STUB_HEADER = """\
# The async stub narrows the sync one, and a servicer may be either: both are meant.
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportGeneralTypeIssues=false, reportPrivateUsage=false, reportUnusedClass=false
"""
# A servicer may leave RPCs out: those answer UNIMPLEMENTED, as they do in a later release.
STUB_OPTIONS = {"mypy": "quiet", "mypy_grpc": "quiet,generate_concrete_servicer_stubs"}
_SERVICER = (
    # With the type arguments that it has not, and without the excuse for that.
    "_aio.ServicerContext):  # type: ignore[misc, type-arg]",
    "_aio.ServicerContext[_typing.Any, _typing.Any]):  # type: ignore[misc]",
)


def plain_module(file: str) -> str:
    """The module that protoc makes of a file."""
    return file.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


_FROM = re.compile(r"^from (\S+) import (\w+_pb2)(?= as |$)", re.MULTILINE)
_STAR = re.compile(r"^from (\S+_pb2(?:_grpc)?) import (?=\*|\w)", re.MULTILINE)


def moved(text: str, places: Mapping[str, str]) -> str:
    """A module, or its stub, that imports others from where they are."""

    def one(found: re.Match[str]) -> str:
        module = f"{found[1]}.{found[2]}"
        package, _, name = places.get(module, module).rpartition(".")
        return f"from {package} import {name}"

    def star(found: re.Match[str]) -> str:
        plain = found[1].removesuffix("_grpc")
        module = places.get(plain, plain) + found[1][len(plain) :]
        return f"from {module} import "

    return _STAR.sub(star, _FROM.sub(one, text))


def stub(text: str, places: Mapping[str, str]) -> str:
    """What mypy-protobuf writes, as mypy and pyright want it in their strict modes."""
    return STUB_HEADER + moved(text, places).replace(*_SERVICER)
