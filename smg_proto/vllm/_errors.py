"""Errors: one class per gRPC status, with the class hierarchy of OpenAI's library.

Errors never contain prompts, completions, tokens or secrets of the client; `details` is the
server's text, unchanged.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import grpc

from smg_proto._channel import Metadata

RETRYABLE: Final = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
PUSHBACK: Final = "grpc-retry-pushback-ms"


class VLLMGrpcError(Exception):
    """A call failed. `code` is the name of the gRPC status, or None for a local failure."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: str | None = None,
        request_id: str | None = None,
        initial_metadata: Metadata = (),
        trailing_metadata: Metadata = (),
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details
        self.request_id = request_id
        self.initial_metadata = initial_metadata
        self.trailing_metadata = trailing_metadata
        self.retryable = retryable
        """Whether the same call may succeed later, and is safe to repeat. False once a message has
        arrived."""

    def __str__(self) -> str:
        parts = [self.message]
        if self.code is not None:
            parts.append(f"code={self.code}")
        if self.details:
            parts.append(f"details={self.details}")
        if self.request_id:
            parts.append(f"request_id={self.request_id}")
        return " | ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, unpickling calls the class with `args` alone, without the other attributes.
        return _revive, (type(self), self.args), self.__dict__

    @property
    def pushback(self) -> float | None:
        """Seconds that the server asks to wait before a retry. Negative: do not retry."""
        for key, value in self.trailing_metadata:
            if key == PUSHBACK:
                known = isinstance(value, str) and value.isascii() and value.isdigit()
                # According to gRPC, an invalid value means "do not retry".
                return int(value) / 1000 if known and len(value) <= 12 else -1.0
        return None


def _revive(kind: type[VLLMGrpcError], args: tuple[Any, ...]) -> VLLMGrpcError:
    error = kind.__new__(kind)
    error.args = args
    return error


# As in OpenAI's library, calls without a reply raise connection errors, the others status errors.


class VLLMGrpcConnectionError(VLLMGrpcError):
    """UNAVAILABLE, but not from the server: it cannot be reached, or the connection broke."""


class VLLMGrpcTimeoutError(VLLMGrpcConnectionError):
    """DEADLINE_EXCEEDED: a time limit of the client or the server was exceeded."""


class VLLMGrpcCancelledError(VLLMGrpcError):
    """CANCELLED: something other than this client cancelled the call."""


class VLLMGrpcClosedError(VLLMGrpcError):
    """The client or the stream was used after close()."""


class APIStatusError(VLLMGrpcError):
    """The server replied with a status other than OK."""

    @property
    def status_code(self) -> int:
        """The HTTP status to which gateways translate the gRPC status."""
        return _HTTP.get(self.code or "", 500)


class BadRequestError(APIStatusError):
    """The server cannot serve this request."""


class ConflictError(APIStatusError):
    """The request conflicts with the state of the server."""


class InternalServerError(APIStatusError):
    """The server failed, or cannot currently serve requests."""


class VLLMGrpcInvalidArgumentError(BadRequestError):
    """INVALID_ARGUMENT: the request is invalid. Sending it again does not help."""


class VLLMGrpcValidationError(VLLMGrpcInvalidArgumentError, ValueError):
    """The request is invalid and was not sent: `problem` is what is wrong with `param`."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}", code="INVALID_ARGUMENT")
        self.param = param
        self.problem = problem


class VLLMGrpcFailedPreconditionError(BadRequestError):
    """FAILED_PRECONDITION: the server is not configured for this call."""


class VLLMGrpcOutOfRangeError(BadRequestError):
    """OUT_OF_RANGE: for example, the server cannot start at this KV-event sequence number."""


class VLLMGrpcUnauthenticatedError(APIStatusError):
    """UNAUTHENTICATED: the token is missing or not accepted."""


class VLLMGrpcPermissionDeniedError(APIStatusError):
    """PERMISSION_DENIED: the caller is not allowed to make this call."""


class VLLMGrpcNotFoundError(APIStatusError):
    """NOT_FOUND: the request names something that the server does not have."""


class VLLMGrpcAlreadyExistsError(ConflictError):
    """ALREADY_EXISTS."""


class VLLMGrpcAbortedError(ConflictError):
    """ABORTED: the server gave up on the request."""


class VLLMGrpcResourceExhaustedError(APIStatusError):
    """RESOURCE_EXHAUSTED: too many requests, or a message over a size limit."""


class VLLMGrpcUnknownError(InternalServerError):
    """UNKNOWN: the server failed without giving a reason."""


class VLLMGrpcUnimplementedError(InternalServerError):
    """UNIMPLEMENTED: the server is too old for this call, or it is disabled there."""


class VLLMGrpcInternalError(InternalServerError):
    """INTERNAL: the engine failed, or the reply violates the contract."""


class VLLMGrpcUnavailableError(InternalServerError):
    """UNAVAILABLE, from the server: it cannot currently accept the request."""


class VLLMGrpcDataLossError(InternalServerError):
    """DATA_LOSS: data such as KV events or a tokenizer bundle is missing or damaged."""


BY_CODE: Final[dict[str, type[VLLMGrpcError]]] = {
    "CANCELLED": VLLMGrpcCancelledError,
    "UNKNOWN": VLLMGrpcUnknownError,
    "INVALID_ARGUMENT": VLLMGrpcInvalidArgumentError,
    "DEADLINE_EXCEEDED": VLLMGrpcTimeoutError,
    "NOT_FOUND": VLLMGrpcNotFoundError,
    "ALREADY_EXISTS": VLLMGrpcAlreadyExistsError,
    "PERMISSION_DENIED": VLLMGrpcPermissionDeniedError,
    "RESOURCE_EXHAUSTED": VLLMGrpcResourceExhaustedError,
    "FAILED_PRECONDITION": VLLMGrpcFailedPreconditionError,
    "ABORTED": VLLMGrpcAbortedError,
    "OUT_OF_RANGE": VLLMGrpcOutOfRangeError,
    "UNIMPLEMENTED": VLLMGrpcUnimplementedError,
    "INTERNAL": VLLMGrpcInternalError,
    "UNAVAILABLE": VLLMGrpcUnavailableError,
    "DATA_LOSS": VLLMGrpcDataLossError,
    "UNAUTHENTICATED": VLLMGrpcUnauthenticatedError,
}
_HTTP: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}

# The other names of OpenAI's library; those that cover several statuses are classes above.
OpenAIError = VLLMGrpcError
APIError = VLLMGrpcError
APIConnectionError = VLLMGrpcConnectionError
APITimeoutError = VLLMGrpcTimeoutError
AuthenticationError = VLLMGrpcUnauthenticatedError
PermissionDeniedError = VLLMGrpcPermissionDeniedError
NotFoundError = VLLMGrpcNotFoundError
RateLimitError = VLLMGrpcResourceExhaustedError

_MESSAGES: Final = {
    "CANCELLED": "the call was cancelled",
    "INVALID_ARGUMENT": "the server rejected the request; correct it before sending it again",
    "DEADLINE_EXCEEDED": "no complete reply before the deadline; a longer timeout= may help",
    "NOT_FOUND": "the request names something that the server does not have",
    "PERMISSION_DENIED": "the caller is not allowed to make this call",
    "RESOURCE_EXHAUSTED": "the server is at its limit; try again later",
    "FAILED_PRECONDITION": "the server is not configured for this call",
    "UNIMPLEMENTED": "the server does not support this call: it is too old, or it is disabled",
    "INTERNAL": "the engine or its server failed",
    "UNAVAILABLE": "the server cannot accept the request; try again later",
    "UNAUTHENTICATED": "the server did not accept the credentials; check token=",
}
# gRPC has one status for a busy server and for an unreachable one. Trailers come from a server. A
# channel that is not connected, without headers, means that there is no server. A connection that
# broke has one of gRPC's messages.
_BROKEN: Final = re.compile(
    r"socket closed|recvmsg|sendmsg|read error|write error|connection reset|broken pipe|goaway|"
    r"stream removed|transport closed|endpoint (read|write) failed|too many pings|ping timeout",
    re.IGNORECASE,
)
_UNREACHED: Final = re.compile(
    r"failed to connect|dns resolution|errors resolving|no address", re.I
)
_TLS: Final = re.compile(
    r"handshake failed|handshake error|certificate|ssl_error|peer name|hostname verification",
    re.IGNORECASE,
)
_TOO_LARGE: Final = re.compile(r"\b(received|sent) message larger than max \(\d+ vs\. \d+\)", re.I)


def pairs(metadata: Iterable[Sequence[str | bytes]] | None) -> Metadata:
    """Metadata of grpc or grpc.aio as plain pairs."""
    return tuple([(str(key), value) for key, value in metadata]) if metadata else ()


def from_status(
    code: grpc.StatusCode,
    details: str | None,
    *,
    target: str,
    connected: bool | None = None,
    hint: str = "",
    begun: bool = False,
    request_id: str | None = None,
    initial_metadata: Metadata = (),
    trailing_metadata: Metadata = (),
) -> VLLMGrpcError:
    """The error for a status that ended a call.

    connected: whether the channel was connected right after; None if unknown. hint: advice for
    when nothing is listening. begun: a message has arrived, so the call must not be repeated.
    """
    name, words = code.name, details or ""
    kind, message = BY_CODE.get(name, VLLMGrpcError), _MESSAGES.get(name, f"the call ended {name}")
    retryable = name in RETRYABLE and not begun
    if connected is None:
        connected = _UNREACHED.match(words) is None
    lost = _BROKEN.match(words) is not None or (not connected and not initial_metadata)
    if name == "UNAVAILABLE" and lost and not trailing_metadata:
        kind = VLLMGrpcConnectionError
        message = f"no connection to {target}, or it broke; check host, port and secure={hint}"
        if _UNREACHED.match(words) and _TLS.search(words):
            message = (
                f"the TLS handshake with {target} failed: certificate expired, not trusted or for "
                "another name; check ca_certificate=, client_certificate= and server_name="
            )
            retryable = False
    elif name == "RESOURCE_EXHAUSTED" and _TOO_LARGE.search(words):
        message = "a message is over a size limit; see max_receive_message_length="
        retryable = False
    error = kind(
        message,
        code=name,
        details=details,
        request_id=request_id,
        initial_metadata=initial_metadata,
        trailing_metadata=trailing_metadata,
        retryable=retryable,
    )
    if error.pushback is not None and error.pushback < 0:
        error.retryable = False
    return error


def from_rpc_error(
    error: grpc.RpcError,
    *,
    target: str,
    connected: bool | None = None,
    hint: str = "",
    begun: bool = False,
    request_id: str | None = None,
) -> VLLMGrpcError:
    """The error for an exception of a stub of grpc or grpc.aio."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return VLLMGrpcUnknownError("gRPC failed without a status", request_id=request_id)
    return from_status(
        error.code(),
        error.details(),
        target=target,
        connected=connected,
        hint=hint,
        begun=begun,
        request_id=request_id,
        initial_metadata=pairs(error.initial_metadata()),
        trailing_metadata=pairs(error.trailing_metadata()),
    )
