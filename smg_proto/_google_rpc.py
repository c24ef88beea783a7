"""The few google.rpc messages that rich gRPC errors are made of.

They are defined here, in a descriptor pool of their own, because googleapis-common-protos defines
the same names in the default pool: both can be in one process, and read each other's bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.any_pb2 import DESCRIPTOR as ANY
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import DESCRIPTOR as DURATION
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

_TYPES = "type.googleapis.com/"
_REPEATED = FieldDescriptorProto.LABEL_REPEATED
_STRING, _INT32, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_MESSAGE,
)


def _message(name: str, *fields: FieldDescriptorProto, nested: Any = ()) -> DescriptorProto:
    return DescriptorProto(name=name, field=fields, nested_type=nested)


def _one(name: str, number: int, kind: Any, of: str | None = None) -> FieldDescriptorProto:
    optional = FieldDescriptorProto.LABEL_OPTIONAL
    return FieldDescriptorProto(name=name, number=number, type=kind, label=optional, type_name=of)


def _many(name: str, number: int, of: str) -> FieldDescriptorProto:
    return FieldDescriptorProto(
        name=name, number=number, type=_MESSAGE, label=_REPEATED, type_name=of
    )


def _file() -> FileDescriptorProto:
    entry = _message("MetadataEntry", _one("key", 1, _STRING), _one("value", 2, _STRING))
    entry.options.map_entry = True
    violation = _message(
        "FieldViolation", _one("field", 1, _STRING), _one("description", 2, _STRING)
    )
    return FileDescriptorProto(
        name="smg_proto/google_rpc.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=[ANY.name, DURATION.name],
        message_type=[
            _message(
                "Status",
                _one("code", 1, _INT32),
                _one("message", 2, _STRING),
                _many("details", 3, ".google.protobuf.Any"),
            ),
            _message(
                "ErrorInfo",
                _one("reason", 1, _STRING),
                _one("domain", 2, _STRING),
                _many("metadata", 3, ".google.rpc.ErrorInfo.MetadataEntry"),
                nested=[entry],
            ),
            _message(
                "BadRequest",
                _many("field_violations", 1, ".google.rpc.BadRequest.FieldViolation"),
                nested=[violation],
            ),
            _message("RetryInfo", _one("retry_delay", 1, _MESSAGE, ".google.protobuf.Duration")),
        ],
    )


def _classes() -> dict[str, Any]:
    pool = DescriptorPool()
    for known in (ANY, DURATION):
        pool.AddSerializedFile(known.serialized_pb)
    file = _file()
    pool.AddSerializedFile(file.SerializeToString())
    names = [f"google.rpc.{message.name}" for message in file.message_type]
    return {name: GetMessageClass(pool.FindMessageTypeByName(name)) for name in names}


_CLASSES = _classes()

Detail = Message


def _new(name: str, **fields: Any) -> Any:
    return _CLASSES[f"google.rpc.{name}"](**fields)


def error_info(reason: str, domain: str, metadata: Mapping[str, str]) -> Detail:
    made: Detail = _new("ErrorInfo", reason=reason, domain=domain, metadata=metadata)
    return made


def bad_request(violations: Sequence[tuple[str, str]]) -> Detail:
    fields = [{"field": name, "description": text} for name, text in violations]
    made: Detail = _new("BadRequest", field_violations=fields)
    return made


def retry_info(delay: timedelta) -> Detail:
    made = _new("RetryInfo")
    whole = delay // timedelta(seconds=1)
    made.retry_delay.seconds = whole
    made.retry_delay.nanos = (delay - timedelta(seconds=whole)).microseconds * 1000
    detail: Detail = made
    return detail


def status(code: int, message: str, details: Sequence[Detail]) -> bytes:
    packed = [
        {"type_url": _TYPES + detail.DESCRIPTOR.full_name, "value": detail.SerializeToString()}
        for detail in details
    ]
    data: bytes = _new("Status", code=code, message=message, details=packed).SerializeToString()
    return data


@dataclass
class ReadStatus:
    """What is of interest in a google.rpc.Status; details of other kinds are passed over."""

    code: int = 2  # UNKNOWN
    message: str = ""
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    violations: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    retry_delay: timedelta | None = None


def read_status(data: bytes) -> ReadStatus:
    """Read as much as can be read: an error about an error would help nobody."""
    read = ReadStatus()
    try:
        whole = _CLASSES["google.rpc.Status"].FromString(data)
    except DecodeError:
        return read
    read.code, read.message = whole.code or read.code, whole.message
    for packed in whole.details:
        kind = _CLASSES.get(packed.type_url.rpartition("/")[2])
        if kind is None:
            continue
        try:
            detail = kind.FromString(packed.value)
        except DecodeError:
            continue
        match detail.DESCRIPTOR.name:
            case "ErrorInfo":
                read.reason, read.domain = detail.reason, detail.domain
                read.metadata = dict(detail.metadata)
            case "BadRequest":
                read.violations += [(v.field, v.description) for v in detail.field_violations]
            case "RetryInfo":
                delay = detail.retry_delay
                read.retry_delay = _delay(delay.seconds, delay.nanos)
            case _:
                pass
    return read


def _delay(seconds: int, nanos: int) -> timedelta:
    try:
        return timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError:
        return timedelta.max
