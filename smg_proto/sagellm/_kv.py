"""The life cycle of KV cache: allocate, free, evict, migrate, prefetch, and hooks."""

from typing import Annotated, Any

from pydantic import Field

from smg_proto import sagellm_pb2 as pb
from smg_proto.sagellm._bounds import in_range
from smg_proto.sagellm._models import (
    KVDType,
    KVEvictReason,
    KVHookEvent,
    KVLayout,
)
from smg_proto.sagellm._unknown import OR_UNKNOWN, Unknown
from smg_proto.sagellm._wire import Wire

_EvictReason = Annotated[KVEvictReason | Unknown, OR_UNKNOWN]


class KVHandle(Wire[pb.KVHandle]):
    """Allocated KV cache."""

    handle_id: str
    request_id: str
    num_tokens: int
    device: str


class KVAllocateParams(Wire[pb.KVAllocateParams]):
    """Requests KV cache."""

    request_id: str
    num_tokens: Annotated[int, in_range("KVAllocateParams.num_tokens")]
    kv_dtype: Annotated[KVDType | Unknown, OR_UNKNOWN]
    layout: Annotated[KVLayout | Unknown, OR_UNKNOWN]
    block_size: Annotated[int, in_range("KVAllocateParams.block_size")]
    trace_id: str | None = None
    priority: int = 0
    qos_labels: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)


class KVMigrateParams(Wire[pb.KVMigrateParams]):
    """Moves KV cache to another device."""

    kv_handle: KVHandle
    target_device: str
    trace_id: str | None = None
    priority: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)


class KVFreeParams(Wire[pb.KVFreeParams]):
    """Frees KV cache."""

    kv_handle: KVHandle
    force: bool = False
    trace_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class KVEvictParams(Wire[pb.KVEvictParams]):
    """Evicts KV cache."""

    kv_handle: KVHandle
    reason: _EvictReason
    target_device: str | None = None
    trace_id: str | None = None
    priority: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)


class KVPrefetchParams(Wire[pb.KVPrefetchParams]):
    """Fetches KV cache before it is used."""

    request_id: str
    kv_handle: KVHandle
    target_device: str
    priority: int = 0
    trace_id: str | None = None
    prefetch_window_tokens: Annotated[
        int | None, in_range("KVPrefetchParams.prefetch_window_tokens")
    ] = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class KVHookPayload(Wire[pb.KVHookPayload]):
    """The argument of a hook."""

    event: Annotated[KVHookEvent | Unknown, OR_UNKNOWN]
    request_id: str
    trace_id: str | None = None
    kv_handle: KVHandle | None = None
    evict_reason: _EvictReason | None = None
    device: str | None = None
    elapsed_ms: Annotated[float, in_range("KVHookPayload.elapsed_ms")] = 0.0
    success: bool = True
    error_message: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class KVQoSPolicy(Wire[pb.KVQoSPolicy]):
    """Service quality of KV cache."""

    tier: str = "default"
    slo_latency_ms: Annotated[float | None, in_range("KVQoSPolicy.slo_latency_ms")] = None
    max_wait_ms: Annotated[float | None, in_range("KVQoSPolicy.max_wait_ms")] = None
    evict_protected: bool = False
