"""Modules that export every name of a package of generated modules: smg_pb2 for smg_proto.v1."""

from collections.abc import Iterator, Sequence

from _modules import MADE_BY
from _protos import Protos
from _python_messages import added
from google.protobuf.descriptor_pb2 import FileDescriptorProto

_DESCRIPTOR = '''\


class _Facade:
    """The descriptor of a file that imports all of {package} publicly, with what they declare."""

    def __init__(self, file):
        self._file = file
        for kind in "enum_types", "extensions", "message_types", "services":
            table = kind + "_by_name"
            parts = [getattr(part, table) for part in file.public_dependencies]
            setattr(self, table, {{name: found for part in parts for name, found in part.items()}})

    def __getattr__(self, name):
        if name == "_file":  # in a copy that is being made
            raise AttributeError(name)
        return getattr(self._file, name)


DESCRIPTOR = _Facade({descriptor})
'''
# __getattr__ forwards everything else, so that users see a file's descriptor.
_DESCRIPTOR_STUB = """\
from google.protobuf import descriptor as _descriptor

DESCRIPTOR: _descriptor.FileDescriptor
"""


def facade(name: str, files: Sequence[FileDescriptorProto], protos: Protos) -> dict[str, str]:
    """The modules that export everything that some files declare: path to text."""
    (package,) = {file.package for file in files}
    start = f'"""All of {package} in one module; the very same objects. {MADE_BY}"""\n\n'
    messages = {protos.modules[file.name]: list(_messages(file)) for file in files}
    # A file with only services must be loaded, but has nothing for a type checker.
    declared = {module: names for module, names in messages.items() if names}
    services = {
        f"{protos.modules[file.name]}_grpc": list(_services(file)) for file in files if file.service
    }
    # Async stubs exist only as types: at run time there is one stub class.
    at_run_time = {
        module: [name for name in names if not name.endswith("AsyncStub")]
        for module, names in services.items()
    }
    whole = FileDescriptorProto(
        name=f"smg_proto/{name}.proto",
        package=package,
        syntax="proto3",
        dependency=[file.name for file in files],
        public_dependency=range(len(files)),
    )
    descriptor = _DESCRIPTOR.format(package=package, descriptor=added(whole))
    pool = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
    return {
        f"{name}_pb2.py": start + pool + _imports(messages) + descriptor,
        f"{name}_pb2.pyi": start + _imports(declared) + _DESCRIPTOR_STUB,
        f"{name}_pb2_grpc.py": start + _imports(at_run_time),
        f"{name}_pb2_grpc.pyi": start + _imports(services),
    }


def _messages(file: FileDescriptorProto) -> Iterator[str]:
    for enum in file.enum_type:
        yield enum.name
        yield from (value.name for value in enum.value)
    yield from (message.name for message in file.message_type)


def _services(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        yield from (f"{service.name}{kind}" for kind in ("Stub", "AsyncStub", "Servicer"))
        yield f"add_{service.name}Servicer_to_server"


def _imports(modules: dict[str, list[str]]) -> str:
    """The statements that import these names, and modules without names so that they load."""
    text = ""
    for module, names in sorted(modules.items()):
        package, _, short = module.rpartition(".")
        listed = "".join(f"    {name} as {name},\n" for name in names)
        if names:
            text += f"from {module} import (\n{listed})\n"
        else:
            text += f"from {package} import {short} as _{short}\n"
    return text
