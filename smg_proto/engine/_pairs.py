"""Differences between the sync and the async client."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

T = TypeVar("T")

# What a failed call raises. grpc.aio raises CancelledError for a call that this side cancelled, and
# asyncio raises it in a cancelled task. A cancelled sync call has a status.
Failures: tuple[type[BaseException], ...] = (grpc.RpcError,)
AsyncFailures: tuple[type[BaseException], ...] = (grpc.RpcError, asyncio.CancelledError)


def run_blocking(work: Callable[..., T], *arguments: Any) -> T:
    return work(*arguments)


async def async_run_blocking(work: Callable[..., T], *arguments: Any) -> T:
    """Call a slow function in another thread."""
    return await asyncio.to_thread(work, *arguments)


def being_cancelled() -> bool:
    return False


def async_being_cancelled() -> bool:
    """Whether the current task is being cancelled. Always False on Python 3.10."""
    if sys.version_info < (3, 11):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
