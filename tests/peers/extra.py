"""What each extra is for, done once: python -m peers.extra NAME, in an environment that has it."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc


def client() -> None:
    from smg_proto.sagellm import SamplingParams
    from smg_proto.testing import run_vllm_engine
    from smg_proto.vllm import VLLMGrpcClient

    with run_vllm_engine() as address, VLLMGrpcClient(target=address) as client:
        assert client.completions.create(prompt="x", max_tokens=3).choices[0].token_ids
    assert SamplingParams(temperature=0.5).temperature == 0.5


def decode() -> None:
    from smg_proto.testing import run_vllm_engine
    from smg_proto.vllm import VLLMGrpcClient

    with run_vllm_engine() as address, VLLMGrpcClient(target=address) as client:
        text = client.completions.create(prompt="One contract", max_tokens=3).choices[0].text
        assert text
        assert text.strip()


def chat() -> None:
    from smg_proto.testing import run_vllm_engine
    from smg_proto.vllm import VLLMGrpcClient

    messages = [{"role": "user", "content": "One contract"}]
    with run_vllm_engine() as address, VLLMGrpcClient(target=address) as client:
        reply = client.chat.completions.create(messages=messages, max_tokens=3)
        assert reply.choices[0].message.content


def telemetry() -> None:
    from opentelemetry import trace

    sent: list[str] = []

    class Tracers(trace.TracerProvider):
        def get_tracer(self, *words: Any, **more: Any) -> trace.Tracer:
            sent.append(words[0])
            return trace.NoOpTracer()

    trace.set_tracer_provider(Tracers())
    client()
    assert sent


def demo() -> None:
    command = [sys.executable, "-m", "smg_proto", "demo", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            output = next(line for line in server.stdout if "listening on " in line)
            with grpc.insecure_channel(re.split("listening on |,", output)[1]) as channel:
                request = smg_pb2.CompletionRequest(model="demo-model", prompt="x", max_tokens=3)
                assert smg_pb2_grpc.CompletionServiceStub(channel).Complete(request).text
        finally:
            server.terminate()


def serve() -> None:
    asyncio.run(_serve())


async def _serve() -> None:
    from aiohttp import web

    from smg_proto.frontdoor import FrontDoor, Options

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    application = web.Application()
    application.router.add_get("/v1/models", models)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with (
        FrontDoor(Options(upstream, "127.0.0.1:0")) as door,
        grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel,
    ):
        listed = await smg_pb2_grpc.ModelServiceStub(channel).ListModels(
            smg_pb2.ListModelsRequest()
        )
        assert [model.id for model in listed.models] == ["m"]
    await runner.cleanup()


def generate() -> None:
    from smg_proto.cli import main

    with tempfile.TemporaryDirectory() as folder:
        for name in ("protoc-gen-go", "protoc-gen-go-grpc"):  # plugins that write no file
            path = Path(folder, name)
            version = f'[ "$1" = --version ] && echo {name} 1.99.0 && exit 0'
            path.write_text(f"#!/bin/sh\n{version}\ncat >/dev/null\n", encoding="utf-8")
            path.chmod(0o755)
        os.environ["PATH"] = os.pathsep.join([folder, os.environ["PATH"]])
        assert main(["generate", "--lang", "go", "--out", f"{folder}/out"]) == 0
        assert Path(folder, "out", "go.mod").exists()


def types() -> None:
    """Nothing at run time; tests/test_typing.py has type checkers use them."""


if __name__ == "__main__":
    globals()[sys.argv[1]]()
