"""The server behind smg-proto demo: all that is embedded here, with health and reflection."""

import asyncio
import signal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from smg_proto.testing import FakeGateway, FakeVllmEngine
from smg_proto.testing._llm import FakeLLM
from smg_proto.testing._model import MODEL_NAME

_LLM = "entity.grpc.LLMService"
_ENGINE = "vllm.grpc.engine.VllmEngine"
_GRACE = 1.0  # seconds for calls still at work

_TRY = """\
python -c 'import grpc; from smg_proto import smg_pb2, smg_pb2_grpc; \
print(smg_pb2_grpc.CompletionServiceStub(grpc.insecure_channel("{address}")).Complete(\
smg_pb2.CompletionRequest(model="{model}", prompt="One contract")).text)'"""
_TRY_ENGINE = """\
python -c 'import grpc; from smg_proto import vllm_engine_pb2, vllm_engine_pb2_grpc; \
print(vllm_engine_pb2_grpc.VllmEngineStub(grpc.insecure_channel("{address}")).GetModelInfo(\
vllm_engine_pb2.GetModelInfoRequest()))'"""


async def serve(listen: str, token_delay: float, *, engine_only: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    # Without this option a second server could share the port, and get half of the calls.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    FakeVllmEngine(token_delay=token_delay).add_to_server(server)
    services = [_ENGINE]
    if not engine_only:
        gateway = FakeGateway(token_delay=token_delay)
        gateway.add_to_server(server)
        FakeLLM(token_delay=token_delay).add_to_server(server)
        services = [*gateway.services, _LLM, _ENGINE]
    healthy = await _add_health(server, services)
    services += [health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(services, server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {listen}: {error}") from None
    stopping = _on_signals()
    await server.start()
    _announce(f"{listen.rpartition(':')[0]}:{port}", services, _TRY_ENGINE if engine_only else _TRY)
    await stopping.wait()
    print("smg-proto demo: stopping", flush=True)
    await healthy.enter_graceful_shutdown()
    await server.stop(_GRACE)


async def _add_health(server: grpc.aio.Server, services: list[str]) -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    for name in ("", "liveness", "readiness", *services):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def _announce(address: str, services: list[str], line: str) -> None:
    print(f"smg-proto demo: listening on {address}, model {MODEL_NAME}")
    packages: dict[str, list[str]] = {}
    for service in services:
        package, _, name = service.rpartition(".")
        packages.setdefault(package, []).append(name)
    for package, names in packages.items():
        print(f"  {package}: {', '.join(names)}")
    print("Try, in another terminal:")
    print(line.format(address=address, model=MODEL_NAME), flush=True)


def _on_signals() -> asyncio.Event:
    """An event that Ctrl-C and SIGTERM set."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, event.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda _, __: loop.call_soon_threadsafe(event.set) and None)
    return event
