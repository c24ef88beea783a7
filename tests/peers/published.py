"""Registers descriptors as code that others generated from published protos does, beside ours.

    python -m peers.published DESCRIPTOR_SET ORDER

ORDER is "ours first" or "theirs first". Ends with a traceback if two cannot share one process.
"""

import sys
from importlib import import_module
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

MODULES = ["openengine_pb2", "sglang_runtime_pb2", "vllm_control_pb2", "vllm_inference_pb2"]


def theirs(image: Path) -> None:
    import_module("google.protobuf.struct_pb2")
    for file in FileDescriptorSet.FromString(image.read_bytes()).file:
        if not file.name.startswith("google/"):
            descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


def ours() -> None:
    for name in MODULES:
        import_module(f"smg_proto.{name}")


def main() -> None:
    image, order = sys.argv[1:]
    if order == "ours first":
        ours()
    theirs(Path(image))
    ours()


if __name__ == "__main__":
    main()
