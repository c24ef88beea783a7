"""Errors of smg.v1: a status code, and details in the trailer grpc-status-details-bin.

A server aborts with an SmgError, and a client reads it back:

    abort(context, SmgError(StatusCode.NOT_FOUND, "no such model", reason="MODEL_NOT_FOUND"))

    except grpc.RpcError as error:
        problem = from_rpc_error(error)
        if problem.reason == "MODEL_NOT_FOUND": ...

The details are google.rpc messages (ErrorInfo, BadRequest, RetryInfo), which every gRPC library
with rich errors supports.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, NoReturn, overload

import grpc

from smg_proto import _google_rpc
from smg_proto.v1 import error_pb2

__all__ = [
    "CODES",
    "DETAILS_KEY",
    "DOMAIN",
    "REASONS",
    "FieldViolation",
    "SmgError",
    "abort",
    "from_rpc_error",
    "from_status_bytes",
    "invalid",
    "to_status_bytes",
]

DOMAIN = "smg.v1"
DETAILS_KEY = "grpc-status-details-bin"

# gRPC usually limits the metadata of a reply to 8 KiB, and drops the whole error beyond that.
# Details grow by a third on the wire (base64). The message is sent beside them, and each byte of it
# that is not ASCII becomes three.
_MAX_DETAILS_BYTES = 3072
_MAX_MESSAGE_BYTES = 1024

_C = grpc.StatusCode
# The status code of each reason that is a status. A peer may send other reasons.
CODES: Mapping[str, grpc.StatusCode] = MappingProxyType(
    {
        "INVALID_REQUEST": _C.INVALID_ARGUMENT,
        "REQUEST_TOO_LARGE": _C.INVALID_ARGUMENT,
        "CONTEXT_LENGTH_EXCEEDED": _C.INVALID_ARGUMENT,
        "MULTIMODAL_NOT_SUPPORTED": _C.INVALID_ARGUMENT,
        "MODEL_NOT_FOUND": _C.NOT_FOUND,
        "TOKENIZER_NOT_FOUND": _C.NOT_FOUND,
        "PARSER_NOT_FOUND": _C.NOT_FOUND,
        "RESPONSE_NOT_FOUND": _C.NOT_FOUND,
        "RESPONSE_NOT_CANCELLABLE": _C.FAILED_PRECONDITION,
        "WORKER_NOT_FOUND": _C.NOT_FOUND,
        "WORKER_ALREADY_EXISTS": _C.ALREADY_EXISTS,
        "ROUTE_NOT_FOUND": _C.NOT_FOUND,
        "CONVERSATION_NOT_FOUND": _C.NOT_FOUND,
        "TOKENIZER_ALREADY_EXISTS": _C.ALREADY_EXISTS,
        "UNAUTHENTICATED": _C.UNAUTHENTICATED,
        "PERMISSION_DENIED": _C.PERMISSION_DENIED,
        "OVERLOADED": _C.RESOURCE_EXHAUSTED,
        "QUEUE_TIMEOUT": _C.UNAVAILABLE,
        "NO_AVAILABLE_WORKERS": _C.UNAVAILABLE,
        "WORKER_ERROR": _C.INTERNAL,
        "WORKER_TIMEOUT": _C.DEADLINE_EXCEEDED,
        "STREAM_TRUNCATED": _C.UNAVAILABLE,
        "GATEWAY_UNAVAILABLE": _C.UNAVAILABLE,
        "UNSUPPORTED_BY_BACKEND": _C.UNIMPLEMENTED,
        "WORKER_UNAVAILABLE": _C.UNAVAILABLE,
        "MCP_SERVER_UNAVAILABLE": _C.FAILED_PRECONDITION,
    }
)
# The reasons of this release of smg.v1, without their prefix. A peer may send others.
REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()[1:])


@dataclass(frozen=True)
class FieldViolation:
    """An invalid field of a request: its path ("messages[0].role"), and what is wrong with it."""

    field: str
    description: str


@dataclass(eq=False)
class SmgError(Exception):
    """The error of a failed RPC. `reason` is an ErrorReason without its prefix, or empty.

    `retry_after` is the time to wait before a retry, if the server sent one.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = DOMAIN
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    field_violations: Sequence[FieldViolation] = ()
    retry_after: timedelta | None = None

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.code.name}{reason}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)

    @property
    def known_reason(self) -> error_pb2.ErrorReason.ValueType:
        """The reason as an enum value; ERROR_REASON_UNSPECIFIED if this release lacks it."""
        known = self.reason if self.domain == DOMAIN and self.reason in REASONS else "UNSPECIFIED"
        return error_pb2.ErrorReason.Value(f"ERROR_REASON_{known}")


def invalid(*violations: FieldViolation, reason: str = "INVALID_REQUEST") -> SmgError:
    """An INVALID_ARGUMENT error for these fields."""
    message = "; ".join(f"{one.field}: {one.description}" for one in violations)
    return SmgError(
        grpc.StatusCode.INVALID_ARGUMENT, message, reason=reason, field_violations=violations
    )


@overload
def abort(context: grpc.ServicerContext, error: SmgError) -> NoReturn: ...
@overload
def abort(
    context: "grpc.aio.ServicerContext[Any, Any]", error: SmgError
) -> Awaitable[NoReturn]: ...
def abort(context: Any, error: SmgError) -> Any:
    """End an RPC with this error. Never returns. In a grpc.aio servicer, await it."""
    trailers = tuple(context.trailing_metadata() or ())
    context.set_trailing_metadata((*trailers, (DETAILS_KEY, to_status_bytes(error))))
    return context.abort(error.code, _shortened(error.message))


def from_rpc_error(error: grpc.RpcError) -> SmgError:
    """The error of a failed RPC of grpc or grpc.aio: its code, and its details if it has any.

    Reason and domain are empty without valid details, as for errors that gRPC itself reports.
    """
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    if code is None:
        return SmgError(grpc.StatusCode.UNKNOWN, str(error), domain="")
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    trailers = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS_KEY), b"")
    smg_error = from_status_bytes(details if isinstance(details, bytes) else b"")
    smg_error.code, smg_error.message = code, error.details() or ""
    return smg_error


def to_status_bytes(error: SmgError) -> bytes:
    """Serialize an error as google.rpc.Status.

    If it is too large for a trailer, violations are dropped from the end, then the metadata.
    Characters that UTF-8 cannot encode become "?".
    """
    metadata = {_encodable(name): _encodable(value) for name, value in error.metadata.items()}
    violations = [
        (_encodable(one.field), _encodable(one.description))
        for one in error.field_violations[:_MAX_DETAILS_BYTES]  # each takes more than a byte
    ]

    def data(count: int, metadata: Mapping[str, str] = metadata) -> bytes:
        details: list[_google_rpc.Detail] = []
        if error.reason:
            reason, domain = _encodable(error.reason), _encodable(error.domain)
            details.append(_google_rpc.error_info(reason, domain, metadata))
        if error.retry_after is not None:
            details.append(_google_rpc.retry_info(error.retry_after))
        if count:
            details.append(_google_rpc.bad_request(violations[:count]))
        return _google_rpc.status(error.code.value[0], _shortened(error.message), details)

    if len(complete := data(len(violations))) <= _MAX_DETAILS_BYTES:
        return complete
    # The smallest number of violations that is too large.
    too_many = bisect_right(
        range(len(violations)), _MAX_DETAILS_BYTES, key=lambda count: len(data(count))
    )
    return data(too_many - 1) if too_many else data(0, {})


def _encodable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot encode, replaced by "?"."""
    return text.encode(errors="replace").decode()


def _shortened(message: str) -> str:
    """The message, cut to the maximum size between two characters."""
    return (
        message[:_MAX_MESSAGE_BYTES]
        .encode(errors="replace")[:_MAX_MESSAGE_BYTES]
        .decode(errors="ignore")
    )


def from_status_bytes(data: bytes) -> SmgError:
    """Parse a google.rpc.Status. Reason and domain are empty if it is not valid."""
    read = _google_rpc.read_status(data)
    codes = {code.value[0]: code for code in grpc.StatusCode}
    return SmgError(
        code=codes.get(read.code, grpc.StatusCode.UNKNOWN),
        message=read.message,
        reason=read.reason,
        domain=read.domain,
        metadata=read.metadata,
        field_violations=tuple(FieldViolation(*pair) for pair in read.violations),
        retry_after=read.retry_delay,
    )
