"""A valid request for each RPC, and how to make it."""

from typing import Any

import grpc

from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.errors import SmgError, from_rpc_error

USER = smg.ChatMessage(role=smg.ROLE_USER, content="a")
TURN = smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text="a")])

REQUESTS: dict[str, Any] = {
    "CompletionService.Complete": smg.CompletionRequest(model="demo-model", prompt="a"),
    "ChatService.Chat": smg.ChatRequest(model="demo-model", messages=[USER]),
    "MessageService.CreateMessage": smg.CreateMessageRequest(
        model="demo-model", turns=[TURN], max_tokens=9
    ),
    "ResponseService.CreateResponse": smg.CreateResponseRequest(model="demo-model", input="a"),
    "EmbeddingService.Embed": smg.EmbedRequest(model="demo-model", inputs=["a"]),
    "EmbeddingService.Classify": smg.ClassifyRequest(model="demo-model", inputs=["a"]),
    "EmbeddingService.Rerank": smg.RerankRequest(model="m", query="a", documents=["b"]),
    "TokenizerService.Tokenize": smg.TokenizeRequest(model="m", texts=["a"]),
    "TokenizerService.Detokenize": smg.DetokenizeRequest(
        model="m", sequences=[smg.TokenIds(ids=[1])]
    ),
    "ModelService.ListModels": smg.ListModelsRequest(),
    "ModelService.GetModel": smg.GetModelRequest(id="a"),
    "GatewayService.GetGatewayInfo": smg.GetGatewayInfoRequest(),
    "ParserService.ParseReasoning": smg.ParseReasoningRequest(text="a", parser="p"),
    "ParserService.ParseToolCalls": smg.ParseToolCallsRequest(text="a", parser="p"),
    "WorkerService.CreateWorker": smg.CreateWorkerRequest(spec=smg.WorkerSpec(url="grpc://a:1")),
    "WorkerService.GetWorker": smg.GetWorkerRequest(id="a"),
    "WorkerService.ListWorkers": smg.ListWorkersRequest(),
    "WorkerService.UpdateWorker": smg.UpdateWorkerRequest(id="a", priority=1),
    "WorkerService.DeleteWorker": smg.DeleteWorkerRequest(id="a"),
    "WorkerService.GetWorkerLoads": smg.GetWorkerLoadsRequest(),
    "WorkerService.FlushCache": smg.FlushCacheRequest(),
}
for _id_call in ("GetResponse", "CancelResponse", "DeleteResponse", "ListResponseInputItems"):
    REQUESTS[f"ResponseService.{_id_call}"] = getattr(smg, f"{_id_call}Request")(id="resp_1")
REQUESTS["MessageService.CountMessageTokens"] = REQUESTS["MessageService.CreateMessage"]
STREAMS = {
    "CompletionService.StreamComplete": REQUESTS["CompletionService.Complete"],
    "ChatService.StreamChat": REQUESTS["ChatService.Chat"],
    "MessageService.StreamMessage": REQUESTS["MessageService.CreateMessage"],
    "ResponseService.StreamResponse": REQUESTS["ResponseService.CreateResponse"],
}


def stub(channel: grpc.aio.Channel, name: str) -> Any:
    """The RPC of this name: "ChatService.Chat"."""
    service, _, method = name.partition(".")
    return getattr(getattr(rpc, f"{service}Stub")(channel), method)


async def call(channel: grpc.aio.Channel, name: str, request: Any = None) -> Any:
    """The reply; of a stream the list of events."""
    if name in STREAMS:
        return [event async for event in stub(channel, name)(request or STREAMS[name])]
    return await stub(channel, name)(request or REQUESTS[name])


async def failure(channel: grpc.aio.Channel, name: str, request: Any = None) -> SmgError:
    """The status of a call that must fail."""
    try:
        reply = await call(channel, name, request)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"{name} went well: {reply}")
