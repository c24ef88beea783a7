from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support import build_wheel

from smg_proto.testing import Address, FakeGateway, run_gateway


@pytest.fixture(scope="session", autouse=True)
def tokenizer_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where clients keep tokenizers: not in the home of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_GRPC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout, built."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def running_gateway() -> Iterator[tuple[Address[FakeGateway], grpc.Channel]]:
    with run_gateway() as address, grpc.insecure_channel(address) as channel:
        yield address, channel


@pytest.fixture
def gateway(running_gateway: tuple[Address[FakeGateway], grpc.Channel]) -> FakeGateway:
    """A fake gateway, running, as new."""
    servicer = running_gateway[0].servicer
    servicer.script.clear()
    servicer.token_delay = 0.0
    return servicer


@pytest.fixture
def channel(
    running_gateway: tuple[Address[FakeGateway], grpc.Channel], gateway: FakeGateway
) -> grpc.Channel:
    """A channel to `gateway`."""
    return running_gateway[1]
