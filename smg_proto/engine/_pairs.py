"""What the two kinds of client do differently."""

import asyncio
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import grpc

P = ParamSpec("P")
T = TypeVar("T")

# What a call ends with. grpc.aio raises CancelledError for a call that this side has cancelled, as
# asyncio does for a task that is cancelled. Sync calls have a status for the one, nothing for the
# other.
Failures: tuple[type[BaseException], ...] = (grpc.RpcError,)
AsyncFailures: tuple[type[BaseException], ...] = (grpc.RpcError, asyncio.CancelledError)


def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


async def async_aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what takes long in a thread of its own."""
    return await asyncio.to_thread(function, *args, **kwargs)


def interrupted() -> bool:
    return False


def async_interrupted() -> bool:
    """Whether the present task has been told to end. Python 3.10 does not know: False."""
    if sys.version_info < (3, 11):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
