import pytest

from engine.kit import AsyncClient, Client, SyncClient


@pytest.fixture(params=[AsyncClient, SyncClient], ids=["async", "sync"])
def client(request: pytest.FixtureRequest) -> Client:
    """Either kind of client."""
    made: Client = request.param()
    return made
