"""Rich gRPC errors: a google.rpc.Status, written and read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from google.protobuf.message import DecodeError, Message

from smg_proto._standard import message_class

_TYPES = "type.googleapis.com/"
_DETAILS = ("google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo")

Detail = Message


def _new(name: str, **fields: Any) -> Any:
    return message_class(f"google.rpc.{name}")(**fields)


def error_info(reason: str, domain: str, metadata: Mapping[str, str]) -> Detail:
    made: Detail = _new("ErrorInfo", reason=reason, domain=domain, metadata=metadata)
    return made


def bad_request(violations: Sequence[tuple[str, str]]) -> Detail:
    fields = [{"field": name, "description": text} for name, text in violations]
    made: Detail = _new("BadRequest", field_violations=fields)
    return made


def retry_info(delay: timedelta) -> Detail:
    made = _new("RetryInfo")
    made.retry_delay.seconds = delay // timedelta(seconds=1)
    made.retry_delay.nanos = delay.microseconds * 1000
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
        whole = message_class("google.rpc.Status").FromString(data)
    except DecodeError:
        return read
    read.code, read.message = whole.code or read.code, whole.message
    for packed in whole.details:
        name = packed.type_url.rpartition("/")[2]
        if name not in _DETAILS:
            continue
        try:
            detail = message_class(name).FromString(packed.value)
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
