"""The errors of smg_proto.engine. A server's text is in `details`, never in the message, because it
may quote a prompt."""

from dataclasses import dataclass
from typing import Any


class EngineError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, *, code: str | None = None, details: str = "") -> None:
        super().__init__(message)
        self.message: str = message
        self.code: str | None = code
        """The name of the gRPC status, such as "UNAVAILABLE". None: no call failed."""
        self.details: str = details
        """The server's own text."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickles without __init__, whose parameters differ between the classes.
        return _rebuild, (type(self), self.args, self.__dict__)


class UnavailableError(EngineError):
    """No server was reached, the connection broke, or the server does not accept calls now."""


class DeadlineError(EngineError):
    """The call exceeded its time limit."""


class AccessError(EngineError):
    """The server rejects the credentials, or does not allow the call."""


class RequestError(EngineError):
    """The server rejects the request. Correct it before you send it again."""


class BusyError(EngineError):
    """The engine has no room for the request now, or a message exceeds a size limit."""


class FailedError(EngineError):
    """The engine or its server failed, or the reply breaks its contract."""


class ClosedError(EngineError):
    """This side closed the engine or the stream."""


class ParameterError(EngineError, ValueError):
    """A parameter is wrong. Nothing was sent."""

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"invalid {parameter}: {problem}")
        self.parameter: str = parameter


class UnsupportedError(EngineError):
    """The contract cannot express the request. Nothing was sent."""

    def __init__(self, contract: str, what: str, why: str) -> None:
        super().__init__(f"{contract} does not support {what}: {why}")
        self.contract: str = contract
        self.what: str = what


@dataclass(frozen=True)
class Tried:
    """One call that tried to detect a contract."""

    contract: str
    """The contract, or "reflection"."""
    rpc: str
    """The path that was called."""
    answer: str
    """The name of the gRPC status, or the services that reflection lists."""


class NoContractError(EngineError):
    """No contract was detected. `tried` lists the calls and their results."""

    def __init__(self, target: str, problem: str, tried: tuple[Tried, ...]) -> None:
        lines = [f"  {one.rpc}: {one.answer}" for one in tried]
        super().__init__("\n".join([f"{target}: {problem}; tried:", *lines]))
        self.tried: tuple[Tried, ...] = tried


def _rebuild(kind: type[EngineError], args: tuple[Any, ...], state: dict[str, Any]) -> EngineError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


_KINDS: dict[str, tuple[type[EngineError], str]] = {
    "UNAVAILABLE": (
        UnavailableError,
        "no server, or it does not accept calls now; check the address, and TLS on both sides",
    ),
    "DEADLINE_EXCEEDED": (DeadlineError, "no complete reply in time"),
    "UNAUTHENTICATED": (AccessError, "the server rejects the credentials"),
    "PERMISSION_DENIED": (AccessError, "the server does not allow the call"),
    "INVALID_ARGUMENT": (RequestError, "the server rejects the request"),
    "NOT_FOUND": (RequestError, "the server does not know what the request names"),
    "FAILED_PRECONDITION": (RequestError, "the server is not set up for the request"),
    "OUT_OF_RANGE": (RequestError, "the server rejects the request"),
    "ALREADY_EXISTS": (RequestError, "the server already has a request with this id"),
    "RESOURCE_EXHAUSTED": (BusyError, "the engine is full, or a message exceeds a size limit"),
    "UNIMPLEMENTED": (FailedError, "the server does not have the RPC"),
    "CANCELLED": (FailedError, "the server cancelled the call"),
}


def from_status(code: str, details: str, target: str) -> EngineError:
    """The error for a status that ended a call."""
    kind, what = _KINDS.get(code, (FailedError, f"the call failed with {code}"))
    return kind(f"{target}: {what}", code=code, details=details)
