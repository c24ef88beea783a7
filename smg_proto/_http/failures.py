"""Which status a failure of the gateway becomes. The whole table is here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from smg_proto._http.shapes import as_object
from smg_proto.errors import FieldViolation, SmgError

Code = grpc.StatusCode


@dataclass(frozen=True)
class Rule:
    """An answer of the gateway, and the status that it becomes. An empty condition always holds."""

    http: tuple[int, ...]
    status: grpc.StatusCode
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


# The first that holds; none: INTERNAL, WORKER_ERROR.
RULES = (
    Rule((400,), Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED", ("context_length_exceeded",)),
    Rule((400,), Code.INVALID_ARGUMENT, "MULTIMODAL_NOT_SUPPORTED", ("multimodal_not_supported",)),
    Rule((400, 404), Code.NOT_FOUND, "TOKENIZER_NOT_FOUND", ("tokenizer_not_found",)),
    Rule((400,), Code.NOT_FOUND, "PARSER_NOT_FOUND", path="/parse/", text="Unknown "),
    Rule((400,), Code.NOT_FOUND, "RESPONSE_NOT_FOUND", ("previous_response_not_found",)),
    Rule(
        (400,),
        Code.FAILED_PRECONDITION,
        "RESPONSE_NOT_CANCELLABLE",
        ("response_already_completed",),
    ),
    Rule((400, 422), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    Rule((401,), Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    Rule((403,), Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
    Rule((404,), Code.NOT_FOUND, "MODEL_NOT_FOUND", ("model_not_found",)),
    Rule(
        (404,),
        Code.NOT_FOUND,
        "RESPONSE_NOT_FOUND",
        ("not_found", "response_not_found"),
        path="/v1/responses/",
    ),
    Rule((404,), Code.NOT_FOUND, "WORKER_NOT_FOUND", ("WORKER_NOT_FOUND",)),
    Rule((404,), Code.NOT_FOUND, "INVALID_REQUEST"),
    Rule((409,), Code.ALREADY_EXISTS, "WORKER_ALREADY_EXISTS", path="/workers"),
    Rule((413,), Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
    Rule((424,), Code.FAILED_PRECONDITION, "MCP_SERVER_UNAVAILABLE"),
    Rule((429,), Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
    Rule((501,), Code.UNIMPLEMENTED, "UNSUPPORTED_BY_BACKEND"),
    Rule((503,), Code.UNAVAILABLE, "NO_AVAILABLE_WORKERS", ("no_available_workers",)),
    Rule((503,), Code.UNAVAILABLE, "QUEUE_TIMEOUT", ("admission_queue_timeout",)),
    Rule((502, 503), Code.UNAVAILABLE, "WORKER_ERROR"),
    Rule((408, 504), Code.DEADLINE_EXCEEDED, "WORKER_TIMEOUT"),
)


def from_answer(http: int, headers: Mapping[str, str], body: bytes, path: str) -> SmgError:
    """The status of an HTTP answer that is not a success."""
    said = _Said.of(body)
    code = headers.get("x-smg-error-code") or said.code
    for rule in RULES:
        if rule.holds(http, code, path, said.message):
            status, reason = rule.status, rule.reason
            break
    else:
        status, reason = Code.INTERNAL, "WORKER_ERROR"
    metadata = {"http_status": str(http)} | ({"code": code} if code else {})
    wait = headers.get("retry-after", "")
    return SmgError(
        status,
        said.message or f"the gateway answered with HTTP {http}",
        reason=reason,
        metadata=metadata,
        field_violations=[FieldViolation(said.param, said.message)] if said.param else [],
        retry_after=timedelta(seconds=int(wait)) if wait.isdigit() else None,
    )


def reason_of(code: str) -> str:
    """The reason in an `Error` for a code of the gateway's; the code itself where none fits."""
    for rule in RULES:
        if code and code in rule.codes:
            return rule.reason
    return "WORKER_ERROR" if code in ("", "stream_error", "server_error") else code.upper()


def unsupported(message: str) -> SmgError:
    return SmgError(Code.UNIMPLEMENTED, message, reason="UNSUPPORTED_BY_BACKEND")


def unreadable(what: str) -> SmgError:
    """The gateway said something that is not what it says there."""
    return SmgError(Code.INTERNAL, f"{what} of the gateway cannot be read", reason="WORKER_ERROR")


def failed(message: str, **metadata: str) -> SmgError:
    """The worker failed in the middle."""
    return SmgError(Code.INTERNAL, message, reason="WORKER_ERROR", metadata=metadata)


def truncated(why: str, **metadata: str) -> SmgError:
    return SmgError(Code.UNAVAILABLE, why, reason="STREAM_TRUNCATED", metadata=metadata)


def unreachable(why: str) -> SmgError:
    return SmgError(Code.UNAVAILABLE, why, reason="GATEWAY_UNAVAILABLE")


def too_slow(why: str) -> SmgError:
    return SmgError(Code.DEADLINE_EXCEEDED, why, reason="WORKER_TIMEOUT")


def overloaded(why: str, retry_after: timedelta) -> SmgError:
    return SmgError(Code.RESOURCE_EXHAUSTED, why, reason="OVERLOADED", retry_after=retry_after)


@dataclass(frozen=True)
class _Said:
    """What an error body says, in whichever of its forms."""

    message: str = ""
    code: str = ""
    param: str = ""

    @classmethod
    def of(cls, body: bytes) -> "_Said":
        try:
            data: Any = json.loads(body)
        except ValueError:
            return cls(body.decode(errors="replace").strip()[:1000])
        outer = as_object(data)
        error = outer.get("error")
        inner = as_object(error)
        message = error if isinstance(error, str) else inner.get("message") or ""
        code = outer.get("code") or inner.get("code") or inner.get("type") or ""
        return cls(str(message), str(code), str(inner.get("param") or ""))
