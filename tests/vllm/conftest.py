"""The fixtures; they have a module of their own because mypy takes one conftest only."""

from vllm_fixtures import (
    address,
    both,
    client,
    decoder,
    engine,
    scripted,
    scripted_client,
    scripted_server,
    shared_engine,
)

__all__ = [
    "address",
    "both",
    "client",
    "decoder",
    "engine",
    "scripted",
    "scripted_client",
    "scripted_server",
    "shared_engine",
]
