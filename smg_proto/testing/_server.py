"""Running the fakes: in a thread of their own, or in your event loop."""

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

# Engines take messages of any size, or up to 256 MB; without this it would be 4 MiB.
_ANY_SIZE = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1}


class Address(str, Generic[_S]):
    """Where a fake listens, as "127.0.0.1:port", with the fake itself as `servicer`."""

    servicer: _S

    def __new__(cls, address: str, servicer: _S) -> "Address[_S]":
        self = super().__new__(cls, address)
        self.servicer = servicer
        return self


@asynccontextmanager
async def _serve(
    servicer: _S, options: Mapping[str, int] | None = None
) -> AsyncGenerator[Address[_S], None]:
    """Serve in the running event loop; on leaving, calls in flight are cancelled."""
    server = Server(Listen("127.0.0.1"), servicer.services, options=options)
    servicer.add_to_server(server.grpc)
    async with server:
        yield Address(str(server.address), servicer)


@contextmanager
def _run(
    servicer: _S, options: Mapping[str, int] | None = None
) -> Generator[Address[_S], None, None]:
    """Serve in a thread with an event loop of its own."""
    thread = LoopThread("smg-proto-fake")
    stack = AsyncExitStack()
    try:
        yield thread.run(stack.enter_async_context(_serve(servicer, options)))
    finally:
        thread.run(stack.aclose())
        thread.close()


@contextmanager
def run_engine(engine: _S) -> Generator[Address[_S], None, None]:
    """Any of the fakes, running: `with run_engine(FakeSglang()) as address:`."""
    with _run(engine, _ANY_SIZE) as address:
        yield address


@asynccontextmanager
async def serve_engine(engine: _S) -> AsyncGenerator[Address[_S], None]:
    """The same in the running event loop."""
    async with _serve(engine, _ANY_SIZE) as address:
        yield address


@contextmanager
def run_vllm_engine(
    engine: FakeVllmEngine | None = None,
) -> Generator[Address[FakeVllmEngine], None, None]:
    """A running FakeVllmEngine: `with run_vllm_engine() as address:`; `address.servicer` is it."""
    with run_engine(engine or FakeVllmEngine()) as address:
        yield address


@contextmanager
def run_gateway(gateway: FakeGateway | None = None) -> Generator[Address[FakeGateway], None, None]:
    """A running FakeGateway: `with run_gateway() as address:`; `address.servicer` is it."""
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
