"""Parses messages with the installed runtime and contract, and serializes them again.

As a program it takes those of smg_grpc_proto. Reads one line of JSON, [[full name, base64 of the
bytes], …]; writes one, for each of them [what it serializes, the same without what it does not
know], base64 too, or null for an unknown type.
"""

import base64
import json
import pkgutil
import sys
from importlib import import_module

from google.protobuf import descriptor_pool, message_factory


def reserialize(name: str, data: bytes) -> list[str] | None:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return None
    message = message_factory.GetMessageClass(descriptor).FromString(data)
    kept = message.SerializeToString()
    message.DiscardUnknownFields()
    return [base64.b64encode(out).decode() for out in (kept, message.SerializeToString())]


def answer(line: str) -> list[list[str] | None]:
    return [reserialize(name, base64.b64decode(data)) for name, data in json.loads(line)]


if __name__ == "__main__":
    from smg_grpc_proto import generated

    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            import_module(f"smg_grpc_proto.generated.{module.name}")
    print(json.dumps(answer(sys.stdin.readline())))
