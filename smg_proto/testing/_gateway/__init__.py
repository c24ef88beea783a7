"""FakeGateway: all services of `smg.v1` over the built-in model."""

from collections.abc import Collection

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from smg_proto import smg_pb2_grpc
from smg_proto.testing._gateway.admin import GatewayService, ModelService, WorkerService
from smg_proto.testing._gateway.chat import ChatService
from smg_proto.testing._gateway.completion import CompletionService
from smg_proto.testing._gateway.conversation_service import ConversationService
from smg_proto.testing._gateway.core import Core, Failed, set_now
from smg_proto.testing._gateway.media import (
    AudioService,
    DecisionService,
    EngineService,
    RealtimeService,
)
from smg_proto.testing._gateway.message import MessageService
from smg_proto.testing._gateway.response import ResponseService
from smg_proto.testing._gateway.texts import EmbeddingService, ParserService, TokenizerService
from smg_proto.testing._scripting import Record, Script

_NAMES = (
    *("Completion", "Chat", "Message", "Response", "Embedding"),
    *("Tokenizer", "Model", "Gateway", "Parser", "Worker"),
    *("Conversation", "Audio", "Realtime", "Decision", "Engine"),
)


class FakeGateway:
    """A gateway for tests: `script` sets answers and faults, `record` has requests and counters.

    `token_delay` is the seconds between two tokens, and `media` the kinds of media that the model
    supports: "image", "audio", "video". Use run_gateway(), or add it to your own grpc.aio server
    with `add_to_server`.
    """

    def __init__(
        self, *, token_delay: float = 0.0, media: Collection[str] = ("image", "audio")
    ) -> None:
        self._core = Core(token_delay, media)

    @property
    def script(self) -> Script:
        return self._core.script

    @property
    def record(self) -> Record:
        return self._core.record

    @property
    def token_delay(self) -> float:
        return self._core.token_delay

    @token_delay.setter
    def token_delay(self, seconds: float) -> None:
        self._core.token_delay = seconds

    def fail_worker(self, url: str, message: str) -> None:
        """Make the worker at this URL fail: now, or when it is added."""
        failed = Failed(message, Timestamp())
        set_now(failed.time)
        self._core.workers.failed[url] = failed
        self._core.workers.changed()

    def recover_worker(self, url: str) -> None:
        """Make a failed worker ready again."""
        self._core.workers.failed.pop(url, None)
        self._core.workers.changed()

    @property
    def services(self) -> list[str]:
        """Full names of the services."""
        return [f"smg.v1.{name}Service" for name in _NAMES]

    def add_to_server(self, server: grpc.aio.Server) -> None:
        core = self._core
        add = smg_pb2_grpc
        add.add_CompletionServiceServicer_to_server(CompletionService(core), server)
        add.add_ChatServiceServicer_to_server(ChatService(core), server)
        add.add_MessageServiceServicer_to_server(MessageService(core), server)
        add.add_ResponseServiceServicer_to_server(ResponseService(core), server)
        add.add_EmbeddingServiceServicer_to_server(EmbeddingService(core), server)
        add.add_TokenizerServiceServicer_to_server(TokenizerService(core), server)
        add.add_ModelServiceServicer_to_server(ModelService(core), server)
        add.add_GatewayServiceServicer_to_server(GatewayService(core, self.services), server)
        add.add_ParserServiceServicer_to_server(ParserService(core), server)
        add.add_WorkerServiceServicer_to_server(WorkerService(core), server)
        add.add_ConversationServiceServicer_to_server(ConversationService(core), server)
        add.add_AudioServiceServicer_to_server(AudioService(core), server)
        add.add_RealtimeServiceServicer_to_server(RealtimeService(core), server)
        add.add_DecisionServiceServicer_to_server(DecisionService(core), server)
        add.add_EngineServiceServicer_to_server(EngineService(core), server)
