import gc
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, settings
from progress import Progress
from support import MARKED, build_wheel

from smg_proto.testing import Address, FakeGateway, run_gateway

# No example has to be quick: a test that hangs has a limit of its own.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
os.environ.pop("GRPC_VERBOSITY", None)  # programs that the tests run print nothing on their own


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--summary", type=Path, help="write counts, reasons and the slowest test here")


def pytest_configure(config: pytest.Config) -> None:
    summary = config.getoption("summary")
    if summary and not hasattr(config, "workerinput"):  # not in the workers of xdist
        config.pluginmanager.register(Progress(config, summary), "progress")


@pytest.hookimpl(tryfirst=True)  # before any are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    found = ((mark.name, item.path) for item in items for mark in item.iter_markers())
    config.stash[MARKED] = set(found)


def pytest_collection_finish() -> None:
    """Exempt what was collected, which stays, from the searches for garbage during the tests."""
    gc.freeze()


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
