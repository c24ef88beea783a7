"""Fixtures for pytest, there as soon as this package is installed.

`vllm_engine` is a fake vLLM engine, `smg_gateway` a fake gateway: the address of a running server,
new for each test, with the fake itself as `.servicer`. Nothing is imported until a test asks.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smg_proto.testing import Address, FakeGateway, FakeVllmEngine


@pytest.fixture
def vllm_engine() -> Iterator["Address[FakeVllmEngine]"]:
    """A running `vllm.grpc.engine` server: `grpc.insecure_channel(vllm_engine)`."""
    from smg_proto.testing import run_vllm_engine

    with run_vllm_engine() as address:
        yield address


@pytest.fixture
def smg_gateway() -> Iterator["Address[FakeGateway]"]:
    """A running server of all `smg.v1` services: `grpc.insecure_channel(smg_gateway)`."""
    from smg_proto.testing import run_gateway

    with run_gateway() as address:
        yield address
