"""LLMService of `entity.grpc`, with a backend of your choice.

    from smg_proto import llm_pb2_grpc
    from smg_proto.llm import LLMService

    server = grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(), server)

`LLMService()` echoes the prompt. Pass an async function that yields text, or one of the backends:
`EngineBackend`, `OpenAIBackend` (extra `serve`), `VLLMBackend` (extras `client` and `decode`),
`Failover`.
`LLMService` is for `grpc.aio.server` and `SyncLLMService` for `grpc.server`; `LLMGRPCAdapter` is a
complete server.
"""

from smg_proto.llm._adapter import AdapterConfig, LLMGRPCAdapter
from smg_proto.llm._backends import Backend, EchoBackend, Failover, FunctionBackend, Piece
from smg_proto.llm._engines import EngineBackend, OpenAIBackend, VLLMBackend
from smg_proto.llm._service import LLMService, SyncLLMService

__all__ = [
    "AdapterConfig",
    "Backend",
    "EchoBackend",
    "EngineBackend",
    "Failover",
    "FunctionBackend",
    "LLMGRPCAdapter",
    "LLMService",
    "OpenAIBackend",
    "Piece",
    "SyncLLMService",
    "VLLMBackend",
]
