"""The published vLLM server with real vLLM, and what it did: python -m engines.vllm_server FLAGS

Nothing of it is changed. vLLM's own HTTP server serves the same engine on port ENGINE_HTTP.

What vLLM's scheduler takes in and what becomes of it is told on stdout, as a stand-in tells it. The
scheduler lives in a process that vLLM spawns, with this module as its main one: its words come
through the pipe that ENGINE_EVENTS names.
"""

import asyncio
import json
import os
import runpy
import sys
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


async def serve_http(engine: Any) -> None:
    # Only in the process that serves: those that vLLM spawns need none of it.
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.launchers.launcher import NoSignalServer
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    config = uvicorn.Config(app, host=args.host, port=int(os.environ["ENGINE_HTTP"]))
    await NoSignalServer(config).serve()


def add_http() -> None:
    """Have the engine that is made for gRPC serve HTTP too."""
    from vllm.v1.engine.async_llm import AsyncLLM

    make = AsyncLLM.from_vllm_config

    def from_vllm_config(**named: Any) -> Any:
        engine = make(**named)
        engine.http = asyncio.create_task(serve_http(engine))
        return engine

    AsyncLLM.from_vllm_config = from_vllm_config


def relay() -> None:
    out = events()
    with os.fdopen(PIPE, encoding="utf-8", closefd=False) as result:
        for line in iter(result.readline, ""):
            print(line, end="", file=out, flush=True)


if __name__ == "__mp_main__":  # in a process that vLLM spawned
    watch()
elif __name__ == "__main__":
    threading.Thread(target=relay, daemon=True).start()
    add_http()
    runpy.run_module("vllm.entrypoints.launchers.grpc_server", run_name="__main__")
