"""Fixtures for pytest, available when this package is installed.

`vllm_engine` is the address of a fake vLLM engine and `smg_gateway` that of a fake gateway. Each
test gets a new server, whose fake is `.servicer`. Nothing is imported until a test uses a fixture.
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
