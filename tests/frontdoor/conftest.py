from collections.abc import AsyncIterator

import grpc
import pytest

from frontdoor.replay import Upstream, front_door
from frontdoor.replay import upstream as run_upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with run_upstream() as output:
        yield output


@pytest.fixture
async def channel(upstream: Upstream) -> AsyncIterator[grpc.aio.Channel]:
    async with front_door(upstream) as opened:
        yield opened
