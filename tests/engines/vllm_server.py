"""The published vLLM server with real vLLM, and what it did: python -m engines.vllm_server FLAGS

Nothing of it is changed. What vLLM's scheduler takes in and what becomes of it is told on stdout,
as a stand-in tells it. The scheduler lives in a process that vLLM spawns, with this module as its
main one: its words come through the pipe that ENGINE_EVENTS names.
"""

import json
import multiprocessing
import os
import runpy
import threading
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from engines.standin import events

# Open for reading and writing: no end of it is ever the last, and nobody waits for the other.
PIPE = os.open(os.environ["ENGINE_EVENTS"], os.O_RDWR)


def tell(event: str, request: Any) -> None:
    os.write(PIPE, json.dumps({"event": event, "id": request.request_id}).encode() + b"\n")


def watch() -> None:
    """Have the scheduler tell what it does."""
    add, finish, free = Scheduler.add_request, Scheduler.finish_requests, Scheduler._free_request

    def add_request(self: Any, request: Any) -> Any:
        tell("start", request)
        return add(self, request)

    def finish_requests(self: Any, *args: Any, **named: Any) -> Any:
        """Called from outside of the scheduler: a cancelled call, an abort, a stop string."""
        found = finish(self, *args, **named)
        for request in found:
            tell("abort", request)
        return found

    def free_request(self: Any, request: Any, *args: Any, **named: Any) -> Any:
        tell("end", request)
        return free(self, request, *args, **named)

    Scheduler.add_request = add_request
    Scheduler.finish_requests = finish_requests
    Scheduler._free_request = free_request


def relay() -> None:
    out = events()
    with os.fdopen(PIPE, encoding="utf-8", closefd=False) as told:
        for line in iter(told.readline, ""):
            print(line, end="", file=out, flush=True)


if multiprocessing.parent_process() is not None:
    watch()
elif __name__ == "__main__":
    threading.Thread(target=relay, daemon=True).start()
    runpy.run_module("vllm.entrypoints.launchers.grpc_server", run_name="__main__")
