"""What there is: models, the gateway, its workers, their engines, and its tokenizers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

from smg_proto import __version__
from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading
from smg_proto._http.fields import Table, read_reply, read_whole, write_request
from smg_proto._http.mapping import others
from smg_proto._http.shapes import as_object, is_object, parse, to_text
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.frontdoor._calls import Call, path_of, read_answer
from smg_proto.frontdoor._routes import Streaming, Unary

# Full names of all services of the front door; the table of operations fills it.
SERVICES: list[str] = []
# What the front door can do beyond the least that the contract asks for.
FEATURES = (
    "chat.token_ids",
    "complete.choices",
    "embed.allow_partial",
    "extra_body_json",
    "idempotency_key",
    "response.watch",
    "tokenize.pieces",
    "worker.watch",
)
_WATCH_SECONDS = 1.0

# --- Models and the gateway itself ---


async def list_models(call: Call, request: smg.ListModelsRequest) -> smg.ListModelsResponse:
    try:
        answer = await call.ask("GET", "/v1/models")
    except SmgError as error:
        if error.metadata.get("http_status") != "503":
            raise
        found = smg.ListModelsResponse()  # the gateway is there, and has no model yet
    else:
        found = read_answer(others.MODEL_LIST, answer, "/v1/models")
    models, following = page(found.models, request.page_size, request.page_token)
    reply = smg.ListModelsResponse(models=models, next_page_token=following)
    if models:
        served = await _served(call)
        for model in reply.models:
            model.MergeFrom(served.get(model.id, smg.Model()))
    return reply


async def get_model(call: Call, request: smg.GetModelRequest) -> smg.Model:
    path = path_of("/v1/models", request.id)
    found: smg.Model = read_answer(others.LISTED_MODEL, await call.ask("GET", path), path)
    found.MergeFrom((await _served(call)).get(found.id, smg.Model()))
    return found


async def _served(call: Call) -> Mapping[str, smg.Model]:
    """What the workers say of their models; nothing where the caller may not ask."""
    try:
        workers = await _workers(call)
    except SmgError:
        return {}
    return {model.id: model for worker in reversed(workers) for model in worker.models}


async def get_gateway_info(call: Call, _: smg.GetGatewayInfoRequest) -> smg.GatewayInfo:
    info = smg.GatewayInfo(
        proto_version=__version__,
        services=SERVICES,
        features=FEATURES,
        max_request_bytes=call.limits.max_request,
        max_active_requests=call.limits.max_active,
    )
    try:
        loads = (await call.ask("GET", "/loads")).json("the answer to /loads")
        info.version = version_of(loads)
    except SmgError:
        pass  # not for this caller, or not a gateway
    return info


def version_of(loads: Any) -> str:
    """The gateway's version, as it says beside the loads."""
    return reading("its version", _version, loads)


def _version(loads: Any) -> str:
    version: str = loads["version"]
    return version.removeprefix("smg-")


# --- Workers ---


async def create_worker(call: Call, request: smg.CreateWorkerRequest) -> smg.Worker:
    body = write_request(others.CREATE_WORKER, request)

    async def create() -> str:
        accepted = (await call.ask("POST", "/workers", body)).json("the answer to /workers")
        return read_whole(others.accepted_worker, accepted, "the answer to /workers")

    return await _worker(call, await call.once(request.idempotency_key, create))


async def get_worker(call: Call, request: smg.GetWorkerRequest) -> smg.Worker:
    return await _worker(call, request.id)


async def update_worker(call: Call, request: smg.UpdateWorkerRequest) -> smg.Worker:
    body = write_request(others.UPDATE_WORKER, request)
    path = path_of("/workers", request.id)
    if request.remove_labels:  # a change only adds, so the worker gets all its settings anew
        if not request.HasField("api_key"):  # which no gateway tells
            why = "is required with remove_labels: the worker's key, or empty if it has none"
            raise invalid(FieldViolation("api_key", why))
        spec = (await _worker(call, request.id)).spec
        for name in request.remove_labels:
            spec.labels.pop(name, None)
        replaced = smg.ReplaceWorkerRequest(id=request.id, spec=spec)
        settings = write_request(others.REPLACE_WORKER, replaced)
        labels = {**settings.get("labels", {}), **body.pop("labels", {})}
        await call.ask("PUT", path, {**settings, **body, "labels": labels})
    else:
        await call.ask("PATCH", path, body)
    return await _worker(call, request.id)


async def replace_worker(call: Call, request: smg.ReplaceWorkerRequest) -> smg.Worker:
    body = write_request(others.REPLACE_WORKER, request)
    await call.ask("PUT", path_of("/workers", request.id), body)
    return await _worker(call, request.id)


async def delete_worker(call: Call, request: smg.DeleteWorkerRequest) -> smg.DeleteWorkerResponse:
    await call.ask("DELETE", path_of("/workers", request.id))
    return smg.DeleteWorkerResponse()


async def list_workers(call: Call, request: smg.ListWorkersRequest) -> smg.ListWorkersResponse:
    found = await _workers(call, request.model)
    workers, following = page(found, request.page_size, request.page_token)
    return smg.ListWorkersResponse(workers=workers, next_page_token=following)


async def watch_workers(
    call: Call, request: smg.WatchWorkersRequest
) -> AsyncGenerator[smg.WorkerEvent, None]:
    known: dict[str, smg.Worker] | None = None
    while True:
        workers = {worker.id: worker for worker in await _workers(call, request.model)}
        before = known or {}
        for id, worker in workers.items():
            if _changed(before.get(id), worker):
                yield smg.WorkerEvent(worker=worker)
        for id in before.keys() - workers.keys():
            yield smg.WorkerEvent(removed_id=id)
        if known is None:
            yield smg.WorkerEvent(ready=smg.WatchReady())
        known = workers
        await asyncio.sleep(_WATCH_SECONDS)


def _changed(before: smg.Worker | None, now: smg.Worker) -> bool:
    """Whether a worker is another than it was, other than in how busy it is."""
    if before is None:
        return True
    same = smg.Worker()
    same.CopyFrom(before)
    same.active_requests = now.active_requests
    return same != now


async def get_loads(call: Call, _: smg.GetWorkerLoadsRequest) -> smg.GetWorkerLoadsResponse:
    found = read_answer(others.LOADS, await call.ask("GET", "/loads"), "/loads")
    await _name_workers(call, found.loads)
    return found


async def flush_cache(call: Call, _: smg.FlushCacheRequest) -> smg.FlushCacheResponse:
    found = read_answer(others.FLUSHED, await call.ask("POST", "/flush_cache"), "/flush_cache")
    await _name_workers(call, found.failures)
    return found


async def _name_workers(call: Call, entries: Any) -> None:
    """Ids for entries that name workers by URL, where the caller may ask for them."""
    if entries:
        try:
            ids = {worker.spec.url: worker.id for worker in await _workers(call)}
        except SmgError:
            return
        for entry in entries:
            entry.worker_id = ids.get(entry.worker_url, "")


async def _workers(call: Call, model: str = "") -> list[smg.Worker]:
    path = f"/workers?model={quote(model, safe='')}" if model else "/workers"
    return list(read_answer(others.WORKER_LIST, await call.ask("GET", path), "/workers").workers)


async def _worker(call: Call, id: str) -> smg.Worker:
    path = path_of("/workers", id)
    data = (await call.ask("GET", path)).json("the worker")
    return read_whole(others.read_worker, data, "the worker")


# --- Tokenizers ---

_TOKENIZERS = "/v1/tokenizers"


async def list_tokenizers(
    call: Call, request: smg.ListTokenizersRequest
) -> smg.ListTokenizersResponse:
    found = read_answer(others.TOKENIZER_LIST, await call.ask("GET", _TOKENIZERS), _TOKENIZERS)
    tokenizers, following = page(found.tokenizers, request.page_size, request.page_token)
    return smg.ListTokenizersResponse(tokenizers=tokenizers, next_page_token=following)


async def get_tokenizer(call: Call, request: smg.GetTokenizerRequest) -> smg.Tokenizer:
    path = path_of(_TOKENIZERS, request.id)
    return read_answer(others.TOKENIZER, await call.ask("GET", path), path)


async def get_tokenizer_status(
    call: Call, request: smg.GetTokenizerStatusRequest
) -> smg.TokenizerStatus:
    path = path_of(_TOKENIZERS, request.id, "/status")
    return read_answer(others.TOKENIZER_STATUS, await call.ask("GET", path), path)


async def create_tokenizer(call: Call, request: smg.CreateTokenizerRequest) -> smg.TokenizerStatus:
    body = write_request(others.CREATE_TOKENIZER, request)
    answer = await call.ask("POST", _TOKENIZERS, body)
    return read_answer(others.TOKENIZER_STATUS, answer, _TOKENIZERS)


async def delete_tokenizer(
    call: Call, request: smg.DeleteTokenizerRequest
) -> smg.DeleteTokenizerResponse:
    await call.ask("DELETE", path_of(_TOKENIZERS, request.id))
    return smg.DeleteTokenizerResponse()


# --- Engines ---


async def get_server_info(call: Call, _: smg.GetServerInfoRequest) -> smg.ServerInfo:
    found: smg.ServerInfo = await _info(call, "/get_server_info", others.SERVER_INFO)
    return found


async def get_model_info(call: Call, _: smg.GetModelInfoRequest) -> smg.ModelInfo:
    found: smg.ModelInfo = await _info(call, "/get_model_info", others.MODEL_INFO)
    return found


async def _info(call: Call, path: str, table: Table[Any]) -> Any:
    data = (await call.ask("GET", path)).json(f"the answer to {path}")
    found = read_reply(table, data, f"the answer to {path}")
    found.json = to_text(data)
    return found


async def check_generation(
    call: Call, _: smg.CheckGenerationRequest
) -> smg.CheckGenerationResponse:
    answer = await call.ask("GET", "/health_generate")
    return smg.CheckGenerationResponse(message=_message(answer.body))


async def get_engine_metrics(call: Call, _: smg.GetEngineMetricsRequest) -> smg.EngineMetrics:
    answer = await call.ask("GET", "/engine_metrics")
    return smg.EngineMetrics(text=answer.body.decode(errors="replace"))


async def start_profile(call: Call, _: smg.StartProfileRequest) -> smg.ProfileResponse:
    answer = await call.ask("POST", "/start_profile")
    return smg.ProfileResponse(message=_message(answer.body))


async def stop_profile(call: Call, _: smg.StopProfileRequest) -> smg.ProfileResponse:
    answer = await call.ask("POST", "/stop_profile")
    return smg.ProfileResponse(message=_message(answer.body))


def _message(body: bytes) -> str:
    """What the gateway says for people: a text, or the message of an object."""
    text = body.decode(errors="replace").strip()
    try:
        data = reading("a message", parse, text)
    except SmgError:
        return text
    message = as_object(data).get("message") if is_object(data) else None
    return message if isinstance(message, str) else text


UNARY: dict[str, Unary] = {
    "ModelService.ListModels": list_models,
    "ModelService.GetModel": get_model,
    "GatewayService.GetGatewayInfo": get_gateway_info,
    "WorkerService.CreateWorker": create_worker,
    "WorkerService.GetWorker": get_worker,
    "WorkerService.ListWorkers": list_workers,
    "WorkerService.UpdateWorker": update_worker,
    "WorkerService.ReplaceWorker": replace_worker,
    "WorkerService.DeleteWorker": delete_worker,
    "WorkerService.GetWorkerLoads": get_loads,
    "WorkerService.FlushCache": flush_cache,
    "TokenizerService.ListTokenizers": list_tokenizers,
    "TokenizerService.GetTokenizer": get_tokenizer,
    "TokenizerService.GetTokenizerStatus": get_tokenizer_status,
    "TokenizerService.CreateTokenizer": create_tokenizer,
    "TokenizerService.DeleteTokenizer": delete_tokenizer,
    "EngineService.GetServerInfo": get_server_info,
    "EngineService.GetModelInfo": get_model_info,
    "EngineService.CheckGeneration": check_generation,
    "EngineService.GetEngineMetrics": get_engine_metrics,
    "EngineService.StartProfile": start_profile,
    "EngineService.StopProfile": stop_profile,
}
STREAMS: dict[str, Streaming] = {"WorkerService.WatchWorkers": watch_workers}
