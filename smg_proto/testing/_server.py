"""Running the fakes, in their own thread or in your event loop."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Generic, Protocol, TypeVar

import grpc

from smg_proto._serving.address import Address as Listen
from smg_proto._serving.loop import LoopThread
from smg_proto._serving.server import Server
from smg_proto.testing._engine.servicer import FakeVllmEngine
from smg_proto.testing._gateway import FakeGateway


class _Servable(Protocol):
    @property
    def services(self) -> Sequence[str]: ...

    def add_to_server(self, server: grpc.aio.Server) -> None: ...


_S = TypeVar("_S", bound=_Servable)

# Engines accept messages of any size, or up to 256 MB. gRPC's default is 4 MiB.
_ANY_SIZE = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1}


class Address(str, Generic[_S]):
    """A fake's address, "127.0.0.1:PORT". `servicer` is the fake itself."""

    servicer: _S

    def __new__(cls, address: str, servicer: _S) -> "Address[_S]":
        self = super().__new__(cls, address)
        self.servicer = servicer
        return self


@asynccontextmanager
async def _serve(
    servicer: _S, options: Mapping[str, int] | None = None
) -> AsyncGenerator[Address[_S], None]:
    """Serve in the running event loop. Leaving cancels calls in flight."""
    server = Server(Listen("127.0.0.1"), servicer.services, options=options)
    servicer.add_to_server(server.grpc)
    async with server:
        yield Address(str(server.address), servicer)


@contextmanager
def _run(
    servicer: _S, options: Mapping[str, int] | None = None
) -> Generator[Address[_S], None, None]:
    """Serve in a thread with its own event loop."""
    thread = LoopThread("smg-proto-fake")
    stack = AsyncExitStack()
    try:
        yield thread.run(stack.enter_async_context(_serve(servicer, options)))
    finally:
        thread.run(stack.aclose())
        thread.close()


@contextmanager
def run_engine(engine: _S) -> Generator[Address[_S], None, None]:
    """Run any of the fakes: `with run_engine(FakeSglang()) as address:`."""
    with _run(engine, _ANY_SIZE) as address:
        yield address


@asynccontextmanager
async def serve_engine(engine: _S) -> AsyncGenerator[Address[_S], None]:
    """run_engine() in the running event loop: `async with serve_engine(engine) as address:`."""
    async with _serve(engine, _ANY_SIZE) as address:
        yield address


@contextmanager
def run_vllm_engine(
    engine: FakeVllmEngine | None = None,
) -> Generator[Address[FakeVllmEngine], None, None]:
    """Run a FakeVllmEngine, `address.servicer`: `with run_vllm_engine() as address:`."""
    with run_engine(engine or FakeVllmEngine()) as address:
        yield address


@contextmanager
def run_gateway(gateway: FakeGateway | None = None) -> Generator[Address[FakeGateway], None, None]:
    """Run a FakeGateway, `address.servicer`: `with run_gateway() as address:`."""
    with _run(gateway or FakeGateway()) as address:
        yield address


@asynccontextmanager
async def serve_vllm_engine(
    engine: FakeVllmEngine | None = None,
) -> AsyncGenerator[Address[FakeVllmEngine], None]:
    """run_vllm_engine() in the running event loop: `async with serve_vllm_engine() as address:`."""
    async with serve_engine(engine or FakeVllmEngine()) as address:
        yield address


@asynccontextmanager
async def serve_gateway(
    gateway: FakeGateway | None = None,
) -> AsyncGenerator[Address[FakeGateway], None]:
    """run_gateway() in the running event loop: `async with serve_gateway() as address:`."""
    async with _serve(gateway or FakeGateway()) as address:
        yield address
