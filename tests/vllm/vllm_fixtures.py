"""Running engines, and the two clients."""

from collections.abc import Iterator
from typing import Any

import pytest
from vllm_kit import Both, ScriptedEngine

from smg_proto.testing import Address, FakeVllmEngine, run_vllm_engine
from smg_proto.vllm import TokenDecoder, VLLMGrpcClient


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    kit = Both(request.param == "async")
    yield kit
    kit.close()


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine() as address:
        yield address


@pytest.fixture
def address(shared_engine: Address[FakeVllmEngine]) -> Address[FakeVllmEngine]:
    """Where the fake engine listens, as if it had just started."""
    engine = shared_engine.servicer
    engine.script.clear()
    engine.record.received.clear()
    engine.token_delay, engine.tokens_per_chunk, engine.healthy = 0.0, 1, True
    engine.kv_events = engine.profiler = True
    return shared_engine


@pytest.fixture
def engine(address: Address[FakeVllmEngine]) -> FakeVllmEngine:
    return address.servicer


@pytest.fixture
def client(both: Both, address: Address[FakeVllmEngine]) -> Any:
    return both.make(address)


@pytest.fixture(scope="session")
def scripted_server() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine(ScriptedEngine()) as address:
        yield address


@pytest.fixture
def scripted(scripted_server: Address[FakeVllmEngine]) -> Iterator[ScriptedEngine]:
    engine = scripted_server.servicer
    assert isinstance(engine, ScriptedEngine)
    engine.messages, engine.pause, engine.ended_early = [], lambda number: 0.0, 0
    engine.refusals = []
    engine.record.received.clear()
    yield engine


@pytest.fixture
def scripted_client(both: Both, scripted_server: Address[FakeVllmEngine]) -> Any:
    return both.make(scripted_server)


@pytest.fixture(scope="session")
def decoder(shared_engine: Address[FakeVllmEngine]) -> TokenDecoder:
    """The fake engine's tokenizer."""
    with VLLMGrpcClient(target=shared_engine) as client:
        return TokenDecoder.from_client(client)
