"""Settings of clients and calls: addresses, TLS, tokens, metadata, time limits."""

import inspect
import json
import operator
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar, cast

from typing_extensions import TypedDict

from smg_proto import _channel
from smg_proto._channel import (
    IN_CLEAR_TEXT,
    MAX_SECONDS,
    ChannelOptions,
    Checks,
    Metadata,
    MetadataLike,
    Pem,
    mapping,
    sequence,
)
from smg_proto.vllm._errors import VLLMGrpcValidationError

T = TypeVar("T")
TokenT = TypeVar("TokenT", bound="AsyncToken")

MAX_RETRIES: Final = 999
MAX_PUSHBACK: Final = 120.0  # seconds; if a server asks for a longer wait, the call fails
_DEFAULT_PORT: Final = 9000
_PLAIN: Final = (str, int, float, list)


class NotGiven(Enum):
    """The type of NOT_GIVEN: an omitted argument, different from None."""

    NOT_GIVEN = "not given"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN
Given: TypeAlias = T | NotGiven | None
"""An optional parameter. Omitted, None and NOT_GIVEN mean the same."""

Token: TypeAlias = str | Callable[[], str]
AsyncToken: TypeAlias = Token | Callable[[], Awaitable[str]]


# Checks of arguments, which may not have the type of their annotation.

_CHECKS: Final = Checks(VLLMGrpcValidationError)
text, flag, seconds = _CHECKS.text, _CHECKS.flag, _CHECKS.seconds
check_metadata, check_secret = _CHECKS.metadata, _CHECKS.secret


def plain(value: object) -> Any:
    """Converts tuples, arrays, mappings and numbers of other libraries to what pydantic accepts."""
    if value is None or isinstance(value, _PLAIN):
        return cast(Any, value)
    if (by_name := mapping(value)) is not None:
        return dict(by_name)
    if (items := sequence(value)) is not None:
        return list(items)
    try:
        return operator.index(cast(Any, value))
    except TypeError:
        return value


def json_text(param: str, value: object) -> str:
    """An object as JSON text."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise VLLMGrpcValidationError(param, "cannot be encoded as JSON") from None


def whole(param: str, value: object, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise VLLMGrpcValidationError(param, f"must be a whole number from {low} to {high}")
    return value


def duration(param: str, value: object) -> float:
    """A number of seconds, from 0."""
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= MAX_SECONDS
    ):
        raise VLLMGrpcValidationError(param, f"must be seconds, from 0 to {MAX_SECONDS:g}")
    return float(value)


# Settings of calls.


@dataclass(frozen=True, slots=True)
class Timeout:
    """Limits in seconds. None: no limit. Time that the reader of a stream spends never counts."""

    call: float | None = None
    """For a unary call or a completion without streaming, including token function and retries."""
    first_message: float | None = None
    """For the first message of a stream, including token function and retries."""
    idle: float | None = None
    """For each later message of a stream."""
    stream: float | None = None
    """For a whole stream. No limit by default, since a long stream can be healthy."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, seconds(f"timeout.{name}", getattr(self, name)))

    @classmethod
    def of(cls, value: "float | Timeout | None") -> "Timeout":
        """A number limits a whole call, and each wait for a message of a stream."""
        if isinstance(value, Timeout):
            return value
        limit = seconds("timeout", value)
        return cls(call=limit, first_message=limit, idle=limit)


class CallParams(TypedDict, total=False):
    """Parameters of every call. Unset: the client's."""

    timeout: float | Timeout | NotGiven | None
    """Seconds for the call, or a Timeout. None: no limit."""
    max_retries: Given[int]
    """Retries after UNAVAILABLE or RESOURCE_EXHAUSTED, while no message has arrived."""
    metadata: Given[MetadataLike]
    """gRPC metadata, added to the client's. The same name replaces."""
    extra_headers: Given[Mapping[str, str]]
    """OpenAI's name for `metadata`."""
    traceparent: Given[str]
    """W3C trace context for the server's spans."""
    wait_for_ready: Given[bool]
    """Wait for the connection instead of failing without one."""


CALL_PARAMS: Final = frozenset(CallParams.__annotations__)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one call."""

    timeout: Timeout
    timeout_given: bool = False
    """Whether the limits were set explicitly. Some calls get longer than the default limits."""
    max_retries: int = 2
    metadata: Metadata = ()
    wait_for_ready: bool = False
    initial_backoff: float = 0.5
    max_backoff: float = 8.0

    def changed(self, params: Mapping[str, Any]) -> "Options":
        """A copy with the given parameters of CallParams."""
        options = self
        for name, value in params.items():
            if value is NOT_GIVEN:
                continue
            if name == "timeout":
                options = replace(options, timeout=Timeout.of(value), timeout_given=True)
            elif value is None:
                continue
            elif name == "max_retries":
                options = replace(options, max_retries=whole(name, value, 0, MAX_RETRIES))
            elif name == "wait_for_ready":
                options = replace(options, wait_for_ready=flag(name, value))
            else:
                if name == "traceparent":
                    added: Metadata = ((name, check_traceparent(value)),)
                else:
                    added = check_metadata(value, name)
                options = replace(options, metadata=merge_metadata(options.metadata, added))
        return options


def split(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of CallParams, and the others that are set."""
    call: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in params.items():
        if name in CALL_PARAMS:
            call[name] = value
        elif value is not None and value is not NOT_GIVEN:
            rest[name] = value
    return call, rest


def check_traceparent(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", value
    ):
        raise VLLMGrpcValidationError("traceparent", "must look like 00-<32 hex>-<16 hex>-01")
    return value


def merge_metadata(base: Metadata, added: Metadata) -> Metadata:
    """Both. Added pairs replace those with the same name."""
    if not base or not added:
        return base or added
    names = {key for key, _ in added}
    return tuple(pair for pair in base if pair[0] not in names) + added


# The address of the server.


@dataclass(frozen=True, slots=True)
class Address(_channel.Address):
    """A target with its options and credentials."""

    hint: str = ""
    """Advice for when nothing is listening."""


def address(
    host: str | None = None,
    port: int | None = None,
    *,
    target: str | None = None,
    secure: bool | None = None,
    ca_certificate: Pem | None = None,
    client_certificate: Pem | None = None,
    client_key: Pem | None = None,
    server_name: str | None = None,
    max_send_message_length: int = -1,
    max_receive_message_length: int = -1,
    channel_options: ChannelOptions | None = None,
) -> Address:
    """From the arguments, else from the environment, else the default."""
    where, hint = _target(host, port, target)
    tls: dict[str, Any] = {
        "ca_certificate": ca_certificate,
        "client_certificate": client_certificate,
        "client_key": client_key,
        "server_name": server_name,
    }
    if secure is None and all(value is None for value in tls.values()):
        secure = _env_secure(where.endswith(":443"))
    # No keepalive: some servers cancel calls of clients that ping more often than every 300 s.
    options: dict[str, object] = {
        "grpc.max_send_message_length": _size("max_send_message_length", max_send_message_length),
        "grpc.max_receive_message_length": _size(
            "max_receive_message_length", max_receive_message_length
        ),
        # gRPC's default of up to two minutes is longer than all retries together.
        "grpc.initial_reconnect_backoff_ms": 250,
        "grpc.max_reconnect_backoff_ms": 8000,
    }
    credentials = _CHECKS.credentials(secure, options, **tls)
    given = _CHECKS.channel_options(channel_options)
    found = _channel.address(where, credentials, options, given)
    return Address(found.target, found.options, found.credentials, hint)


def _target(host: object, port: object, target: object) -> tuple[str, str]:
    """The target, and a hint for when nothing is listening."""
    if target is not None:
        if host is not None or port is not None:
            raise VLLMGrpcValidationError("target", "cannot be used with host or port")
        return text("target", target), ""
    name = text("host", host) if host is not None else os.environ.get("VLLM_GRPC_HOST")
    name = name or "localhost"
    if ":" in name and not name.startswith("["):
        if name.count(":") == 1:
            raise VLLMGrpcValidationError("host", "has a port; use port= or target=")
        name = f"[{name}]"  # an IPv6 address
    hint = ""
    if port is None:
        given = os.environ.get("VLLM_GRPC_PORT")
        if not given:
            hint = (
                f". The port is unset, so {_DEFAULT_PORT} was used; vLLM's launchers listen on "
                "8000 (vllm serve --grpc) or 50051 (vllm.entrypoints.launchers.grpc_server)"
            )
        elif not given.isdecimal():
            raise VLLMGrpcValidationError("VLLM_GRPC_PORT", "must be a number from 1 to 65535")
        port = int(given[:9]) if given else _DEFAULT_PORT
    return f"{name}:{whole('port', port, 1, 65535)}", hint


def check_token(token: object, where: Address | None) -> None:
    """Check a token, and that it does not cross a network in clear text."""
    if inspect.iscoroutinefunction(token):
        raise VLLMGrpcValidationError("token", "a coroutine function requires the async client")
    async_check_token(token, where)


def async_check_token(token: object, where: Address | None) -> None:
    """The same for the async client, which also supports coroutine functions."""
    if token is None:
        return
    if isinstance(token, str):
        check_secret("token", token)
    elif not callable(token):
        raise VLLMGrpcValidationError("token", "must be a string or a function that returns one")
    if where is not None and not where.is_private:
        raise VLLMGrpcValidationError("token", IN_CLEAR_TEXT)


def default_timeout(given: float | Timeout | NotGiven | None) -> tuple[Timeout, bool]:
    """The limits, and whether they were set explicitly."""
    if given is not NOT_GIVEN:
        return Timeout.of(given), True
    value = os.environ.get("VLLM_GRPC_TIMEOUT")
    if not value:
        return Timeout.of(60.0), False
    try:
        return Timeout.of(float(value)), True
    except ValueError:  # VLLMGrpcValidationError included
        raise VLLMGrpcValidationError(
            "VLLM_GRPC_TIMEOUT", f"must be seconds, above 0 and at most {MAX_SECONDS:g}"
        ) from None


def default_token(given: TokenT | None) -> TokenT | str | None:
    return given if given is not None else os.environ.get("VLLM_GRPC_TOKEN") or None


def _env_secure(default: bool) -> bool:
    value = os.environ.get("VLLM_GRPC_SECURE", "").lower()
    if value in ("", "true", "1", "yes", "false", "0", "no"):
        return value in ("true", "1", "yes") if value else default
    raise VLLMGrpcValidationError("VLLM_GRPC_SECURE", "must be true or false")


def _size(param: str, value: object) -> int:
    return whole(param, value, -1, 2**31 - 1)
