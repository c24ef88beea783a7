"""The published vLLM server with real vLLM, and what it did: python -m engines.vllm_server FLAGS

Nothing of it is changed. What vLLM's scheduler takes in and what becomes of it is told on stdout,
as a stand-in tells it.
"""

import json
import os
import runpy
from typing import Any

# The engine core is a process of its own; forked, it keeps what is set here.
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"

from engines.standin import events

OUT = events()
EVENTS = OUT.fileno()

from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402


def tell(event: str, name: str) -> None:
    os.write(EVENTS, json.dumps({"event": event, "id": name}).encode() + b"\n")


add, finish, free = Scheduler.add_request, Scheduler.finish_requests, Scheduler._free_request


def add_request(self: Any, request: Any) -> Any:
    tell("start", request.request_id)
    return add(self, request)


def finish_requests(self: Any, *args: Any, **named: Any) -> Any:
    """Called from outside of the scheduler: a cancelled call, an abort, a stop string."""
    found = finish(self, *args, **named)
    for request in found:
        tell("abort", request.request_id)
    return found


def _free_request(self: Any, request: Any, *args: Any, **named: Any) -> Any:
    tell("end", request.request_id)
    return free(self, request, *args, **named)


if __name__ == "__main__":
    Scheduler.add_request = add_request
    Scheduler.finish_requests = finish_requests
    Scheduler._free_request = _free_request
    runpy.run_module("vllm.entrypoints.launchers.grpc_server", run_name="__main__")
