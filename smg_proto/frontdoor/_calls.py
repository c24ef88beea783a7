"""One RPC in flight: its requests to the gateway, its metadata and its report."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import M, Table, read_reply
from smg_proto._http.headers import header, is_printable
from smg_proto._http.upstream import Response, Stream, Upstream
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.frontdoor._ignored import Gateway, ignored_fields
from smg_proto.frontdoor._once import MAX_KEY_LENGTH, Once
from smg_proto.frontdoor._pace import Pace
from smg_proto.frontdoor._telemetry import NO_SPAN, Span

# Metadata that is forwarded as HTTP headers of the same name. Nothing else is forwarded.
HEADERS_IN = (
    "authorization",
    "x-request-id",
    "traceparent",
    "tracestate",
    "x-smg-parser",
    "x-smg-routing-key",
    "x-smg-target-worker",
    "x-smg-priority",
    "x-smg-tenant-id",
)


@dataclass(frozen=True)
class Limits:
    """The limits that GatewayInfo returns."""

    max_request: int
    max_active: int


class Call:
    """The context of an operation."""

    def __init__(
        self,
        upstream: Upstream,
        pace: Pace,
        context: Any,
        span: Span = NO_SPAN,
        *,
        limits: Limits,
        once: Once,
        gateway: Gateway | None = None,
    ) -> None:
        self._upstream, self._context = upstream, context
        self.limits, self._once = limits, once
        self._gateway = gateway or Gateway()
        self.pace: Pace = pace
        self.span: Span = span
        self._headers = {**_headers_of(context.invocation_metadata() or ()), **span.headers}
        self.method: str = ""
        self.request: Any = None
        self._sent = 0.0
        self._responded = False
        self._metadata: asyncio.Future[None] | None = None
        self.first_token: float | None = None
        self.request_id: str = ""
        self._worker = self._parser = ""

    async def fetch(self, method: str, path: str, body: Any = None) -> Response:
        self._sent = self._sent or time.monotonic()
        response = await self._upstream.fetch(method, path, body, self._headers)
        await self._use_headers(response.headers)
        return response

    async def once(self, key: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of the work. With a key, that of the caller's first request with this key."""
        if not key:
            return await work()
        if len(key) > MAX_KEY_LENGTH:
            why = f"must have at most {MAX_KEY_LENGTH} characters"
            raise invalid(FieldViolation("idempotency_key", why))
        caller = (self._headers.get("authorization"), self._headers.get("x-smg-tenant-id"))
        return await self._once.run((self.method, caller, key), work)

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncGenerator[Any, None]:
        """A WebSocket to the gateway."""
        self._sent = self._sent or time.monotonic()
        async with self._upstream.websocket(path, self._headers) as socket:
            await self._use_headers({})
            yield socket

    @property
    def context(self) -> Any:
        return self._context

    @asynccontextmanager
    async def stream(self, path: str, body: Any) -> AsyncGenerator[Stream, None]:
        self._sent = self._sent or time.monotonic()
        async with self._upstream.stream(path, body, self._headers) as stream:
            await self._use_headers(stream.headers)
            yield stream

    def got_token(self) -> None:
        if self.first_token is None:
            self.first_token = time.monotonic() - self._sent

    def report(self) -> smg.PipelineReport:
        report = smg.PipelineReport(worker_url=self._worker, parser=self._parser)
        report.total_duration.CopyFrom(_duration(time.monotonic() - self._sent))
        if self.first_token is not None:
            report.time_to_first_token.CopyFrom(_duration(self.first_token))
        report.ignored_fields.extend(
            ignored_fields(self._gateway, self._worker, self.method, self.request)
        )
        return report

    async def _use_headers(self, headers: Mapping[str, str]) -> None:
        self._worker = header(headers, "x-smg-routed-worker-id")
        self._parser = header(headers, "x-smg-parser")
        if not self._responded:
            self._responded = True
            self.request_id = header(headers, "x-request-id")
            metadata = (("x-request-id", self.request_id),) if self.request_id else ()
            # Shielded, because cancelling one of several requests must not cancel this: gRPC
            # accepts no status while it sends metadata.
            sending = asyncio.ensure_future(self._context.send_initial_metadata(metadata))
            self._metadata = sending
            await asyncio.shield(sending)

    async def settle(self) -> None:
        """Wait until metadata that is being sent has been sent or has failed."""
        if self._metadata is not None:
            await asyncio.wait([self._metadata])


def read_response(table: Table[M], response: Response, path: str) -> M:
    return read_reply(table, response.json(f"response to {path}"), f"response to {path}")


def path_of(folder: str, id: str, rest: str = "") -> str:
    """The path of a resource. Its id may be any text that is a path segment."""
    if not id:
        raise invalid(FieldViolation("id", "is required"))
    if id in (".", ".."):  # a proxy would resolve them to another path
        raise invalid(FieldViolation("id", 'must not be "." or ".."'))
    return f"{folder}/{quote(id, safe='')}{rest}"


def inner_path(path: str, name: str, id: str) -> str:
    """The path of a resource within another. `name` is the field with its id."""
    try:
        return path_of(path, id)
    except SmgError as error:
        (violation,) = error.field_violations
        raise invalid(FieldViolation(name, violation.description)) from None


def _headers_of(metadata: Any) -> dict[str, str]:
    """The HTTP headers for a call's metadata. The first value counts if a key is repeated."""
    headers: dict[str, str] = {}
    for name, value in metadata:
        if name in HEADERS_IN and name not in headers:
            if not (isinstance(value, str) and is_printable(value)):
                raise invalid(FieldViolation(f"metadata.{name}", "must be printable ASCII"))
            headers[name] = value
    return headers


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
