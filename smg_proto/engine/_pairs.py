"""Differences between the sync and the async client."""

import asyncio
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import grpc

P = ParamSpec("P")
T = TypeVar("T")

# What a failed call raises. grpc.aio raises CancelledError for a call that this side cancelled, and
# asyncio raises it in a cancelled task. A cancelled sync call has a status.
Failures: tuple[type[BaseException], ...] = (grpc.RpcError,)
AsyncFailures: tuple[type[BaseException], ...] = (grpc.RpcError, asyncio.CancelledError)


def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


async def async_run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a slow function in another thread."""
    return await asyncio.to_thread(function, *args, **kwargs)


def being_cancelled() -> bool:
    return False


def async_being_cancelled() -> bool:
    """Whether the current task is being cancelled. Always False on Python 3.10."""
    if sys.version_info < (3, 11):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
