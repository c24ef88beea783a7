"""Runs operations as RPCs: each that is begun ends with a status, a line in the log and a count."""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import overloaded
from smg_proto._http.upstream import Upstream
from smg_proto.errors import SmgError, abort
from smg_proto.frontdoor._calls import Call
from smg_proto.frontdoor._metrics import Metrics
from smg_proto.frontdoor._operations import SERVICES, STREAMS, UNARY, Streaming, Unary

RETRY_AFTER = timedelta(seconds=1)

log: logging.Logger = logging.getLogger("smg_proto.frontdoor")


class Rpcs:
    """All RPCs of smg.v1 over one upstream."""

    def __init__(
        self, upstream: Upstream, metrics: Metrics, *, max_active: int, log_content: bool
    ) -> None:
        self._upstream, self._metrics = upstream, metrics
        self._max_active, self._log_content = max_active, log_content
        self._active = 0

    def handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        pool = descriptor_pool.Default()
        for service in map(pool.FindServiceByName, SERVICES):
            methods = {
                method.name: self._handler(service.name, method) for method in service.methods
            }
            yield grpc.method_handlers_generic_handler(service.full_name, methods)

    def _handler(self, service: str, method: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        name = f"{service}.{method.name}"
        request: type[Message] = getattr(smg, method.input_type.name)
        reply: type[Message] = getattr(smg, method.output_type.name)
        make, serve = (
            (grpc.unary_stream_rpc_method_handler, self._stream(name, STREAMS[name]))
            if method.server_streaming
            else (grpc.unary_unary_rpc_method_handler, self._unary(name, UNARY[name]))
        )
        return make(
            serve,
            request_deserializer=request.FromString,
            response_serializer=reply.SerializeToString,
        )

    def _unary(self, name: str, run: Unary) -> Callable[[Any, Any], Any]:
        async def serve(request: Message, context: Any) -> Message:
            async with self._accounted(name, request, context) as call:
                reply: Any = await run(call, request)
                if "pipeline" in reply.DESCRIPTOR.fields_by_name:
                    reply.pipeline.CopyFrom(call.report())
                self._content("reply", name, reply)
                done: Message = reply
                return done
            raise AssertionError("aborted calls do not come here")

        return serve

    def _stream(self, name: str, run: Streaming) -> Callable[[Any, Any], Any]:
        async def serve(request: Message, context: Any) -> None:
            async with (
                self._accounted(name, request, context) as call,
                aclosing(run(call, request)) as events,
            ):
                async for event in events:
                    # Waits while the client reads slowly; then nothing is read from the gateway.
                    await context.write(event)
                    self._metrics.event(name)
                    self._content("event", name, event)

        return serve

    @asynccontextmanager
    async def _accounted(
        self, name: str, request: Message, context: Any
    ) -> AsyncGenerator[Call, None]:
        begun, code, reason = time.monotonic(), "OK", ""
        call = Call(self._upstream, dict(reversed(context.invocation_metadata() or ())), context)
        self._metrics.started(name)
        self._active += 1
        self._content("request", name, request)
        try:
            if self._active > self._max_active:
                raise overloaded(f"{self._max_active} requests are at work already", RETRY_AFTER)
            yield call
        except SmgError as error:
            code, reason = error.code.name, error.reason
            await abort(context, error)
        except asyncio.CancelledError:
            left = context.time_remaining()
            code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            raise
        except Exception as error:
            code = "INTERNAL"
            # Where, but not what: the text of an exception may quote the request.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s: %s\n%s", name, type(error).__name__, where)
            await context.abort(grpc.StatusCode.INTERNAL, "a defect of the front door; see its log")
        finally:
            took = time.monotonic() - begun
            self._active -= 1
            self._metrics.ended(name, code, took)
            if call.first_token is not None:
                self._metrics.first_token(name, call.first_token)
            log.info("%s %s %s %.3fs %s", name, code, reason or "-", took, call.request_id or "-")

    def _content(self, what: str, name: str, message: Message) -> None:
        if self._log_content:
            log.info("%s %s %s", what, name, MessageToJson(message, indent=None))
