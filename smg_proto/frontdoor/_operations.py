"""What each RPC of smg.v1 does at the gateway: a line of UNARY or STREAMS, some with a function."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import quote

from google.protobuf.message import Message

from smg_proto import __version__
from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading, truncated, unreadable, unsupported
from smg_proto._http.fields import M, Table, read_reply, write_request
from smg_proto._http.mapping import chat, completion, message, others, response
from smg_proto._http.mapping.streams import StreamReader
from smg_proto._http.shapes import JsonObject, as_object, is_list
from smg_proto.errors import SmgError
from smg_proto.frontdoor._calls import Call, path_of, read_answer

# Requests that one RPC of many inputs has in flight at a time.
INPUTS_IN_FLIGHT = 8

Unary = Callable[[Call, Any], Awaitable[Any]]
Streaming = Callable[[Call, Any], AsyncGenerator[Any, None]]
T = TypeVar("T")

# --- Generation ---


def generate_route(request: Any) -> tuple[str, Table[Any], Table[smg.CompletionResponse]]:
    """Completions of token ids have a route of their own."""
    if request.WhichOneof("input_kind") == "prompt_token_ids":
        return "/generate", completion.GENERATE_REQUEST, completion.GENERATE_REPLY
    return "/v1/completions", completion.REQUEST, completion.REPLY


async def complete(call: Call, request: smg.CompletionRequest) -> smg.CompletionResponse:
    path, table, reply = generate_route(request)
    answer = await call.ask("POST", path, write_request(table, request))
    data = answer.json(f"the answer to {path}")
    one = data[0] if is_list(data) and data else data  # of /generate a list of one
    found = read_reply(reply, one, f"the answer to {path}")
    found.model = found.model or request.model
    return found


def stream_complete(
    call: Call, request: smg.CompletionRequest
) -> AsyncGenerator[smg.CompletionEvent, None]:
    path, table, _ = generate_route(request)
    body = write_request(table, request) | {"stream": True}
    if path == "/generate":
        return relay(call, path, body, completion.GenerateChunks(request.model))
    body["stream_options"] = {"include_usage": True}
    return relay(call, path, body, completion.CompletionChunks())


async def relay(
    call: Call, path: str, body: JsonObject, reader: StreamReader[Any]
) -> AsyncGenerator[Any, None]:
    """The events of a stream, as its reader returns them; one without an end is a failure."""
    async with call.listen(path, body) as stream:
        asked = time.monotonic()
        while (batch := await stream.read()) is not None:
            fast = time.monotonic() - asked < call.pace.pause
            for event in reader.read(batch):
                if event.HasField("delta"):
                    call.got_token()
                elif event.HasField("end"):
                    event.end.pipeline.CopyFrom(call.report())
                yield event
            if reader.done:
                stream.finish()
                return
            if fast:
                await call.pace.rest(stream)
            asked = time.monotonic()
    raise truncated("the gateway's stream stopped before its end")


def simple_stream(
    path: str, table: Table[Any], reader: Callable[[], StreamReader[Any]], **more: Any
) -> Streaming:
    """A stream of one route."""

    def run(call: Call, request: Message) -> AsyncGenerator[Any, None]:
        body = write_request(table, request) | {"stream": True} | more
        return relay(call, path, body, reader())

    return run


async def stream_response(
    call: Call, request: smg.CreateResponseRequest
) -> AsyncGenerator[smg.ResponseEvent, None]:
    """A stream that stops may have been cancelled: the stored response tells."""
    body = write_request(response.REQUEST, request) | {"stream": True}
    reader = response.ResponseEvents()
    try:
        async with aclosing(relay(call, "/v1/responses", body, reader)) as events:
            async for event in events:
                yield event
    except SmgError as error:
        if error.reason != "STREAM_TRUNCATED" or not reader.id:
            raise
        end = await _end_if_cancelled(call, reader)
        if end is None:
            raise truncated(error.message, response_id=reader.id) from None
        yield end


async def _end_if_cancelled(
    call: Call, reader: response.ResponseEvents
) -> smg.ResponseEvent | None:
    """The end of a stream whose response somebody has cancelled."""
    try:
        answer = await call.ask("GET", path_of("/v1/responses", reader.id))
        data = as_object(answer.json("the stored response"))
        if data.get("status") != "cancelled":
            return None
        end = reading("the stored response", reader.end_of, data)
    except SmgError:
        return None
    end.end.pipeline.CopyFrom(call.report())
    return end


# --- One request for each input ---


async def embed(call: Call, request: smg.EmbedRequest) -> smg.EmbedResponse:
    body = write_request(others.EMBED_REQUEST, request)
    replies = await _each(call, "/v1/embeddings", body, others.EMBED_REPLY)
    total = smg.EmbedResponse(model=replies[0].model)
    for reply in replies:
        (embedding,) = reply.embeddings
        if request.HasField("dimensions") and len(embedding.values) != request.dimensions:
            raise unsupported(
                f"dimensions: the worker ignores it, and answers with {len(embedding.values)}"
            )
        total.embeddings.append(embedding)
    reading("the usage", _add_usage, total, replies)
    return total


async def classify(call: Call, request: smg.ClassifyRequest) -> smg.ClassifyResponse:
    body = write_request(others.CLASSIFY_REQUEST, request)
    replies = await _each(call, "/v1/classify", body, others.CLASSIFY_REPLY)
    total = smg.ClassifyResponse(model=replies[0].model)
    for reply in replies:
        total.results.extend(reply.results)
    reading("the usage", _add_usage, total, replies)
    return total


async def _each(call: Call, path: str, body: JsonObject, table: Table[M]) -> list[M]:
    """One request for each input: the gateway would join an array into one text."""

    async def one(text: str) -> M:
        answer = await call.ask("POST", path, body | {"input": text})
        data = answer.json(f"the answer to {path}")
        reply = read_reply(table, data, f"the answer to {path}")
        if len(data["data"]) != 1:
            raise unreadable(f"the answer to {path}")
        return reply

    return await _bounded(one, body["input"])


async def _bounded(run: Callable[[str], Awaitable[T]], inputs: list[str]) -> list[T]:
    """The results in the order of the inputs, of which a few are in flight at a time."""
    results: dict[int, T] = {}
    numbered = iter(enumerate(inputs))

    async def take() -> None:
        for number, text in numbered:
            results[number] = await run(text)

    tasks = [asyncio.create_task(take()) for _ in inputs[:INPUTS_IN_FLIGHT]]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(len(inputs))]


def _add_usage(total: Any, replies: Iterable[Any]) -> None:
    for reply in replies:
        if reply.HasField("usage"):
            total.usage.SetInParent()
        for field, number in reply.usage.ListFields():
            setattr(total.usage, field.name, getattr(total.usage, field.name) + number)


# --- Stored responses ---


async def get_response(call: Call, request: smg.GetResponseRequest) -> smg.Response:
    path = path_of("/v1/responses", request.id)
    return read_answer(response.REPLY, await call.ask("GET", path), path)


async def cancel_response(call: Call, request: smg.CancelResponseRequest) -> smg.Response:
    path = path_of("/v1/responses", request.id, "/cancel")
    return read_answer(response.REPLY, await call.ask("POST", path), path)


async def delete_response(
    call: Call, request: smg.DeleteResponseRequest
) -> smg.DeleteResponseResponse:
    await call.ask("DELETE", path_of("/v1/responses", request.id))
    return smg.DeleteResponseResponse()


async def list_input_items(
    call: Call, request: smg.ListResponseInputItemsRequest
) -> smg.ListResponseInputItemsResponse:
    path = path_of("/v1/responses", request.id, "/input_items")
    return read_answer(response.STORED_ITEMS, await call.ask("GET", f"{path}?order=asc"), path)


# --- Models and the gateway itself ---


async def list_models(call: Call, _: smg.ListModelsRequest) -> smg.ListModelsResponse:
    answer = await call.ask("GET", "/v1/models")
    found: smg.ListModelsResponse = read_answer(others.MODEL_LIST, answer, "/v1/models")
    served = await _served(call)
    for model in found.models:
        model.MergeFrom(served.get(model.id, smg.Model()))
    return found


async def get_model(call: Call, request: smg.GetModelRequest) -> smg.Model:
    path = path_of("/v1/models", request.id)
    found: smg.Model = read_answer(others.LISTED_MODEL, await call.ask("GET", path), path)
    found.MergeFrom((await _served(call)).get(found.id, smg.Model()))
    return found


async def _served(call: Call) -> Mapping[str, smg.Model]:
    """What the workers say of their models; nothing where the caller may not ask."""
    try:
        answer = await call.ask("GET", "/workers")
        workers = read_answer(others.WORKER_LIST, answer, "/workers").workers
    except SmgError:
        return {}
    return {model.id: model for worker in reversed(workers) for model in worker.models}


async def get_gateway_info(call: Call, _: smg.GetGatewayInfoRequest) -> smg.GatewayInfo:
    info = smg.GatewayInfo(proto_version=__version__, services=SERVICES)
    try:
        loads = (await call.ask("GET", "/get_loads")).json("the answer to /get_loads")
        info.version = reading("its version", _version, loads)
    except SmgError:
        pass  # not for this caller, or not a gateway
    return info


def _version(loads: Any) -> str:
    version: str = loads["version"]
    return version.removeprefix("smg-")


# --- Workers ---


async def create_worker(call: Call, request: smg.CreateWorkerRequest) -> smg.Worker:
    answer = await call.ask("POST", "/workers", write_request(others.CREATE_WORKER, request))
    accepted = answer.json("the answer to /workers")
    return await _worker(call, reading("the answer to /workers", others.accepted_worker, accepted))


async def get_worker(call: Call, request: smg.GetWorkerRequest) -> smg.Worker:
    return await _worker(call, request.id)


async def update_worker(call: Call, request: smg.UpdateWorkerRequest) -> smg.Worker:
    body = write_request(others.UPDATE_WORKER, request)
    await call.ask("PATCH", path_of("/workers", request.id), body)
    return await _worker(call, request.id)


async def delete_worker(call: Call, request: smg.DeleteWorkerRequest) -> smg.DeleteWorkerResponse:
    await call.ask("DELETE", path_of("/workers", request.id))
    return smg.DeleteWorkerResponse()


async def list_workers(call: Call, request: smg.ListWorkersRequest) -> smg.ListWorkersResponse:
    path = f"/workers?model={quote(request.model, safe='')}" if request.model else "/workers"
    return read_answer(others.WORKER_LIST, await call.ask("GET", path), "/workers")


async def get_loads(call: Call, _: smg.GetWorkerLoadsRequest) -> smg.GetWorkerLoadsResponse:
    return read_answer(others.LOADS, await call.ask("GET", "/get_loads"), "/get_loads")


async def flush_cache(call: Call, _: smg.FlushCacheRequest) -> smg.FlushCacheResponse:
    return read_answer(others.FLUSHED, await call.ask("POST", "/flush_cache"), "/flush_cache")


async def _worker(call: Call, id: str) -> smg.Worker:
    path = path_of("/workers", id)
    data = (await call.ask("GET", path)).json("the worker")
    return reading("the worker", others.read_worker, data)


# --- The table ---


def simple(path: str, table: Table[Any], reply: Table[Any]) -> Unary:
    """An RPC of one route."""

    async def run(call: Call, request: Message) -> Any:
        answer = await call.ask("POST", path, write_request(table, request))
        return read_answer(reply, answer, path)

    return run


UNARY: dict[str, Unary] = {
    "CompletionService.Complete": complete,
    "ChatService.Chat": simple("/v1/chat/completions", chat.REQUEST, chat.REPLY),
    "MessageService.CreateMessage": simple("/v1/messages", message.REQUEST, message.REPLY),
    "MessageService.CountMessageTokens": simple(
        "/v1/messages/count_tokens", message.COUNT_REQUEST, message.COUNT_REPLY
    ),
    "ResponseService.CreateResponse": simple("/v1/responses", response.REQUEST, response.REPLY),
    "ResponseService.GetResponse": get_response,
    "ResponseService.CancelResponse": cancel_response,
    "ResponseService.DeleteResponse": delete_response,
    "ResponseService.ListResponseInputItems": list_input_items,
    "EmbeddingService.Embed": embed,
    "EmbeddingService.Classify": classify,
    "EmbeddingService.Rerank": simple("/rerank", others.RERANK_REQUEST, others.RERANK_REPLY),
    "TokenizerService.Tokenize": simple(
        "/v1/tokenize", others.TOKENIZE_REQUEST, others.TOKENIZE_REPLY
    ),
    "TokenizerService.Detokenize": simple(
        "/v1/detokenize", others.DETOKENIZE_REQUEST, others.DETOKENIZE_REPLY
    ),
    "ModelService.ListModels": list_models,
    "ModelService.GetModel": get_model,
    "GatewayService.GetGatewayInfo": get_gateway_info,
    "ParserService.ParseReasoning": simple(
        "/parse/reasoning", others.PARSE_REASONING_REQUEST, others.PARSE_REASONING_REPLY
    ),
    "ParserService.ParseToolCalls": simple(
        "/parse/function_call", others.PARSE_CALLS_REQUEST, others.PARSE_CALLS_REPLY
    ),
    "WorkerService.CreateWorker": create_worker,
    "WorkerService.GetWorker": get_worker,
    "WorkerService.ListWorkers": list_workers,
    "WorkerService.UpdateWorker": update_worker,
    "WorkerService.DeleteWorker": delete_worker,
    "WorkerService.GetWorkerLoads": get_loads,
    "WorkerService.FlushCache": flush_cache,
}
STREAMS: dict[str, Streaming] = {
    "CompletionService.StreamComplete": stream_complete,
    "ChatService.StreamChat": simple_stream(
        "/v1/chat/completions",
        chat.REQUEST,
        chat.ChatChunks,
        stream_options={"include_usage": True},
    ),
    "MessageService.StreamMessage": simple_stream(
        "/v1/messages", message.REQUEST, message.MessageEvents
    ),
    "ResponseService.StreamResponse": stream_response,
}
SERVICES = tuple(sorted({f"smg.v1.{name.partition('.')[0]}" for name in UNARY}))
