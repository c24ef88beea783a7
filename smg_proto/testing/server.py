"""Running the fakes: in a thread of their own, or in your event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

import grpc

from smg_proto import vllm_engine_pb2_grpc
from smg_proto.testing.engine import FakeVllmEngine

_S = TypeVar("_S")
_T = TypeVar("_T")
_ANY_PORT = "127.0.0.1:0"


class Address(str, Generic[_S]):
    """Where a fake listens, as "127.0.0.1:port", with the fake itself as `servicer`."""

    servicer: _S

    def __new__(cls, address: str, servicer: _S) -> "Address[_S]":
        self = super().__new__(cls, address)
        self.servicer = servicer
        return self


@asynccontextmanager
async def listening(
    servicer: _S, register: Callable[[_S, grpc.aio.Server], None], listen: str = _ANY_PORT
) -> AsyncGenerator[Address[_S], None]:
    """Serve in the running event loop; on leaving, calls still at work are cancelled."""
    # Without this option a second server could share the port, and get half of the calls.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    register(servicer, server)
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield Address(f"{listen.rpartition(':')[0]}:{port}", servicer)
    finally:
        await server.stop(None)


@contextmanager
def listening_thread(
    servicer: _S, register: Callable[[_S, grpc.aio.Server], None]
) -> Generator[Address[_S], None, None]:
    """Serve in a thread with an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="smg-proto-fake", daemon=True)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    stack = AsyncExitStack()
    try:
        yield run(stack.enter_async_context(listening(servicer, register)))
    finally:
        run(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _register_engine(servicer: FakeVllmEngine, server: grpc.aio.Server) -> None:
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(servicer, server)


@contextmanager
def run_vllm_engine(
    engine: FakeVllmEngine | None = None,
) -> Generator[Address[FakeVllmEngine], None, None]:
    """A running FakeVllmEngine: `with run_vllm_engine() as address:`; `address.servicer` is it."""
    with listening_thread(engine or FakeVllmEngine(), _register_engine) as address:
        yield address


@asynccontextmanager
async def serve_vllm_engine(
    engine: FakeVllmEngine | None = None,
) -> AsyncGenerator[Address[FakeVllmEngine], None]:
    """The same in the running event loop: `async with serve_vllm_engine() as address:`."""
    async with listening(engine or FakeVllmEngine(), _register_engine) as address:
        yield address
