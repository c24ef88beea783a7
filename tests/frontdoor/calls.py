"""A valid request for each RPC, and how to make it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.errors import SmgError, from_rpc_error

USER = smg.ChatMessage(role=smg.ROLE_USER, content="a")
TURN = smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text="a")])

TEXT = smg.EmbedInput(text="a")
ITEM = smg.ResponseItem(message=smg.ItemMessage(role=smg.ROLE_USER, content="a"))

REQUESTS: dict[str, Any] = {
    "CompletionService.Complete": smg.CompletionRequest(model="demo-model", prompt="a"),
    "ChatService.Chat": smg.ChatRequest(model="demo-model", messages=[USER]),
    "MessageService.CreateMessage": smg.CreateMessageRequest(
        model="demo-model", turns=[TURN], max_tokens=9
    ),
    "ResponseService.CreateResponse": smg.CreateResponseRequest(model="demo-model", input="a"),
    "EmbeddingService.Embed": smg.EmbedRequest(model="demo-model", inputs=[TEXT]),
    "EmbeddingService.Classify": smg.ClassifyRequest(model="demo-model", inputs=[TEXT]),
    "EmbeddingService.Rerank": smg.RerankRequest(
        model="m", query="a", documents=[smg.RerankDocument(text="b")]
    ),
    "TokenizerService.Tokenize": smg.TokenizeRequest(model="m", texts=["a"]),
    "TokenizerService.Detokenize": smg.DetokenizeRequest(
        model="m", sequences=[smg.TokenIds(ids=[1])]
    ),
    "TokenizerService.ListTokenizers": smg.ListTokenizersRequest(),
    "TokenizerService.GetTokenizer": smg.GetTokenizerRequest(id="a"),
    "TokenizerService.GetTokenizerStatus": smg.GetTokenizerStatusRequest(id="a"),
    "TokenizerService.CreateTokenizer": smg.CreateTokenizerRequest(name="a", source="org/a"),
    "TokenizerService.DeleteTokenizer": smg.DeleteTokenizerRequest(id="a"),
    "ModelService.ListModels": smg.ListModelsRequest(),
    "ModelService.GetModel": smg.GetModelRequest(id="a"),
    "GatewayService.GetGatewayInfo": smg.GetGatewayInfoRequest(),
    "ParserService.ParseReasoning": smg.ParseReasoningRequest(text="a", parser="p"),
    "ParserService.ParseToolCalls": smg.ParseToolCallsRequest(text="a", parser="p"),
    "WorkerService.CreateWorker": smg.CreateWorkerRequest(spec=smg.WorkerSpec(url="grpc://a:1")),
    "WorkerService.GetWorker": smg.GetWorkerRequest(id="a"),
    "WorkerService.ListWorkers": smg.ListWorkersRequest(),
    "WorkerService.UpdateWorker": smg.UpdateWorkerRequest(id="a", priority=1),
    "WorkerService.ReplaceWorker": smg.ReplaceWorkerRequest(
        id="a", spec=smg.WorkerSpec(url="grpc://a:1")
    ),
    "WorkerService.DeleteWorker": smg.DeleteWorkerRequest(id="a"),
    "WorkerService.GetWorkerLoads": smg.GetWorkerLoadsRequest(),
    "WorkerService.FlushCache": smg.FlushCacheRequest(),
    "ConversationService.CreateConversation": smg.CreateConversationRequest(),
    "ConversationService.GetConversation": smg.GetConversationRequest(id="conv_1"),
    "ConversationService.UpdateConversation": smg.UpdateConversationRequest(id="conv_1"),
    "ConversationService.DeleteConversation": smg.DeleteConversationRequest(id="conv_1"),
    "ConversationService.ListConversationItems": smg.ListConversationItemsRequest(id="conv_1"),
    "ConversationService.CreateConversationItems": smg.CreateConversationItemsRequest(
        id="conv_1", items=[ITEM]
    ),
    "ConversationService.GetConversationItem": smg.GetConversationItemRequest(
        id="conv_1", item_id="msg_1"
    ),
    "ConversationService.DeleteConversationItem": smg.DeleteConversationItemRequest(
        id="conv_1", item_id="msg_1"
    ),
    "AudioService.Transcribe": smg.TranscribeRequest(model="m", audio=b"RIFF"),
    "RealtimeService.CreateRealtimeSession": smg.CreateRealtimeSessionRequest(model="m"),
    "RealtimeService.CreateTranscriptionSession": smg.CreateTranscriptionSessionRequest(model="m"),
    "RealtimeService.CreateClientSecret": smg.CreateClientSecretRequest(model="m"),
    "DecisionService.Decide": smg.DecideRequest(
        model="m",
        input="a",
        questions=[
            smg.DecisionQuestion(instructions="Is it?", predicate=smg.DecisionPredicate()),
        ],
    ),
    "EngineService.GetServerInfo": smg.GetServerInfoRequest(),
    "EngineService.GetModelInfo": smg.GetModelInfoRequest(),
    "EngineService.CheckGeneration": smg.CheckGenerationRequest(),
    "EngineService.GetEngineMetrics": smg.GetEngineMetricsRequest(),
    "EngineService.StartProfile": smg.StartProfileRequest(),
    "EngineService.StopProfile": smg.StopProfileRequest(),
}
for _id_call in ("GetResponse", "CancelResponse", "DeleteResponse", "ListResponseInputItems"):
    REQUESTS[f"ResponseService.{_id_call}"] = getattr(smg, f"{_id_call}Request")(id="resp_1")
REQUESTS["MessageService.CountMessageTokens"] = REQUESTS["MessageService.CreateMessage"]
STREAMS = {
    "CompletionService.StreamComplete": REQUESTS["CompletionService.Complete"],
    "ChatService.StreamChat": REQUESTS["ChatService.Chat"],
    "MessageService.StreamMessage": REQUESTS["MessageService.CreateMessage"],
    "ResponseService.StreamResponse": REQUESTS["ResponseService.CreateResponse"],
    "ResponseService.WatchResponse": smg.WatchResponseRequest(id="resp_1"),
    "WorkerService.WatchWorkers": smg.WatchWorkersRequest(),
    "AudioService.StreamTranscribe": REQUESTS["AudioService.Transcribe"],
}
# RPCs in which both sides stream: what a client sends.
CONVERSATIONS: dict[str, list[Any]] = {
    "RealtimeService.Converse": [
        smg.RealtimeClientEvent(connect=smg.RealtimeConnect(model="m")),
        smg.RealtimeClientEvent(event_json='{"type":"response.create"}'),
    ]
}
# Streams that the gateway has as server-sent events, and that it ends itself.
GENERATED = [
    "CompletionService.StreamComplete",
    "ChatService.StreamChat",
    "MessageService.StreamMessage",
    "ResponseService.StreamResponse",
]


def stub(channel: grpc.aio.Channel, name: str) -> Any:
    """The RPC of this name: "ChatService.Chat"."""
    service, _, method = name.partition(".")
    return getattr(getattr(rpc, f"{service}Stub")(channel), method)


async def call(channel: grpc.aio.Channel, name: str, request: Any = None) -> Any:
    """The reply; of a stream the list of events, without an end those that it begins with."""
    if name in CONVERSATIONS:
        return await _converse(channel, name, request or CONVERSATIONS[name])
    if name in STREAMS:
        events: list[Any] = []
        async for event in stub(channel, name)(request or STREAMS[name]):
            events.append(event)
            if event.WhichOneof("event") == "ready":
                break
        return events
    return await stub(channel, name)(request or REQUESTS[name])


async def _converse(channel: grpc.aio.Channel, name: str, requests: list[Any]) -> list[Any]:
    """What comes back while the client goes on listening."""
    over = asyncio.Event()

    async def output() -> AsyncIterator[Any]:
        for each in requests:
            yield each
        await over.wait()

    try:
        return [event async for event in stub(channel, name)(output())]
    finally:
        over.set()


async def failure(channel: grpc.aio.Channel, name: str, request: Any = None) -> SmgError:
    """The status of a call that must fail."""
    try:
        reply = await call(channel, name, request)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"{name} went well: {reply}")
