"""Which status a failure of the gateway becomes. The whole table is here."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, ParamSpec, TypeVar

from smg_proto._http.headers import header
from smg_proto._http.shapes import JsonObject, as_object, is_list, parse
from smg_proto.errors import CODES, FieldViolation, SmgError

P = ParamSpec("P")
T = TypeVar("T")

# What code that takes JSON of an unknown shape apart can raise, when the shape is another one.
UNREADABLE = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)
# Of a text that is not JSON, as a message; of a code, as metadata.
_LONGEST_TEXT, _LONGEST_CODE = 1000, 100


@dataclass(frozen=True)
class Rule:
    """An answer of the gateway, and the reason that it becomes. An empty condition always holds."""

    http: tuple[int, ...]
    reason: str
    codes: tuple[str, ...] = ()
    path: str = ""
    text: str = ""

    def holds(self, http: int, code: str, path: str, text: str) -> bool:
        return (
            http in self.http
            and (not self.codes or code in self.codes)
            and path.startswith(self.path)
            and self.text in text
        )


# The first that holds; none: WORKER_ERROR. Each reason has its status in errors.CODES.
RULES = (
    Rule((400,), "CONTEXT_LENGTH_EXCEEDED", ("context_length_exceeded",)),
    Rule((400,), "MULTIMODAL_NOT_SUPPORTED", ("multimodal_not_supported",)),
    Rule((400, 404), "TOKENIZER_NOT_FOUND", ("tokenizer_not_found",)),
    Rule((404,), "TOKENIZER_NOT_FOUND", path="/v1/tokenizers/"),
    Rule((400,), "PARSER_NOT_FOUND", path="/parse/", text="Unknown "),
    Rule((400,), "RESPONSE_NOT_FOUND", ("previous_response_not_found",)),
    Rule((400, 404), "CONVERSATION_NOT_FOUND", ("conversation_not_found",)),
    Rule((404,), "CONVERSATION_NOT_FOUND", path="/v1/conversations/"),
    Rule((400,), "RESPONSE_NOT_CANCELLABLE", ("response_already_completed",)),
    Rule((400, 422), "INVALID_REQUEST"),
    Rule((401,), "UNAUTHENTICATED"),
    Rule((403,), "PERMISSION_DENIED"),
    Rule((404,), "MODEL_NOT_FOUND", ("model_not_found",)),
    Rule((404,), "RESPONSE_NOT_FOUND", ("not_found", "response_not_found"), path="/v1/responses/"),
    Rule((404,), "WORKER_NOT_FOUND", ("WORKER_NOT_FOUND",)),
    Rule((404,), "ROUTE_NOT_FOUND"),
    Rule((409,), "WORKER_ALREADY_EXISTS", path="/workers"),
    Rule((409,), "TOKENIZER_ALREADY_EXISTS", path="/v1/tokenizers"),
    Rule((413,), "REQUEST_TOO_LARGE"),
    Rule((424,), "MCP_SERVER_UNAVAILABLE"),
    Rule((429,), "OVERLOADED"),
    Rule((501,), "UNSUPPORTED_BY_BACKEND"),
    Rule((503,), "NO_AVAILABLE_WORKERS", ("no_available_workers",)),
    Rule((503,), "QUEUE_TIMEOUT", ("admission_queue_timeout",)),
    Rule((502, 503), "WORKER_UNAVAILABLE"),
    Rule((408, 504), "WORKER_TIMEOUT"),
)


def failure(reason: str, message: str, **more: Any) -> SmgError:
    """The failure of a reason, with the one status that it has."""
    return SmgError(CODES[reason], message, reason=reason, **more)


# --- Failures that the gateway reports ---


def from_answer(http: int, headers: Mapping[str, str], body: bytes, path: str) -> SmgError:
    """The status of an HTTP answer that is not a success."""
    reported = _ErrorBody.of_bytes(body)
    code = header(headers, "x-smg-error-code") or reported.code
    error = _classified(http, code, path, reported)
    error.message = error.message or f"the gateway answered with HTTP {http}"
    error.metadata = {"http_status": str(http)} | ({"code": code} if code else {})
    error.retry_after = parse_retry_after(headers.get("retry-after", ""))
    return error


def from_error_body(data: JsonObject, message: str, **metadata: str) -> SmgError:
    """The status of an error inside of a success: in a stream, or with HTTP 200.

    It is INTERNAL, unless the error brings an HTTP status as its code. `message` is for one that
    has no text.
    """
    reported = _ErrorBody.of(data)
    error = _classified(reported.http, reported.code, "", reported)
    error.message, error.metadata = error.message or message, metadata
    return error


def _classified(http: int, code: str, path: str, reported: "_ErrorBody") -> SmgError:
    held = (rule.reason for rule in RULES if rule.holds(http, code, path, reported.message))
    reason = next(held, "WORKER_ERROR")
    return failure(reason, reported.message, field_violations=reported.violations)


def reason_of(code: str) -> str:
    """The reason in a `Failure` for a code of the gateway's; the code itself where none fits."""
    for rule in RULES:
        if code and code in rule.codes:
            return rule.reason
    return "WORKER_ERROR" if code in ("", "stream_error", "server_error") else code.upper()


def parse_retry_after(value: str) -> timedelta | None:
    """Seconds, whole or not, or a date; None for anything else."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return timedelta(seconds=float(value))
    try:
        moment = parsedate_to_datetime(value)
        return max(moment - datetime.now(timezone.utc), timedelta(0))
    except UNREADABLE:
        return None


# --- Failures that are seen here ---


def reading(what: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Read something that the gateway sent. Every failure to do so is one status, made here."""
    try:
        return read(*args, **kwargs)
    except UNREADABLE:
        raise unreadable(what) from None


def unsupported(message: str) -> SmgError:
    return failure("UNSUPPORTED_BY_BACKEND", message)


def unreadable(what: str) -> SmgError:
    """The gateway sent something that is not what belongs there."""
    return failure("WORKER_ERROR", f"{what} of the gateway cannot be read")


def truncated(why: str, **metadata: str) -> SmgError:
    return failure("STREAM_TRUNCATED", why, metadata=metadata)


def unreachable(why: str) -> SmgError:
    return failure("GATEWAY_UNAVAILABLE", why)


def too_slow(why: str) -> SmgError:
    return failure("WORKER_TIMEOUT", why)


def overloaded(why: str, retry_after: timedelta) -> SmgError:
    return failure("OVERLOADED", why, retry_after=retry_after)


# --- Error bodies ---


@dataclass(frozen=True)
class _ErrorBody:
    """What an error body says, in whichever of its forms:

    {"error": {"message", "code", "type", "param"}}     OpenAI, the gateway
    {"error": "text", "code"}                           the gateway, of workers and parsers
    {"message", "code", "type"}                         SGLang, older vLLM
    {"detail": "text" or [{"loc", "msg"}]}              FastAPI
    text
    """

    message: str = ""
    code: str = ""
    # The HTTP status that some have as their code; 0: none.
    http: int = 0
    violations: Sequence[FieldViolation] = ()

    @classmethod
    def of_bytes(cls, body: bytes) -> "_ErrorBody":
        try:
            return cls.of(as_object(parse(body.decode())))
        except UNREADABLE:
            return cls(body.decode(errors="replace").strip()[:_LONGEST_TEXT])

    @classmethod
    def of(cls, data: JsonObject) -> "_ErrorBody":
        error = data.get("error")
        inner = as_object(error)
        detail = data.get("detail")
        message = _first_text(error, inner.get("message"), detail, data.get("message"))
        codes = (data.get("code"), inner.get("code"), inner.get("type"))
        http = next((c for c in codes if type(c) is int and 400 <= c < 600), 0)
        if is_list(detail):
            violations = _violations(detail)
            message = message or "; ".join(f"{v.field}: {v.description}" for v in violations)
        elif param := _first_text(inner.get("param"), data.get("param")):
            violations = [FieldViolation(param, message)]
        else:
            violations = []
        return cls(message, _first_text(*codes)[:_LONGEST_CODE], http, violations)


def _first_text(*candidates: Any) -> str:
    """The first that is a text with something in it."""
    return next((text for text in candidates if isinstance(text, str) and text), "")


def _violations(detail: list[Any]) -> list[FieldViolation]:
    """FastAPI's list of what is wrong; its places begin with "body"."""
    found: list[FieldViolation] = []
    for item in map(as_object, detail[:100]):
        place = item.get("loc")
        steps = [str(step) for step in place if step != "body"] if is_list(place) else []
        if text := _first_text(item.get("msg")):
            found.append(FieldViolation(".".join(steps), text))
    return found
