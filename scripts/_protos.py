"""The protos, compiled by buf, and their Python modules."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from _modules import module_of
from _tools import Stop, run
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from smg_proto._descriptors import declarations


@dataclass(frozen=True)
class Protos:
    """All files with their comments, each after its imports, including Google's own."""

    files: list[FileDescriptorProto]

    @cached_property
    def own(self) -> list[FileDescriptorProto]:
        """The files to generate modules for; protobuf itself has the others."""
        return [file for file in self.files if not file.name.startswith("google/")]

    @cached_property
    def modules(self) -> dict[str, str]:
        """The name of each file, and the full name of its module."""
        modules: dict[str, str] = {}
        for file in self.files:
            module = module_of(file.name)
            for other, taken in modules.items():
                if taken == module:
                    what = f"{other} and {file.name} would both become {module}"
                    raise Stop(1, f"{what}; give one of them another name in scripts/_modules.py")
            modules[file.name] = module
        return modules

    @cached_property
    def types(self) -> dict[str, str]:
        """The full name of each message, as in fields and RPCs, and its file."""
        declared = (d for file in self.files for d in declarations(file))
        return {f".{d.name}": d.file.name for d in declared if d.kind == "message"}

    def image(self) -> FileDescriptorSet:
        """The descriptor set that the package ships, with only this project's comments."""
        image = FileDescriptorSet(file=self.files)
        for file in image.file:
            if file.name.startswith("google/"):
                file.ClearField("source_code_info")
            commented = [
                place
                for place in file.source_code_info.location
                if place.leading_comments or place.trailing_comments
            ]
            del file.source_code_info.location[:]
            file.source_code_info.location.extend(commented)
        return image

    def import_of(self, file: str) -> str:
        """The statement with which generated code imports the module of a file."""
        package, _, name = self.modules[file].rpartition(".")
        return f"from {package} import {name} as {_imported(file)}\n"

    def python_name(self, message: str) -> str:
        """The name of a message of an imported module in generated code."""
        (file,) = (file for file in self.files if file.name == self.types[message])
        return f"{_imported(file.name)}.{message.lstrip('.').removeprefix(f'{file.package}.')}"


def plain_module(file: str) -> str:
    """The module that generators derive from a file name."""
    return file.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


def _imported(file: str) -> str:
    return plain_module(file).replace("_", "__").replace(".", "_dot_")


def compile_protos(root: Path, *folders: str) -> Protos:
    """Compile all protos in some folders with buf. Each folder is a root of imports."""
    config = {"version": "v2", "modules": [{"path": folder} for folder in folders]}
    options = ["--config", json.dumps(config), "--as-file-descriptor-set", "-o", "-"]
    done = run("buf", "build", *options, cwd=root)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise Stop(1, f"buf rejected the protos; nothing was changed\n{reason}")
    return Protos(list(FileDescriptorSet.FromString(done.stdout).file))
