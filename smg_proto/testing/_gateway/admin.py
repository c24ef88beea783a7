"""smg.v1.ModelService, GatewayService and WorkerService."""

import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import grpc

from smg_proto import __version__, smg_pb2_grpc
from smg_proto import smg_pb2 as pb
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.core import WORKER_URL, Call, Context, Core, not_found, set_now

_SCHEMES = ("http", "https", "grpc", "grpcs", "ipc")
_CAPABILITIES = ("completions", "chat", "messages", "responses", "tools", "embeddings")
_MEDIA_CAPABILITIES = {"image": "vision", "audio": "audio"}
# Optional features of the contract that it supports.
_FEATURES = (
    "chat.token_ids",
    "complete.choices",
    "idempotency_key",
    "response.watch",
    "tokenize.pieces",
    "worker.watch",
)
_MAX_REQUEST_BYTES = 4 << 20  # gRPC's default


def _model(core: Core) -> pb.Model:
    return pb.Model(
        id=core.model.name,
        owned_by="self_hosted",
        capabilities=[
            *_CAPABILITIES,
            *(name for kind, name in _MEDIA_CAPABILITIES.items() if kind in core.media),
        ],
        context_length=core.model.context_length,
    )


class ModelService(smg_pb2_grpc.ModelServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        def answer(request: pb.ListModelsRequest) -> pb.ListModelsResponse:
            entries, following = page([_model(self._core)], request.page_size, request.page_token)
            return pb.ListModelsResponse(models=entries, next_page_token=following)

        return await self._core.plain("ListModels", request, context, answer)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        def answer(request: pb.GetModelRequest) -> pb.Model:
            if not request.id:
                raise invalid(FieldViolation("id", "is required"))
            checks.check_model(request.id, self._core.model)
            return _model(self._core)

        return await self._core.plain("GetModel", request, context, answer)


class GatewayService(smg_pb2_grpc.GatewayServiceServicer):
    def __init__(self, core: Core, services: list[str]) -> None:
        self._core = core
        self._services = services

    async def GetGatewayInfo(
        self, request: pb.GetGatewayInfoRequest, context: Context
    ) -> pb.GatewayInfo:
        def answer(request: pb.GetGatewayInfoRequest) -> pb.GatewayInfo:
            return pb.GatewayInfo(
                version=f"fake-{__version__}",
                proto_version=__version__,
                services=self._services,
                features=_FEATURES,
                max_request_bytes=_MAX_REQUEST_BYTES,
            )

        return await self._core.plain("GetGatewayInfo", request, context, answer)


def _begin(worker: pb.Worker) -> None:
    set_now(worker.create_time)
    worker.state_time.CopyFrom(worker.create_time)


def _check(spec: pb.WorkerSpec) -> None:
    if not spec.url:
        raise invalid(FieldViolation("spec.url", "is required"))
    if urlsplit(spec.url).scheme not in _SCHEMES:
        raise invalid(FieldViolation("spec.url", f"must start with {', '.join(_SCHEMES)}"))
    if spec.priority < 0:
        raise invalid(FieldViolation("spec.priority", "must be at least 0"))


class WorkerService(smg_pb2_grpc.WorkerServiceServicer):
    """A list of workers in memory. The first is the built-in model.

    Nothing is sent to the others. A new worker is PENDING in the first reply and then READY, or
    FAILED after `fail_worker`. The built-in model replies in any state of its worker.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        built_in = pb.Worker(
            id=str(uuid.uuid4()),
            spec=pb.WorkerSpec(url=WORKER_URL, priority=50, cost=1.0),
            state=pb.WORKER_STATE_READY,
            connection_mode="grpc",
            runtime="vllm",
            models=[_model(core)],
        )
        _begin(built_in)
        self._workers = {built_in.id: built_in}
        self._built_in = built_in

    async def CreateWorker(self, request: pb.CreateWorkerRequest, context: Context) -> pb.Worker:
        def answer(call: Call) -> pb.Worker:
            key = request.idempotency_key
            return self._core.once("CreateWorker", call, key, lambda: self._create(request))

        return await self._core.plain_with_call("CreateWorker", request, context, answer)

    def _create(self, request: pb.CreateWorkerRequest) -> pb.Worker:
        spec = request.spec
        _check(spec)
        if any(worker.spec.url == spec.url for worker in self._workers.values()):
            raise SmgError(
                grpc.StatusCode.ALREADY_EXISTS,
                "a worker with this URL exists",
                reason="WORKER_ALREADY_EXISTS",
            )
        worker = pb.Worker(id=str(uuid.uuid4()), spec=pb.WorkerSpec(priority=50, cost=1.0))
        worker.spec.MergeFrom(spec)
        worker.spec.ClearField("api_key")
        _begin(worker)
        pending = pb.Worker()
        pending.CopyFrom(worker)
        pending.state = pb.WORKER_STATE_PENDING
        worker.state = pb.WORKER_STATE_READY
        self._workers[worker.id] = worker
        self._core.workers.changed()
        return pending

    async def ReplaceWorker(self, request: pb.ReplaceWorkerRequest, context: Context) -> pb.Worker:
        def answer(request: pb.ReplaceWorkerRequest) -> pb.Worker:
            worker = self._find(request.id)
            _check(request.spec)
            worker.spec.CopyFrom(pb.WorkerSpec(priority=50, cost=1.0))
            worker.spec.MergeFrom(request.spec)
            worker.spec.ClearField("api_key")
            self._core.workers.changed()
            return self._seen(worker)

        return await self._core.plain("ReplaceWorker", request, context, answer)

    async def WatchWorkers(
        self, request: pb.WatchWorkersRequest, context: Context
    ) -> AsyncIterator[pb.WorkerEvent]:
        await self._core.begin("WatchWorkers", request, context)
        known: dict[str, pb.Worker] | None = None
        with self._core.workers.changes() as changed:
            while True:
                changed.clear()
                now = {worker.id: worker for worker in self._serving(request.model)}
                before = known or {}
                for ident, worker in now.items():
                    if before.get(ident) != worker:
                        yield pb.WorkerEvent(worker=worker)
                for ident in before.keys() - now.keys():
                    yield pb.WorkerEvent(removed_id=ident)
                if known is None:
                    yield pb.WorkerEvent(ready=pb.WatchReady())
                known = now
                await changed.wait()

    async def GetWorker(self, request: pb.GetWorkerRequest, context: Context) -> pb.Worker:
        return await self._core.plain(
            "GetWorker", request, context, lambda request: self._seen(self._find(request.id))
        )

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        def answer(request: pb.ListWorkersRequest) -> pb.ListWorkersResponse:
            serving = self._serving(request.model)
            entries, following = page(serving, request.page_size, request.page_token)
            return pb.ListWorkersResponse(workers=entries, next_page_token=following)

        return await self._core.plain("ListWorkers", request, context, answer)

    async def UpdateWorker(self, request: pb.UpdateWorkerRequest, context: Context) -> pb.Worker:
        return await self._core.plain("UpdateWorker", request, context, self._update)

    def _update(self, request: pb.UpdateWorkerRequest) -> pb.Worker:
        worker = self._find(request.id)
        if request.priority < 0:
            raise invalid(FieldViolation("priority", "must be at least 0"))
        if request.remove_labels and not request.HasField("api_key"):
            raise invalid(FieldViolation("api_key", "is required with remove_labels"))
        for name in request.remove_labels:
            worker.spec.labels.pop(name, None)
        worker.spec.labels.update(request.labels)
        if request.HasField("priority"):
            worker.spec.priority = request.priority
        if request.HasField("cost"):
            worker.spec.cost = request.cost
        self._core.workers.changed()
        return self._seen(worker)

    async def DeleteWorker(
        self, request: pb.DeleteWorkerRequest, context: Context
    ) -> pb.DeleteWorkerResponse:
        def answer(request: pb.DeleteWorkerRequest) -> pb.DeleteWorkerResponse:
            del self._workers[self._find(request.id).id]
            self._core.workers.changed()
            return pb.DeleteWorkerResponse()

        return await self._core.plain("DeleteWorker", request, context, answer)

    def _find(self, ident: str) -> pb.Worker:
        try:
            uuid.UUID(ident)
        except ValueError:
            raise invalid(FieldViolation("id", "must be the id of a worker")) from None
        if ident not in self._workers:
            raise not_found("WORKER_NOT_FOUND", "no worker has this id")
        if ident == self._built_in.id:
            self._built_in.active_requests = self._core.record.counters.running
        return self._workers[ident]

    def _serving(self, model: str) -> list[pb.Worker]:
        """The workers of a model, or all workers."""
        every = (self._find(ident) for ident in self._workers)
        serving = (one for one in every if not model or model in {each.id for each in one.models})
        return [self._seen(worker) for worker in serving]

    def _seen(self, worker: pb.Worker) -> pb.Worker:
        """A copy of a worker with its current state."""
        seen = pb.Worker()
        seen.CopyFrom(worker)
        failed = self._core.workers.failed.get(worker.spec.url)
        health = seen.conditions.add(type="Healthy", met=failed is None)
        if failed is not None:
            seen.state = pb.WORKER_STATE_FAILED
            seen.state_time.CopyFrom(failed.time)
            seen.error.CopyFrom(pb.Failure(reason="WORKER_UNAVAILABLE", message=failed.message))
            health.reason, health.message = "ConnectFailed", failed.message
        return seen

    async def GetWorkerLoads(
        self, request: pb.GetWorkerLoadsRequest, context: Context
    ) -> pb.GetWorkerLoadsResponse:
        def answer(request: pb.GetWorkerLoadsRequest) -> pb.GetWorkerLoadsResponse:
            running = self._core.record.counters.running
            reply = pb.GetWorkerLoadsResponse()
            set_now(reply.read_time)
            if self._built_in.id in self._workers:
                reply.loads.add(
                    worker_id=self._built_in.id, worker_url=WORKER_URL, running_requests=running
                )
            return reply

        return await self._core.plain("GetWorkerLoads", request, context, answer)

    async def FlushCache(
        self, request: pb.FlushCacheRequest, context: Context
    ) -> pb.FlushCacheResponse:
        """The built-in model has no cache, so there is nothing to flush."""

        def answer(request: pb.FlushCacheRequest) -> pb.FlushCacheResponse:
            return pb.FlushCacheResponse(flushed_workers=0)

        return await self._core.plain("FlushCache", request, context, answer)
