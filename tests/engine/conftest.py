import pytest

from engine.kit import AsyncClient, Client, SyncClient


@pytest.fixture(params=[AsyncClient, SyncClient], ids=["async", "sync"])
def client(request: pytest.FixtureRequest) -> Client:
    """The sync or the async client."""
    client: Client = request.param()
    return client
