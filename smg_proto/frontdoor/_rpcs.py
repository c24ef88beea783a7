"""Runs operations as RPCs. Every RPC ends with a status, a log line and a count."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import overloaded
from smg_proto._http.upstream import Upstream
from smg_proto.errors import FieldViolation, SmgError, abort, invalid
from smg_proto.frontdoor._calls import Call, Limits
from smg_proto.frontdoor._ignored import Gateway
from smg_proto.frontdoor._log import keep_metadata_out_of_logs, log, log_unexpected_error
from smg_proto.frontdoor._metrics import Metrics
from smg_proto.frontdoor._once import Once
from smg_proto.frontdoor._operations import CONVERSATIONS, SERVICES, STREAMS, UNARY
from smg_proto.frontdoor._pace import Pace
from smg_proto.frontdoor._telemetry import Telemetry

RETRY_AFTER = timedelta(seconds=1)

# Handles a decoded request. Returns the reply, or None for a stream.
Work = Callable[[Call, Message], Awaitable[Any]]


class Rpcs:
    """All RPCs of smg.v1, in front of one gateway."""

    def __init__(
        self,
        upstream: Upstream,
        metrics: Metrics,
        *,
        limits: Limits,
        gateway: Gateway,
        log_content: bool,
    ) -> None:
        self._upstream, self._metrics = upstream, metrics
        self._limits, self._log_content = limits, log_content
        self._once, self._gateway = Once(), gateway
        keep_metadata_out_of_logs()
        self._active = 0
        self._pace = Pace()
        self._telemetry = Telemetry()

    def handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        pool = descriptor_pool.Default()
        for service in map(pool.FindServiceByName, SERVICES):
            methods = {
                method.name: self._handler(service.name, method) for method in service.methods
            }
            yield grpc.method_handlers_generic_handler(service.full_name, methods)

    def _handler(self, service: str, method: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        name = f"{service}.{method.name}"
        kind: type[Message] = getattr(smg, method.input_type.name)
        reply: type[Message] = getattr(smg, method.output_type.name)
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._conversation(name, kind), None, reply.SerializeToString
            )
        make, serve = (
            (grpc.unary_stream_rpc_method_handler, self._stream)
            if method.server_streaming
            else (grpc.unary_unary_rpc_method_handler, self._unary)
        )
        # No deserializer, so that a request that cannot be parsed is counted and logged too.
        return make(serve(name, kind), None, reply.SerializeToString)

    def _unary(self, name: str, kind: type[Message]) -> Callable[[bytes, Any], Awaitable[Any]]:
        run = UNARY[name]

        async def serve(data: bytes, context: Any) -> Any:
            async def work(call: Call, request: Message) -> Any:
                reply = await run(call, request)
                if "pipeline" in reply.DESCRIPTOR.fields_by_name:
                    reply.pipeline.CopyFrom(call.report())
                call.span.reply(reply)
                self._content("reply", name, reply)
                return reply

            return await self._account(name, kind, data, context, work)

        return serve

    def _stream(self, name: str, kind: type[Message]) -> Callable[[bytes, Any], Awaitable[None]]:
        run = STREAMS[name]

        async def serve(data: bytes, context: Any) -> None:
            async def work(call: Call, request: Message) -> None:
                events: AsyncGenerator[Any, None]
                async with aclosing(run(call, request)) as events:
                    async for event in events:
                        # Waits while the client reads slowly, and reads nothing from the gateway.
                        await context.write(event)
                        self._metrics.event(name)
                        call.span.reply(event)
                        self._content("event", name, event)

            await self._account(name, kind, data, context, work)

        return serve

    def _conversation(
        self, name: str, kind: type[Message]
    ) -> Callable[[Any, Any], Awaitable[None]]:
        run = CONVERSATIONS[name]

        async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
            async def decoded() -> AsyncGenerator[Message, None]:
                async for data in requests:
                    yield _decoded(kind, data)

            async def work(call: Call, _: Message) -> None:
                events: AsyncGenerator[Any, None]
                async with aclosing(run(call, decoded())) as events:
                    async for event in events:
                        await context.write(event)
                        self._metrics.event(name)
                        self._content("event", name, event)

            await self._account(name, kind, b"", context, work)

        return serve

    async def _account(
        self, name: str, kind: type[Message], data: bytes, context: Any, work: Work
    ) -> Any:
        """Run one RPC. It ends with a status, a count and a log line, whatever happens."""
        started, allowed = time.monotonic(), context.time_remaining()
        call: Call | None = None
        code, failure = grpc.StatusCode.OK, None
        span = self._telemetry.start(name, context)
        self._metrics.started(name)
        self._active += 1
        try:
            if self._active > self._limits.max_active:
                limit = self._limits.max_active
                raise overloaded(f"too many requests in flight: the limit is {limit}", RETRY_AFTER)
            call = Call(
                self._upstream,
                self._pace,
                context,
                span,
                limits=self._limits,
                once=self._once,
                gateway=self._gateway,
            )
            call.method = name
            call.request = request = _decoded(kind, data)
            span.request(request)
            self._content("request", name, request)
            return await work(call, request)
        except SmgError as error:
            code, failure = error.code, error
        except asyncio.CancelledError:
            code = _cancelled_code(context, allowed)
            raise
        except grpc.aio.InternalError:  # the client cancelled while gRPC was writing to it
            code = _cancelled_code(context, allowed)
        except Exception as error:
            log_unexpected_error(name, error)
            code = grpc.StatusCode.INTERNAL
            failure = SmgError(code, "internal error in the front door; see its log")
        finally:
            duration = time.monotonic() - started
            self._active -= 1
            self._metrics.ended(name, code.name, duration)
            span.end(code, failure.reason if failure else "")
            if call and call.first_token is not None:
                self._metrics.first_token(name, call.first_token)
            log.info(
                "rpc finished method=%s code=%s reason=%s duration=%.3fs request_id=%s",
                name,
                code.name,
                (failure and failure.reason) or "-",
                duration,
                (call and call.request_id) or "-",
            )
        # Outside the except clause, so that what grpc logs for an abort does not hold the message.
        if failure is None:
            return None
        if call:
            await call.settle()
        return await abort(context, failure)

    def _content(self, what: str, name: str, message: Message) -> None:
        if self._log_content:
            log.info("%s %s %s", what, name, MessageToJson(message, indent=None))


def _decoded(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(FieldViolation(kind.DESCRIPTOR.full_name, "cannot be parsed")) from None


def _cancelled_code(context: Any, allowed: float | None) -> grpc.StatusCode:
    """The code of a cancelled RPC: the client's deadline or its cancellation.

    allowed: seconds to the deadline at the start. The client's clock started a little earlier, and
    the deadline is rounded up on the wire.
    """
    remaining = context.time_remaining()
    if allowed is None or remaining is None or remaining > 0.05 + 0.02 * allowed:
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.DEADLINE_EXCEEDED
