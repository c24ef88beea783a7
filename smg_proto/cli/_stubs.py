"""Rewrites the imports of generated Python modules and their stubs."""

import re
from collections.abc import Mapping

# pyright strict: the async stub narrows the sync one, and a servicer may be either.
STUB_HEADER = """\
# The async stub narrows the sync one, and a servicer may be either: both are meant.
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportGeneralTypeIssues=false, reportPrivateUsage=false, reportUnusedClass=false
"""
# A servicer may leave out RPCs, which then return UNIMPLEMENTED, such as those of later releases.
STUB_OPTIONS = {"mypy": "quiet", "mypy_grpc": "quiet,generate_concrete_servicer_stubs"}
_SERVICER = (
    # Add the missing type arguments, and drop the comment that excuses them.
    "_aio.ServicerContext):  # type: ignore[misc, type-arg]",
    "_aio.ServicerContext[_typing.Any, _typing.Any]):  # type: ignore[misc]",
)


def plain_module(file: str) -> str:
    """The module that protoc generates for a file."""
    return file.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


_FROM = re.compile(r"^from (\S+) import (\w+_pb2)(?= as |$)", re.MULTILINE)
_STAR = re.compile(r"^from (\S+_pb2(?:_grpc)?) import (?=\*|\w)", re.MULTILINE)


def moved(text: str, places: Mapping[str, str]) -> str:
    """A module or stub with its imports rewritten. `places`: plain module names to real ones."""

    def one(match: re.Match[str]) -> str:
        module = f"{match[1]}.{match[2]}"
        package, _, name = places.get(module, module).rpartition(".")
        return f"from {package} import {name}"

    def star(match: re.Match[str]) -> str:
        plain = match[1].removesuffix("_grpc")
        module = places.get(plain, plain) + match[1][len(plain) :]
        return f"from {module} import "

    return _STAR.sub(star, _FROM.sub(one, text))


def stub(text: str, places: Mapping[str, str]) -> str:
    """A stub of mypy-protobuf, adapted to the strict modes of mypy and pyright."""
    return STUB_HEADER + moved(text, places).replace(*_SERVICER)
