"""What can go wrong, one class per gRPC status, and how a status becomes one of them.

Every error is a VLLMGrpcError. None holds prompt text, completions, tokens or secrets of this
side; `details` is what the server said, word for word.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import grpc

Metadata = tuple[tuple[str, str | bytes], ...]
RETRYABLE: Final = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
PUSHBACK: Final = "grpc-retry-pushback-ms"


class VLLMGrpcError(Exception):
    """Any failure of a call. `code` is the name of the gRPC status, or None for a local failure."""

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
        """Whether the same call may succeed later, and repeating it does no harm."""

    def __str__(self) -> str:
        parts = [self.message]
        if self.code is not None:
            parts.append(f"code={self.code}")
        if self.details:
            parts.append(f"details={self.details}")
        if self.request_id:
            parts.append(f"request_id={self.request_id}")
        return " | ".join(parts)

    @property
    def pushback(self) -> float | None:
        """Seconds that the server asks to wait before a retry; negative: do not retry."""
        for key, value in self.trailing_metadata:
            if key == PUSHBACK:
                try:
                    return int(value) / 1000
                except ValueError:
                    return -1.0  # gRPC: a value that cannot be read means "do not retry"
        return None


class VLLMGrpcClosedError(VLLMGrpcError):
    """The client was used after close()."""


class VLLMGrpcCancelledError(VLLMGrpcError):
    """CANCELLED: the call was cancelled from elsewhere."""


class VLLMGrpcUnknownError(VLLMGrpcError):
    """UNKNOWN: the server failed without saying how."""


class VLLMGrpcInvalidArgumentError(VLLMGrpcError):
    """INVALID_ARGUMENT: the request is wrong; sending it again is of no use."""


class VLLMGrpcValidationError(VLLMGrpcInvalidArgumentError, ValueError):
    """The request is wrong and was not sent; `param` names the parameter at fault."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}", code="INVALID_ARGUMENT")
        self.param = param


class VLLMGrpcTimeoutError(VLLMGrpcError):
    """DEADLINE_EXCEEDED: no answer in time, by this side's clock or the server's."""


class VLLMGrpcNotFoundError(VLLMGrpcError):
    """NOT_FOUND: the server does not know what the request names."""


class VLLMGrpcAlreadyExistsError(VLLMGrpcError):
    """ALREADY_EXISTS."""


class VLLMGrpcPermissionDeniedError(VLLMGrpcError):
    """PERMISSION_DENIED: the caller is known and may not do this."""


class VLLMGrpcResourceExhaustedError(VLLMGrpcError):
    """RESOURCE_EXHAUSTED: too many requests, or a message over a size limit."""


class VLLMGrpcFailedPreconditionError(VLLMGrpcError):
    """FAILED_PRECONDITION: the server is not set up for this."""


class VLLMGrpcAbortedError(VLLMGrpcError):
    """ABORTED: the server gave up on the request."""


class VLLMGrpcOutOfRangeError(VLLMGrpcError):
    """OUT_OF_RANGE: for example a KV-event sequence number that cannot be served."""


class VLLMGrpcUnimplementedError(VLLMGrpcError):
    """UNIMPLEMENTED: the server is older than this call, or has it switched off."""


class VLLMGrpcInternalError(VLLMGrpcError):
    """INTERNAL: the engine failed, or the answer breaks the contract."""


class VLLMGrpcUnavailableError(VLLMGrpcError):
    """UNAVAILABLE: the server cannot take the request now."""


class VLLMGrpcConnectionError(VLLMGrpcUnavailableError):
    """The server could not be reached, or the connection broke."""


class VLLMGrpcDataLossError(VLLMGrpcError):
    """DATA_LOSS: something is missing or damaged, such as a tokenizer bundle or KV events."""


class VLLMGrpcUnauthenticatedError(VLLMGrpcError):
    """UNAUTHENTICATED: no token, or one that the server does not accept."""


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

# Names that users of OpenAI's library look for.
APIError = VLLMGrpcError
APIConnectionError = VLLMGrpcConnectionError
APITimeoutError = VLLMGrpcTimeoutError
BadRequestError = VLLMGrpcInvalidArgumentError
AuthenticationError = VLLMGrpcUnauthenticatedError
PermissionDeniedError = VLLMGrpcPermissionDeniedError
NotFoundError = VLLMGrpcNotFoundError
ConflictError = VLLMGrpcAbortedError
RateLimitError = VLLMGrpcResourceExhaustedError
InternalServerError = VLLMGrpcInternalError

_MESSAGES: Final = {
    "CANCELLED": "the call was cancelled",
    "INVALID_ARGUMENT": "the server refused the request; correct it before sending it again",
    "DEADLINE_EXCEEDED": "no complete answer before the deadline; a longer timeout= may help",
    "NOT_FOUND": "the server does not know what the request names",
    "PERMISSION_DENIED": "the server does not allow this to the caller",
    "RESOURCE_EXHAUSTED": "the server is at its limit; try again later",
    "FAILED_PRECONDITION": "the server is not set up for this call",
    "UNIMPLEMENTED": "the server does not offer this call: it is older, or has it switched off",
    "UNAVAILABLE": "the server cannot take the request now; try again later",
    "UNAUTHENTICATED": "the server did not accept the credentials; check token=",
}
# gRPC has one status for "the server says busy" and for "there is no server". Only its texts tell.
_NO_CONNECTION = (
    "connect",
    "resol",
    "socket closed",
    "recvmsg",
    "sendmsg",
    "broken pipe",
    "goaway",
    "stream removed",
    "transport",
    "too many pings",
    "keepalive",
    "handshake",
    "no address",
)
_TLS = ("certificate", "ssl", "tls", "handshake", "verification check")


def pairs(metadata: Iterable[Sequence[str | bytes]] | None) -> Metadata:
    """gRPC's metadata, of either of its types, as plain pairs."""
    return tuple((str(key), value) for key, value in metadata or ())


def from_status(
    code: grpc.StatusCode,
    details: str | None,
    *,
    target: str,
    request_id: str | None = None,
    initial_metadata: Metadata = (),
    trailing_metadata: Metadata = (),
) -> VLLMGrpcError:
    """The error for a status that ended a call."""
    name, text = code.name, (details or "").lower()
    kind, message = BY_CODE.get(name, VLLMGrpcError), _MESSAGES.get(name, f"the call ended {name}")
    retryable = name in RETRYABLE
    if name == "UNAVAILABLE" and any(mark in text for mark in _NO_CONNECTION + _TLS):
        kind = VLLMGrpcConnectionError
        message = f"no connection to {target}, or it broke; check host, port and secure="
        if any(mark in text for mark in _TLS):
            message = (
                f"the TLS handshake with {target} failed: certificate expired, not trusted or for "
                "another name; check ca_certificate=, client_certificate= and server_name="
            )
            retryable = False
    elif name == "RESOURCE_EXHAUSTED" and " larger than max" in text:
        message = "a message is over the size limit; see max_receive_message_length="
        retryable = False
    elif name == "INTERNAL" and any(mark in text for mark in ("rst_stream", "goaway")):
        message = "the connection broke in the middle of the call"
    elif name == "INTERNAL":
        message = "the engine or its server failed"
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
    error: grpc.RpcError, *, target: str, request_id: str | None = None
) -> VLLMGrpcError:
    """The error for what a stub raised, sync or async."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return VLLMGrpcUnknownError("gRPC failed without a status", request_id=request_id)
    return from_status(
        error.code(),
        error.details(),
        target=target,
        request_id=request_id,
        initial_metadata=pairs(error.initial_metadata()),
        trailing_metadata=pairs(error.trailing_metadata()),
    )
