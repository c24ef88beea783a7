"""Administration: models, the gateway, its workers, their engines, and its tokenizers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

from smg_proto import __version__
from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading
from smg_proto._http.fields import Table, read_reply, read_reply_with, write_request
from smg_proto._http.mapping import others
from smg_proto._http.shapes import as_object, is_object, parse, to_text
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.frontdoor._calls import Call, path_of, read_response
from smg_proto.frontdoor._routes import Streaming, Unary

# Full names of all services of the front door; filled by _operations.
SERVICES: list[str] = []
# Optional features of the contract that the front door supports.
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
        response = await call.fetch("GET", "/v1/models")
    except SmgError as error:
        if error.metadata.get("http_status") != "503":
            raise
        listed = smg.ListModelsResponse()  # the gateway runs, but has no model yet
    else:
        listed = read_response(others.MODEL_LIST, response, "/v1/models")
    models, next_token = page(listed.models, request.page_size, request.page_token)
    reply = smg.ListModelsResponse(models=models, next_page_token=next_token)
    if models:
        served = await _served(call)
        for model in reply.models:
            model.MergeFrom(served.get(model.id, smg.Model()))
    return reply


async def get_model(call: Call, request: smg.GetModelRequest) -> smg.Model:
    path = path_of("/v1/models", request.id)
    model: smg.Model = read_response(others.LISTED_MODEL, await call.fetch("GET", path), path)
    model.MergeFrom((await _served(call)).get(model.id, smg.Model()))
    return model


async def _served(call: Call) -> Mapping[str, smg.Model]:
    """The models as their workers describe them; empty if the caller may not list workers."""
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
        loads = (await call.fetch("GET", "/loads")).json("response to /loads")
        info.version = version_of(loads)
    except SmgError:
        pass  # the caller may not read it, or the upstream is not a gateway
    return info


def version_of(loads: Any) -> str:
    """The gateway's version, which is part of the loads."""
    return reading("version", _version, loads)


def _version(loads: Any) -> str:
    version: str = loads["version"]
    return version.removeprefix("smg-")


# --- Workers ---


async def create_worker(call: Call, request: smg.CreateWorkerRequest) -> smg.Worker:
    body = write_request(others.CREATE_WORKER, request)

    async def create() -> str:
        accepted = (await call.fetch("POST", "/workers", body)).json("response to /workers")
        return read_reply_with(others.accepted_worker, accepted, "response to /workers")

    return await _worker(call, await call.once(request.idempotency_key, create))


async def get_worker(call: Call, request: smg.GetWorkerRequest) -> smg.Worker:
    return await _worker(call, request.id)


async def update_worker(call: Call, request: smg.UpdateWorkerRequest) -> smg.Worker:
    body = write_request(others.UPDATE_WORKER, request)
    path = path_of("/workers", request.id)
    if request.remove_labels:  # PATCH only adds labels, so replace all settings with PUT
        if not request.HasField("api_key"):  # gateways never return it
            why = "is required with remove_labels: the worker's key, or empty if it has none"
            raise invalid(FieldViolation("api_key", why))
        spec = (await _worker(call, request.id)).spec
        for name in request.remove_labels:
            spec.labels.pop(name, None)
        replaced = smg.ReplaceWorkerRequest(id=request.id, spec=spec)
        settings = write_request(others.REPLACE_WORKER, replaced)
        labels = {**settings.get("labels", {}), **body.pop("labels", {})}
        await call.fetch("PUT", path, {**settings, **body, "labels": labels})
    else:
        await call.fetch("PATCH", path, body)
    return await _worker(call, request.id)


async def replace_worker(call: Call, request: smg.ReplaceWorkerRequest) -> smg.Worker:
    body = write_request(others.REPLACE_WORKER, request)
    await call.fetch("PUT", path_of("/workers", request.id), body)
    return await _worker(call, request.id)


async def delete_worker(call: Call, request: smg.DeleteWorkerRequest) -> smg.DeleteWorkerResponse:
    await call.fetch("DELETE", path_of("/workers", request.id))
    return smg.DeleteWorkerResponse()


async def list_workers(call: Call, request: smg.ListWorkersRequest) -> smg.ListWorkersResponse:
    listed = await _workers(call, request.model)
    workers, next_token = page(listed, request.page_size, request.page_token)
    return smg.ListWorkersResponse(workers=workers, next_page_token=next_token)


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
    """Whether anything but the number of active requests has changed."""
    if before is None:
        return True
    same = smg.Worker()
    same.CopyFrom(before)
    same.active_requests = now.active_requests
    return same != now


async def get_loads(call: Call, _: smg.GetWorkerLoadsRequest) -> smg.GetWorkerLoadsResponse:
    reply = read_response(others.LOADS, await call.fetch("GET", "/loads"), "/loads")
    await _add_worker_ids(call, reply.loads)
    return reply


async def flush_cache(call: Call, _: smg.FlushCacheRequest) -> smg.FlushCacheResponse:
    reply = read_response(others.FLUSHED, await call.fetch("POST", "/flush_cache"), "/flush_cache")
    await _add_worker_ids(call, reply.failures)
    return reply


async def _add_worker_ids(call: Call, entries: Any) -> None:
    """Add ids to entries that name workers by URL, if the caller may list workers."""
    if entries:
        try:
            ids = {worker.spec.url: worker.id for worker in await _workers(call)}
        except SmgError:
            return
        for entry in entries:
            entry.worker_id = ids.get(entry.worker_url, "")


async def _workers(call: Call, model: str = "") -> list[smg.Worker]:
    path = f"/workers?model={quote(model, safe='')}" if model else "/workers"
    response = await call.fetch("GET", path)
    return list(read_response(others.WORKER_LIST, response, "/workers").workers)


async def _worker(call: Call, id: str) -> smg.Worker:
    path = path_of("/workers", id)
    data = (await call.fetch("GET", path)).json("worker")
    return read_reply_with(others.read_worker, data, "worker")


# --- Tokenizers ---

_TOKENIZERS = "/v1/tokenizers"


async def list_tokenizers(
    call: Call, request: smg.ListTokenizersRequest
) -> smg.ListTokenizersResponse:
    listed = read_response(others.TOKENIZER_LIST, await call.fetch("GET", _TOKENIZERS), _TOKENIZERS)
    tokenizers, next_token = page(listed.tokenizers, request.page_size, request.page_token)
    return smg.ListTokenizersResponse(tokenizers=tokenizers, next_page_token=next_token)


async def get_tokenizer(call: Call, request: smg.GetTokenizerRequest) -> smg.Tokenizer:
    path = path_of(_TOKENIZERS, request.id)
    return read_response(others.TOKENIZER, await call.fetch("GET", path), path)


async def get_tokenizer_status(
    call: Call, request: smg.GetTokenizerStatusRequest
) -> smg.TokenizerStatus:
    path = path_of(_TOKENIZERS, request.id, "/status")
    return read_response(others.TOKENIZER_STATUS, await call.fetch("GET", path), path)


async def create_tokenizer(call: Call, request: smg.CreateTokenizerRequest) -> smg.TokenizerStatus:
    body = write_request(others.CREATE_TOKENIZER, request)
    response = await call.fetch("POST", _TOKENIZERS, body)
    return read_response(others.TOKENIZER_STATUS, response, _TOKENIZERS)


async def delete_tokenizer(
    call: Call, request: smg.DeleteTokenizerRequest
) -> smg.DeleteTokenizerResponse:
    await call.fetch("DELETE", path_of(_TOKENIZERS, request.id))
    return smg.DeleteTokenizerResponse()


# --- Engines ---


async def get_server_info(call: Call, _: smg.GetServerInfoRequest) -> smg.ServerInfo:
    info: smg.ServerInfo = await _info(call, "/get_server_info", others.SERVER_INFO)
    return info


async def get_model_info(call: Call, _: smg.GetModelInfoRequest) -> smg.ModelInfo:
    info: smg.ModelInfo = await _info(call, "/get_model_info", others.MODEL_INFO)
    return info


async def _info(call: Call, path: str, table: Table[Any]) -> Any:
    data = (await call.fetch("GET", path)).json(f"response to {path}")
    info = read_reply(table, data, f"response to {path}")
    info.json = to_text(data)
    return info


async def check_generation(
    call: Call, _: smg.CheckGenerationRequest
) -> smg.CheckGenerationResponse:
    response = await call.fetch("GET", "/health_generate")
    return smg.CheckGenerationResponse(message=_message(response.body))


async def get_engine_metrics(call: Call, _: smg.GetEngineMetricsRequest) -> smg.EngineMetrics:
    response = await call.fetch("GET", "/engine_metrics")
    return smg.EngineMetrics(text=response.body.decode(errors="replace"))


async def start_profile(call: Call, _: smg.StartProfileRequest) -> smg.ProfileResponse:
    response = await call.fetch("POST", "/start_profile", {})
    return smg.ProfileResponse(message=_message(response.body))


async def stop_profile(call: Call, _: smg.StopProfileRequest) -> smg.ProfileResponse:
    response = await call.fetch("POST", "/stop_profile", {})
    return smg.ProfileResponse(message=_message(response.body))


def _message(body: bytes) -> str:
    """The gateway's message: the body, or `message` of a JSON object."""
    text = body.decode(errors="replace").strip()
    try:
        data = reading("message", parse, text)
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
