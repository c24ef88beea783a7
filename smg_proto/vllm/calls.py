"""The unary calls: which RPC, with what request, and how its answer is read. Sync and async."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.checks import duration, sequence, whole
from smg_proto.vllm.errors import VLLMGrpcValidationError
from smg_proto.vllm.server_results import (
    HealthCheckResponse,
    Loads,
    ModelInfo,
    ModelList,
    Outcome,
    ServerInfo,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unary(Generic[T]):
    rpc: str
    request: Message
    read: Callable[[Any], T]
    repeatable: bool = True
    at_least: float = 0.0
    """Seconds that the call must be given unless the caller sets a limit."""
    request_id: str | None = None


def health_check() -> Unary[HealthCheckResponse]:
    return Unary("HealthCheck", pb.HealthCheckRequest(), HealthCheckResponse.from_grpc)


def server_info() -> Unary[ServerInfo]:
    return Unary("GetServerInfo", pb.GetServerInfoRequest(), ServerInfo.from_grpc)


def model_info() -> Unary[ModelInfo]:
    return Unary("GetModelInfo", pb.GetModelInfoRequest(), ModelInfo.from_grpc)


def model_list() -> Unary[ModelList]:
    return Unary("GetModelInfo", pb.GetModelInfoRequest(), ModelList.from_grpc)


def loads(dp_rank: int | None, include: Sequence[str]) -> Unary[Loads]:
    if sequence(include) is None:
        raise VLLMGrpcValidationError("include", "must be a list of section names")
    request = pb.GetLoadsRequest(dp_rank=dp_rank, include=include)
    return Unary("GetLoads", request, Loads.from_grpc)


def abort(request_ids: str | Sequence[str]) -> Unary[None]:
    ids = [request_ids] if isinstance(request_ids, str) else sequence(request_ids)
    if not ids or not all(isinstance(i, str) and i for i in ids):
        raise VLLMGrpcValidationError("request_ids", "must be one or more request ids")
    return Unary("Abort", pb.AbortRequest(request_ids=ids), lambda _: None)


def flush_cache(timeout_s: float) -> Unary[Outcome]:
    request = common_pb2.FlushCacheRequest(timeout_s=duration("timeout_s", timeout_s))
    return Unary("FlushCache", request, Outcome.from_grpc, at_least=timeout_s + 5)


def start_profile() -> Unary[Outcome]:
    request = common_pb2.StartProfileRequest()
    return Unary("StartProfile", request, Outcome.from_grpc, repeatable=False)


def stop_profile() -> Unary[Outcome]:
    """The server writes its traces first, which it gives ten minutes."""
    request = common_pb2.StopProfileRequest()
    return Unary("StopProfile", request, Outcome.from_grpc, repeatable=False, at_least=600)


def embed(request: pb.EmbedRequest) -> Unary[pb.EmbedResponse]:
    return Unary("Embed", request, lambda response: response, request_id=request.request_id)


def kv_events(start: int, early_load: bool) -> common_pb2.SubscribeKvEventsRequest:
    whole("start_sequence_number", start, 0, 2**64, "must be 0 (live only) or more")
    return common_pb2.SubscribeKvEventsRequest(
        start_sequence_number=start, load_records_before_first_batch=early_load
    )
