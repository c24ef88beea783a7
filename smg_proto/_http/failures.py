"""Maps failures of the gateway to statuses. The whole table is here."""

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

# What reading JSON can raise if it does not have the expected shape.
SHAPE_ERRORS = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)
# Characters of a message that is not JSON, and of a code.
_MAX_TEXT, _MAX_CODE = 1000, 100


@dataclass(frozen=True)
class Rule:
    """Conditions for an error of the gateway, and its reason. An empty condition always holds."""

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


# The first rule that holds gives the reason; if none does, WORKER_ERROR. errors.CODES has the
# status of each reason.
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
    """The error of a reason, with its status code."""
    return SmgError(CODES[reason], message, reason=reason, **more)


# --- Errors that the gateway reports ---


def from_response(http: int, headers: Mapping[str, str], body: bytes, path: str) -> SmgError:
    """The error of an HTTP response that is not a success."""
    reported = _ErrorBody.of_bytes(body)
    code = header(headers, "x-smg-error-code") or reported.code
    error = _classified(http, code, path, reported)
    error.message = error.message or f"the gateway returned HTTP {http}"
    error.metadata = {"http_status": str(http)} | ({"code": code} if code else {})
    error.retry_after = parse_retry_after(headers.get("retry-after", ""))
    return error


def from_error_body(data: JsonObject, message: str, **metadata: str) -> SmgError:
    """The error inside a successful response: in a stream, or with HTTP 200.

    Its code is INTERNAL, unless the error has an HTTP status as its code. `message` is used if the
    error has none.
    """
    reported = _ErrorBody.of(data)
    error = _classified(reported.http, reported.code, "", reported)
    error.message, error.metadata = error.message or message, metadata
    return error


def _classified(http: int, code: str, path: str, reported: "_ErrorBody") -> SmgError:
    reasons = (rule.reason for rule in RULES if rule.holds(http, code, path, reported.message))
    reason = next(reasons, "WORKER_ERROR")
    return failure(reason, reported.message, field_violations=reported.violations)


def reason_of(code: str) -> str:
    """The reason in a `Failure` for a code of the gateway; the code itself if no rule has it."""
    for rule in RULES:
        if code and code in rule.codes:
            return rule.reason
    return "WORKER_ERROR" if code in ("", "stream_error", "server_error") else code.upper()


def parse_retry_after(value: str) -> timedelta | None:
    """Parse Retry-After: seconds, possibly with decimals, or a date. None for anything else."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return timedelta(seconds=float(value))
    try:
        moment = parsedate_to_datetime(value)
        return max(moment - datetime.now(timezone.utc), timedelta(0))
    except SHAPE_ERRORS:
        return None


# --- Errors that the front door detects ---


def reading(what: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Read something that the gateway sent. Every failure becomes `unreadable(what)`."""
    try:
        return read(*args, **kwargs)
    except SHAPE_ERRORS:
        raise unreadable(what) from None


def unsupported(message: str) -> SmgError:
    return failure("UNSUPPORTED_BY_BACKEND", message)


def unreadable(what: str) -> SmgError:
    """The gateway sent something unexpected. `what`: "response to /x", "event"."""
    return failure("WORKER_ERROR", f"could not read the gateway's {what}")


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
    """The content of an error body, which has one of these forms:

    {"error": {"message", "code", "type", "param"}}     OpenAI, the gateway
    {"error": "text", "code"}                           the gateway, of workers and parsers
    {"message", "code", "type"}                         SGLang, older vLLM
    {"detail": "text" or [{"loc", "msg"}]}              FastAPI
    text
    """

    message: str = ""
    code: str = ""
    # The HTTP status, if the code is one; else 0.
    http: int = 0
    violations: Sequence[FieldViolation] = ()

    @classmethod
    def of_bytes(cls, body: bytes) -> "_ErrorBody":
        try:
            return cls.of(as_object(parse(body.decode())))
        except SHAPE_ERRORS:
            return cls(body.decode(errors="replace").strip()[:_MAX_TEXT])

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
        return cls(message, _first_text(*codes)[:_MAX_CODE], http, violations)


def _first_text(*candidates: Any) -> str:
    """The first candidate that is a text and not empty."""
    return next((text for text in candidates if isinstance(text, str) and text), "")


def _violations(detail: list[Any]) -> list[FieldViolation]:
    """The violations in FastAPI's list of errors, whose locations start with "body"."""
    violations: list[FieldViolation] = []
    for item in map(as_object, detail[:100]):
        location = item.get("loc")
        steps = [str(step) for step in location if step != "body"] if is_list(location) else []
        if text := _first_text(item.get("msg")):
            violations.append(FieldViolation(".".join(steps), text))
    return violations
