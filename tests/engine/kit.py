"""A server that says what a test wants, and both kinds of client as one."""

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

# What a method answers: messages, or a function of the request's bytes and the context.
Says = Iterable[Message | bytes] | Callable[[bytes, grpc.ServicerContext], Iterable[Any]]


@dataclass
class Server:
    """A server by the paths of its methods. A method that is not there is UNIMPLEMENTED."""

    target: str = ""
    says: dict[str, Says] = field(default_factory=dict[str, Says])
    otherwise: Says | None = None
    called: list[str] = field(default_factory=list[str])
    requests: dict[str, bytes] = field(default_factory=dict[str, bytes])
    metadata: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended: threading.Event = field(default_factory=threading.Event)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = str(details.method)
        self.called.append(path)
        says = self.says.get(path, self.otherwise)
        if says is None:
            return None
        self.metadata.append(dict(details.invocation_metadata or ()))

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self.requests[path] = next(requests, b"")
            context.add_callback(self.ended.set)
            for one in says(self.requests[path], context) if callable(says) else says:
                yield one.SerializeToString() if isinstance(one, Message) else one

        return grpc.stream_stream_rpc_method_handler(answer)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self.server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self.server.service(details)


@contextmanager
def serving(
    says: dict[str, Says] | None = None, *, otherwise: Says | None = None
) -> Iterator[Server]:
    """A running Server."""
    found = Server(says=dict(says or {}), otherwise=otherwise)
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Handler(found),))
    found.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        server.stop(0).wait()


def fails(code: grpc.StatusCode, details: str = "") -> Says:
    """Ends a call with a status."""

    def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(code, details)
        yield b""

    return answer


def hangs(request: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
    """Says nothing until the caller is gone."""
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(PATIENCE)
    return iter(())


class Client(Protocol):
    """What tests ask of both kinds of client."""

    def pieces(self, target: str, params: dict[str, Any], **how: Any) -> list[Piece]: ...
    def complete(self, target: str, params: dict[str, Any], **how: Any) -> Completion: ...
    def call(self, target: str, method: str, *arguments: Any, **how: Any) -> Any: ...
    def attribute(self, target: str, name: str, **how: Any) -> Any: ...


class SyncClient:
    def pieces(self, target: str, params: dict[str, Any], **how: Any) -> list[Piece]:
        with connect(target, **how) as engine:
            return list(engine.generate(**params))

    def complete(self, target: str, params: dict[str, Any], **how: Any) -> Completion:
        with connect(target, **how) as engine:
            return engine.complete(**params)

    def call(self, target: str, method: str, *arguments: Any, **how: Any) -> Any:
        with connect(target, **how) as engine:
            return getattr(engine, method)(*arguments)

    def attribute(self, target: str, name: str, **how: Any) -> Any:
        with connect(target, **how) as engine:
            return getattr(engine, name)


class AsyncClient:
    def pieces(self, target: str, params: dict[str, Any], **how: Any) -> list[Piece]:
        async def run() -> list[Piece]:
            async with connect(target, **how) as engine:
                return [piece async for piece in engine.generate(**params)]

        return asyncio.run(run())

    def complete(self, target: str, params: dict[str, Any], **how: Any) -> Completion:
        async def run() -> Completion:
            async with connect(target, **how) as engine:
                return await engine.complete(**params)

        return asyncio.run(run())

    def call(self, target: str, method: str, *arguments: Any, **how: Any) -> Any:
        async def run() -> Any:
            async with connect(target, **how) as engine:
                return await getattr(engine, method)(*arguments)

        return asyncio.run(run())

    def attribute(self, target: str, name: str, **how: Any) -> Any:
        async def run() -> Any:
            async with connect(target, **how) as engine:
                return getattr(engine, name)

        return asyncio.run(run())
