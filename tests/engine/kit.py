"""A server with the replies of a test, and both clients behind one interface."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from smg_proto.engine import Completion, Piece, connect

PATIENCE = 30.0  # seconds

# The replies of a method: messages, or a function of the request's bytes and the context.
Handler = Iterable[Message | bytes] | Callable[[bytes, grpc.ServicerContext], Iterable[Any]]


@dataclass
class Server:
    """A server whose methods are given by path. Other methods are UNIMPLEMENTED."""

    target: str = ""
    handlers: dict[str, Handler] = field(default_factory=dict[str, Handler])
    default: Handler | None = None
    called: list[str] = field(default_factory=list[str])
    requests: dict[str, bytes] = field(default_factory=dict[str, bytes])
    metadata: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended: threading.Event = field(default_factory=threading.Event)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = str(details.method)
        self.called.append(path)
        self.metadata.append(dict(details.invocation_metadata or ()))
        handler = self.handlers.get(path, self.default)
        if handler is None:
            return None

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            if not context.add_callback(self.ended.set):  # ended already
                self.ended.set()
            self.requests[path] = next(requests, b"")
            for one in handler(self.requests[path], context) if callable(handler) else handler:
                yield one.SerializeToString() if isinstance(one, Message) else one

        return grpc.stream_stream_rpc_method_handler(handle)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self.server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self.server.service(details)


@contextmanager
def serving(
    handlers: dict[str, Handler] | None = None, *, default: Handler | None = None
) -> Iterator[Server]:
    """A running Server."""
    server = Server(handlers=dict(handlers or {}), default=default)
    running = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    running.add_generic_rpc_handlers((_Handler(server),))
    server.target = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    running.start()
    try:
        yield server
    finally:
        running.stop(0).wait()


def fails(code: grpc.StatusCode, details: str = "") -> Handler:
    """Ends a call with a status."""

    def handle(request: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(code, details)
        yield b""

    return handle


def hangs(request: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
    """Sends nothing until the call ends."""
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(PATIENCE)
    return iter(())


class Client(Protocol):
    """What tests use of the sync and the async client."""

    def pieces(self, target: str, params: dict[str, Any], **options: Any) -> list[Piece]: ...
    def complete(self, target: str, params: dict[str, Any], **options: Any) -> Completion: ...
    def call(self, target: str, method: str, *arguments: Any, **options: Any) -> Any: ...
    def attribute(self, target: str, name: str, **options: Any) -> Any: ...


class SyncClient:
    def pieces(self, target: str, params: dict[str, Any], **options: Any) -> list[Piece]:
        with connect(target, **options) as engine:
            return list(engine.generate(**params))

    def complete(self, target: str, params: dict[str, Any], **options: Any) -> Completion:
        with connect(target, **options) as engine:
            return engine.complete(**params)

    def call(self, target: str, method: str, *arguments: Any, **options: Any) -> Any:
        with connect(target, **options) as engine:
            return getattr(engine, method)(*arguments)

    def attribute(self, target: str, name: str, **options: Any) -> Any:
        with connect(target, **options) as engine:
            return getattr(engine, name)


class AsyncClient:
    def pieces(self, target: str, params: dict[str, Any], **options: Any) -> list[Piece]:
        async def run() -> list[Piece]:
            async with connect(target, **options) as engine:
                return [piece async for piece in engine.generate(**params)]

        return asyncio.run(run())

    def complete(self, target: str, params: dict[str, Any], **options: Any) -> Completion:
        async def run() -> Completion:
            async with connect(target, **options) as engine:
                return await engine.complete(**params)

        return asyncio.run(run())

    def call(self, target: str, method: str, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with connect(target, **options) as engine:
                return await getattr(engine, method)(*arguments)

        return asyncio.run(run())

    def attribute(self, target: str, name: str, **options: Any) -> Any:
        async def run() -> Any:
            async with connect(target, **options) as engine:
                return getattr(engine, name)

        return asyncio.run(run())
