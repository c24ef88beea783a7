"""What can go wrong: one class per gRPC status, in the tree of OpenAI's library, and how a status
becomes one of them.

No error holds prompt text, completions, tokens or secrets of this side; `details` is what the
server said, word for word.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import grpc

from smg_proto._channel import Metadata

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
        """Whether the same call may succeed later, and repeating it does no harm. False once a
        message has come."""

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
        # The default calls the class with `args` alone, which lack what is not in the message.
        return _revive, (type(self), self.args), self.__dict__

    @property
    def pushback(self) -> float | None:
        """Seconds that the server asks to wait before a retry. Negative: do not retry."""
        for key, value in self.trailing_metadata:
            if key == PUSHBACK:
                known = isinstance(value, str) and value.isascii() and value.isdigit()
                # gRPC: a value that cannot be read means "do not retry".
                return int(value) / 1000 if known and len(value) <= 12 else -1.0
        return None


def _revive(kind: type[VLLMGrpcError], args: tuple[Any, ...]) -> VLLMGrpcError:
    error = kind.__new__(kind)
    error.args = args
    return error


# The tree is OpenAI's: what has no reply is a connection error, what has one a status error.


class VLLMGrpcConnectionError(VLLMGrpcError):
    """UNAVAILABLE, and not by the server: it could not be reached, or the connection broke."""


class VLLMGrpcTimeoutError(VLLMGrpcConnectionError):
    """DEADLINE_EXCEEDED: no reply in time, by this side's clock or the server's."""


class VLLMGrpcCancelledError(VLLMGrpcError):
    """CANCELLED: the call was cancelled from elsewhere."""


class VLLMGrpcClosedError(VLLMGrpcError):
    """The client or the stream was used after close()."""


class APIStatusError(VLLMGrpcError):
    """The server replied with a status other than OK."""

    @property
    def status_code(self) -> int:
        """The HTTP status for the gRPC status, as gateways translate it."""
        return _HTTP.get(self.code or "", 500)


class BadRequestError(APIStatusError):
    """The request cannot be served as it is."""


class ConflictError(APIStatusError):
    """The request conflicts with what the server is doing."""


class InternalServerError(APIStatusError):
    """The server failed, or cannot serve now."""


class VLLMGrpcInvalidArgumentError(BadRequestError):
    """INVALID_ARGUMENT: the request is wrong; sending it again is of no use."""


class VLLMGrpcValidationError(VLLMGrpcInvalidArgumentError, ValueError):
    """The request is wrong and was not sent. `param` names the parameter at fault."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param}: {problem}", code="INVALID_ARGUMENT")
        self.param = param


class VLLMGrpcFailedPreconditionError(BadRequestError):
    """FAILED_PRECONDITION: the server is not set up for this."""


class VLLMGrpcOutOfRangeError(BadRequestError):
    """OUT_OF_RANGE: for example a KV-event sequence number that cannot be served."""


class VLLMGrpcUnauthenticatedError(APIStatusError):
    """UNAUTHENTICATED: no token, or one that the server does not accept."""


class VLLMGrpcPermissionDeniedError(APIStatusError):
    """PERMISSION_DENIED: the caller is known and may not do this."""


class VLLMGrpcNotFoundError(APIStatusError):
    """NOT_FOUND: the server does not know what the request names."""


class VLLMGrpcAlreadyExistsError(ConflictError):
    """ALREADY_EXISTS."""


class VLLMGrpcAbortedError(ConflictError):
    """ABORTED: the server gave up on the request."""


class VLLMGrpcResourceExhaustedError(APIStatusError):
    """RESOURCE_EXHAUSTED: too many requests, or a message over a size limit."""


class VLLMGrpcUnknownError(InternalServerError):
    """UNKNOWN: the server failed without saying how."""


class VLLMGrpcUnimplementedError(InternalServerError):
    """UNIMPLEMENTED: the server is older than this call, or has it switched off."""


class VLLMGrpcInternalError(InternalServerError):
    """INTERNAL: the engine failed, or the reply breaks the contract."""


class VLLMGrpcUnavailableError(InternalServerError):
    """UNAVAILABLE, by the server: it cannot take the request now."""


class VLLMGrpcDataLossError(InternalServerError):
    """DATA_LOSS: something is missing or damaged, such as a tokenizer bundle or KV events."""


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

# The other names of OpenAI's library. BadRequestError, ConflictError, InternalServerError and
# APIStatusError, which cover several statuses, are classes of their own above.
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
    "INVALID_ARGUMENT": "the server refused the request; correct it before sending it again",
    "DEADLINE_EXCEEDED": "no complete reply before the deadline; a longer timeout= may help",
    "NOT_FOUND": "the server does not know what the request names",
    "PERMISSION_DENIED": "the server does not allow this to the caller",
    "RESOURCE_EXHAUSTED": "the server is at its limit; try again later",
    "FAILED_PRECONDITION": "the server is not set up for this call",
    "UNIMPLEMENTED": "the server does not offer this call: it is older, or has it switched off",
    "INTERNAL": "the engine or its server failed",
    "UNAVAILABLE": "the server cannot take the request now; try again later",
    "UNAUTHENTICATED": "the server did not accept the credentials; check token=",
}
# gRPC has one status for "the server says busy" and for "there is no server", and no sign of which
# it is. A server that sends trailers has spoken. A channel that is not connected means that nobody
# has, unless headers came before. A connection that broke has one of gRPC's own sentences.
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
    """gRPC's metadata, of either of its types, as plain pairs."""
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

    connected: whether the channel was, right after; None: not known. hint: what to look at when
    nothing listens there. begun: a message has come, so the call must not be repeated.
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
    """The error for what a stub raised, sync or async."""
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
