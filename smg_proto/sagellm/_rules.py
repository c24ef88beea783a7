"""The ranges of fields, read from the comments of the contract, where each is written once."""

import re
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from pydantic import Field

from smg_proto import descriptor_set
from smg_proto._descriptors import symbols

PROTO = "sagellm/v1/sagellm.proto"
_PREFIX = "sagellm.v1."
_BOUND = r"(?:>=?|<=?) -?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"\bRange: ({_BOUND}(?:, {_BOUND})*)\.(?:\s|$)")
_WORDS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}


@cache
def ranges() -> dict[str, dict[str, float]]:
    """Message.field to its bounds, named as pydantic names them: `{"gt": 0, "le": 2}`."""
    files = [file for file in descriptor_set().file if file.name == PROTO]
    found: dict[str, dict[str, float]] = {}
    for symbol in symbols(FileDescriptorSet(file=files)):
        comment = " ".join(symbol.comment.split())
        if symbol.kind == "field" and (match := _RANGE.search(comment)):
            pairs = (bound.split() for bound in match[1].split(", "))
            bounds = {_WORDS[sign]: _number(number) for sign, number in pairs}
            found[symbol.name.removeprefix(_PREFIX)] = bounds
    return found


def in_range(field: str) -> Any:
    """What `Annotated` takes to hold a field to its range in the contract."""
    bounds: dict[str, Any] = {**ranges()[field]}
    return Field(**bounds)


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)
