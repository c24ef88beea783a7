"""Parses messages with whatever smg_grpc_proto is installed here, and serializes them again.

Reads one line of JSON, [[full name, base64 of the bytes], …]; writes one, for each of them
[what it serializes, the same without what it does not know], base64 too; null for an unknown type.
"""

import base64
import json
import pkgutil
import sys
from importlib import import_module

from google.protobuf import descriptor_pool, message_factory

from smg_grpc_proto import generated

for module in pkgutil.iter_modules(generated.__path__):
    if module.name.endswith("_pb2"):
        import_module(f"smg_grpc_proto.generated.{module.name}")


def reserialize(name: str, data: bytes) -> list[str] | None:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return None
    message = message_factory.GetMessageClass(descriptor).FromString(data)
    kept = message.SerializeToString()
    message.DiscardUnknownFields()
    return [base64.b64encode(out).decode() for out in (kept, message.SerializeToString())]


if __name__ == "__main__":
    asked = json.loads(sys.stdin.readline())
    print(json.dumps([reserialize(name, base64.b64decode(data)) for name, data in asked]))
