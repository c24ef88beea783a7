"""The server behind smg-proto demo: every fake of this package in one server."""

from smg_proto import llm_pb2_grpc
from smg_proto._serving import health, reflection
from smg_proto._serving.address import Address
from smg_proto._serving.process import serve_until_shutdown, shutdown_by_signal
from smg_proto._serving.server import Server
from smg_proto.llm import LLMService
from smg_proto.testing import FakeGateway, FakeVllmEngine
from smg_proto.testing._llm import ModelBackend
from smg_proto.testing._model import MODEL_NAME

_LLM = "entity.grpc.LLMService"
_DRAIN_SECONDS = 1.0

_TRY = """\
python -c 'import grpc; from smg_proto import smg_pb2, smg_pb2_grpc; \
print(smg_pb2_grpc.CompletionServiceStub(grpc.insecure_channel("{address}")).Complete(\
smg_pb2.CompletionRequest(model="{model}", prompt="One contract")).text)'"""
_TRY_ENGINE = """\
python -c 'import grpc; from smg_proto import vllm_engine_pb2, vllm_engine_pb2_grpc; \
print(vllm_engine_pb2_grpc.VllmEngineStub(grpc.insecure_channel("{address}")).GetModelInfo(\
vllm_engine_pb2.GetModelInfoRequest()))'"""


async def serve(address: Address, token_delay: float, *, engine_only: bool) -> None:
    """Serve until SIGINT or SIGTERM. OSError: the address is not available."""
    engine = FakeVllmEngine(token_delay=token_delay)
    gateway = FakeGateway(token_delay=token_delay)
    services = [*engine.services] if engine_only else [*gateway.services, _LLM, *engine.services]
    server = Server(address, services)
    engine.add_to_server(server.grpc)
    if not engine_only:
        gateway.add_to_server(server.grpc)
        service = LLMService(ModelBackend(token_delay=token_delay))
        llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server.grpc)
    async with shutdown_by_signal() as shutdown:
        await serve_until_shutdown(
            server.start,
            lambda grace: server.stop(_DRAIN_SECONDS if grace is None else grace),
            shutdown,
            started=lambda: _announce(server, services, _TRY_ENGINE if engine_only else _TRY),
            stopping=lambda: print("smg-proto demo: stopping", flush=True),
        )


def _announce(server: Server, services: list[str], line: str) -> None:
    print(f"smg-proto demo: listening on {server.address}, model {MODEL_NAME}")
    packages: dict[str, list[str]] = {}
    for service in (*services, health.SERVICE, *reflection.SERVICES):
        package, _, name = service.rpartition(".")
        packages.setdefault(package, []).append(name)
    for package, names in packages.items():
        print(f"  {package}: {', '.join(names)}")
    print("Try, in another terminal:")
    print(line.format(address=server.address, model=MODEL_NAME), flush=True)
