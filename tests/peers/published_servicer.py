"""The published smg-grpc-servicer's vLLM servicer, unmodified, over a fake engine, as a process.

    cd tests && PYTHON -m peers.published_servicer MODEL_FOLDER [--delta N] [--interval SECONDS]
                                                   [--events FILE]

PYTHON is of an environment with smg-grpc-servicer, msgspec, and either this project's wheel or a
published smg-grpc-proto; vLLM is not needed (`peers.start` makes such environments).

Prints one line of JSON, {"port": …}, when it serves on 127.0.0.1; ends when its standard input
does. MODEL_FOLDER is made with a byte tokenizer if it is not there. What the engine is asked and
how it ends goes to FILE, a line of JSON each.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from peers import vllm_modules

vllm_modules.install()

from smg_grpc_servicer.vllm.health_servicer import VllmHealthServicer  # noqa: E402
from smg_grpc_servicer.vllm.servicer import VllmEngineServicer  # noqa: E402

import smg_grpc_proto  # noqa: E402
from peers.fake_engine import FakeEngine  # noqa: E402
from peers.fake_model import write_tokenizer  # noqa: E402
from smg_grpc_proto import vllm_engine_pb2_grpc  # noqa: E402

SERVICE = "vllm.grpc.engine.VllmEngine"


async def serve(model: Path, delta: int, interval: float, events: Path | None) -> None:
    def event(name: str, **what: object) -> None:
        if events:
            with events.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"event": name, **what}, default=_plain) + "\n")

    engine = FakeEngine(model, delta, interval, event)
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    servicer = VllmEngineServicer(engine, start_time=time.time())
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(VllmHealthServicer(engine), server)
    reflection.enable_server_reflection([SERVICE, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port, "smg_grpc_proto": smg_grpc_proto.__version__}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(grace=None)


def _plain(value: object) -> object:
    """Parameters as JSON: enums by name, parameter objects as what they were given."""
    return getattr(value, "given", None) or getattr(value, "name", None) or repr(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--delta", type=int, default=2, help="tokens that a chunk brings")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds before each chunk")
    parser.add_argument("--events", type=Path, help="where to tell what the engine was asked")
    args = parser.parse_args()
    if not args.model.exists():
        write_tokenizer(args.model)
    asyncio.run(serve(args.model, args.delta, args.interval, args.events))


if __name__ == "__main__":
    main()
