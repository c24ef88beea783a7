"""Errors as smg.v1 sends them: a status code, and details in the trailer grpc-status-details-bin.

A server raises or builds an SmgError and aborts with it; a client reads one back:

    abort(context, SmgError(StatusCode.NOT_FOUND, "no such model", reason="MODEL_NOT_FOUND"))

    except grpc.RpcError as error:
        problem = from_rpc_error(error)
        if problem.reason == "MODEL_NOT_FOUND": ...

The details are google.rpc messages (ErrorInfo, BadRequest, RetryInfo), as every gRPC library with
rich errors reads and writes them.
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

# gRPC's usual limit for all metadata of a reply is 8 KiB; a trailer above it loses the whole error.
# Details grow by a third on the way (base64); the message goes beside them, and each byte of it
# that is not ASCII becomes three.
_MOST_BYTES = 3072
_LONGEST_MESSAGE = 1024  # bytes

_C = grpc.StatusCode
# The status code of each reason that is a status. A peer may send reasons that are not here.
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
# The reasons that this release of smg.v1 knows, without their prefix. A peer may send others.
REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()[1:])


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request at fault: its path ("messages[0].role"), and what is wrong with it."""

    field: str
    description: str


@dataclass(eq=False)
class SmgError(Exception):
    """Why an RPC failed. `reason` is an ErrorReason without its prefix, or empty if none was sent.

    `retry_after` is how long the server asks to wait before the next try, if it said so.
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
        """The reason as this release's enum; ERROR_REASON_UNSPECIFIED for one that it has not."""
        known = self.reason if self.domain == DOMAIN and self.reason in REASONS else "UNSPECIFIED"
        return error_pb2.ErrorReason.Value(f"ERROR_REASON_{known}")


def invalid(*violations: FieldViolation, reason: str = "INVALID_REQUEST") -> SmgError:
    """INVALID_ARGUMENT that names the fields at fault."""
    message = "; ".join(f"{found.field}: {found.description}" for found in violations)
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
    """End an RPC with this error. Await it in a grpc.aio servicer. It does not return."""
    kept = tuple(context.trailing_metadata() or ())
    context.set_trailing_metadata((*kept, (DETAILS_KEY, to_status_bytes(error))))
    return context.abort(error.code, _shortened(error.message))


def from_rpc_error(error: grpc.RpcError) -> SmgError:
    """What a failed RPC, of grpc or grpc.aio, says: its code, and the details if there are any.

    A status without readable details, as gRPC itself makes them, has an empty reason and domain.
    """
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    if code is None:
        return SmgError(grpc.StatusCode.UNKNOWN, str(error), domain="")
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    trailers = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS_KEY), b"")
    found = from_status_bytes(details if isinstance(details, bytes) else b"")
    found.code, found.message = code, error.details() or ""
    return found


def to_status_bytes(error: SmgError) -> bytes:
    """The google.rpc.Status. What would make it too large for a trailer is left out: violations,
    last first, then the metadata. Text that UTF-8 cannot hold has "?" in its place.
    """
    metadata = {_printable(name): _printable(value) for name, value in error.metadata.items()}
    violations = [
        (_printable(found.field), _printable(found.description))
        for found in error.field_violations[:_MOST_BYTES]  # each takes more than a byte
    ]

    def data(kept: int, metadata: Mapping[str, str] = metadata) -> bytes:
        details: list[_google_rpc.Detail] = []
        if error.reason:
            reason, domain = _printable(error.reason), _printable(error.domain)
            details.append(_google_rpc.error_info(reason, domain, metadata))
        if error.retry_after is not None:
            details.append(_google_rpc.retry_info(error.retry_after))
        if kept:
            details.append(_google_rpc.bad_request(violations[:kept]))
        return _google_rpc.status(error.code.value[0], _shortened(error.message), details)

    if len(whole := data(len(violations))) <= _MOST_BYTES:
        return whole
    # How many violations are the first that are too many.
    too_many = bisect_right(range(len(violations)), _MOST_BYTES, key=lambda kept: len(data(kept)))
    return data(too_many - 1) if too_many else data(0, {})


def _printable(text: str) -> str:
    """A text without lone surrogates, which no UTF-8 string can hold."""
    return text.encode(errors="replace").decode()


def _shortened(message: str) -> str:
    """As much of a message as may go on the wire, in whole characters."""
    return (
        message[:_LONGEST_MESSAGE]
        .encode(errors="replace")[:_LONGEST_MESSAGE]
        .decode(errors="ignore")
    )


def from_status_bytes(data: bytes) -> SmgError:
    """An error from a google.rpc.Status; without reason and domain if it cannot be read."""
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
