"""The errors of smg_proto.engine. What a server says is in `details`, never in the message: it may
repeat a prompt."""

from dataclasses import dataclass
from typing import Any


class EngineError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, *, code: str | None = None, details: str = "") -> None:
        super().__init__(message)
        self.message: str = message
        self.code: str | None = code
        """The name of the gRPC status, such as "UNAVAILABLE". None: no call has failed."""
        self.details: str = details
        """The server's own words."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Without a call of __init__, whose parameters differ from class to class.
        return _again, (type(self), self.args, self.__dict__)


class UnavailableError(EngineError):
    """No server was reached, the connection broke, or the server takes no calls now."""


class DeadlineError(EngineError):
    """The call did not end in time."""


class AccessError(EngineError):
    """The server does not accept the credentials, or does not allow the call."""


class RequestError(EngineError):
    """The server rejects the request: correct it before you send it again."""


class BusyError(EngineError):
    """The engine has no room for the request now, or a message is over a size limit."""


class FailedError(EngineError):
    """The engine or its server failed, or the reply breaks its contract."""


class ClosedError(EngineError):
    """The engine, or the stream, was closed by this side."""


class ParameterError(EngineError, ValueError):
    """A parameter is wrong. Nothing was sent."""

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"invalid {parameter}: {problem}")
        self.parameter: str = parameter


class UnsupportedError(EngineError):
    """The contract cannot express what was asked for. Nothing was sent."""

    def __init__(self, contract: str, what: str, why: str) -> None:
        super().__init__(f"{contract} does not support {what}: {why}")
        self.contract: str = contract
        self.what: str = what


@dataclass(frozen=True)
class Tried:
    """One question to a server about what it serves."""

    contract: str
    """The contract, or "reflection"."""
    rpc: str
    """The path that was called."""
    answer: str
    """The name of the gRPC status, or the services that reflection lists."""


class NoContractError(EngineError):
    """The server serves none of the contracts, or cannot be asked. `tried` has each answer."""

    def __init__(self, target: str, problem: str, tried: tuple[Tried, ...]) -> None:
        lines = [f"  {one.rpc}: {one.answer}" for one in tried]
        super().__init__("\n".join([f"{target}: {problem}; tried:", *lines]))
        self.tried: tuple[Tried, ...] = tried


def _again(kind: type[EngineError], args: tuple[Any, ...], state: dict[str, Any]) -> EngineError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


_KINDS: dict[str, tuple[type[EngineError], str]] = {
    "UNAVAILABLE": (
        UnavailableError,
        "no server, or it takes no calls now; check the address, and TLS on both sides",
    ),
    "DEADLINE_EXCEEDED": (DeadlineError, "no complete reply in time"),
    "UNAUTHENTICATED": (AccessError, "the server does not accept the credentials"),
    "PERMISSION_DENIED": (AccessError, "the server does not allow the call"),
    "INVALID_ARGUMENT": (RequestError, "the server rejects the request"),
    "NOT_FOUND": (RequestError, "the server does not know what the request names"),
    "FAILED_PRECONDITION": (RequestError, "the server is not set up for the request"),
    "OUT_OF_RANGE": (RequestError, "the server rejects the request"),
    "ALREADY_EXISTS": (RequestError, "the server has a request of this id"),
    "RESOURCE_EXHAUSTED": (BusyError, "the engine is full, or a message is over a size limit"),
    "UNIMPLEMENTED": (FailedError, "the server does not have the RPC"),
    "CANCELLED": (FailedError, "the server cancelled the call"),
}


def from_status(code: str, details: str, target: str) -> EngineError:
    """The error for a status that ended a call."""
    kind, what = _KINDS.get(code, (FailedError, f"the call ended {code}"))
    return kind(f"{target}: {what}", code=code, details=details)
