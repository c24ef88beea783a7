"""Registers descriptors as code that others generated from published protos does, beside ours.

    python -m peers.published DESCRIPTOR_SET ORDER [OLD=NEW ...]

ORDER is "ours first" or "theirs first"; a file OLD is registered as NEW. Ends with a traceback if
the two cannot live in one process.
"""

import sys
from importlib import import_module
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

MODULES = ["openengine_pb2", "sglang_runtime_pb2", "vllm_control_pb2", "vllm_inference_pb2"]


def embedded(file: FileDescriptorProto) -> bytes:
    """A file as generated modules embed it: protoc leaves the names for JSON to the runtime."""
    bare = FileDescriptorProto.FromString(file.SerializeToString())
    for message in bare.message_type:
        _without_json_names(message)
    return bare.SerializeToString()


def _without_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _without_json_names(nested)


def theirs(image: Path, names: dict[str, str]) -> None:
    import_module("google.protobuf.struct_pb2")
    for file in FileDescriptorSet.FromString(image.read_bytes()).file:
        if not file.name.startswith("google/"):
            file.name = names.get(file.name, file.name)
            descriptor_pool.Default().AddSerializedFile(embedded(file))


def ours() -> None:
    for name in MODULES:
        import_module(f"smg_proto.{name}")


def main() -> None:
    image, order, *renames = sys.argv[1:]
    names = dict(rename.split("=") for rename in renames)
    if order == "ours first":
        ours()
    theirs(Path(image), names)
    ours()


if __name__ == "__main__":
    main()
