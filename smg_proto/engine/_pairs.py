"""What the two kinds of client do differently."""

import asyncio
import sys

import grpc

# What a call ends with. grpc.aio raises CancelledError for a call that this side has cancelled, as
# asyncio does for a task that is cancelled. Sync calls have a status for the one, nothing for the
# other.
Failures: tuple[type[BaseException], ...] = (grpc.RpcError,)
AsyncFailures: tuple[type[BaseException], ...] = (grpc.RpcError, asyncio.CancelledError)


def interrupted() -> bool:
    return False


def async_interrupted() -> bool:
    """Whether the present task has been told to end. Python 3.10 does not know: False."""
    if sys.version_info < (3, 11):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
