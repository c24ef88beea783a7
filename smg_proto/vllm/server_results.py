"""What the server says of itself."""

from typing import Any

from pydantic import Field, SkipValidation

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.checks import json_object
from smg_proto.vllm.results import Result


class HealthCheckResponse(Result):
    healthy: bool
    message: str = ""

    @classmethod
    def from_grpc(cls, wire: pb.HealthCheckResponse) -> "HealthCheckResponse":
        return cls(healthy=wire.healthy, message=wire.message)


class ModelInfo(Result):
    model_path: str
    is_generation: bool
    max_context_length: int
    vocab_size: int
    supports_vision: bool
    served_model_name: str = ""
    tokenizer_path: str = ""
    model_type: str = ""
    architectures: list[str] = Field(default_factory=list[str])
    eos_token_ids: list[int] = Field(default_factory=list[int])
    pad_token_id: int = 0
    bos_token_id: int = 0
    max_req_input_len: int = 0
    default_sampling_params: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The model's own generation settings; applied with `use_model_defaults=True` only."""
    raw: SkipValidation[pb.GetModelInfoResponse | None] = Field(
        default=None, exclude=True, repr=False
    )

    @property
    def id(self) -> str:
        """The model's name: the served one, else its path."""
        return self.served_model_name or self.model_path

    @classmethod
    def from_grpc(cls, wire: pb.GetModelInfoResponse) -> "ModelInfo":
        return cls(
            model_path=wire.model_path,
            is_generation=wire.is_generation,
            max_context_length=wire.max_context_length,
            vocab_size=wire.vocab_size,
            supports_vision=wire.supports_vision,
            served_model_name=wire.served_model_name,
            tokenizer_path=wire.tokenizer_path,
            model_type=wire.model_type,
            architectures=list(wire.architectures),
            eos_token_ids=list(wire.eos_token_ids),
            pad_token_id=wire.pad_token_id,
            bos_token_id=wire.bos_token_id,
            max_req_input_len=wire.max_req_input_len,
            default_sampling_params=json_object(wire.default_sampling_params_json) or {},
            raw=wire,
        )


class ModelList(ModelInfo):
    """The one model that an engine serves, and a list of it, for callers that expect a list."""

    object: str = "list"
    data: list[ModelInfo] = Field(default_factory=list[ModelInfo])

    @classmethod
    def from_grpc(cls, wire: pb.GetModelInfoResponse) -> "ModelList":
        info = ModelInfo.from_grpc(wire)
        return cls(**dict(info), data=[info])


class ServerInfo(Result):
    """The server's configuration. None, 0 or empty: not reported, or not in use.

    Present servers do not fill the first five; `loads.retrieve()` tells of activity.
    """

    active_requests: int | None = None
    is_paused: bool | None = None
    last_receive_timestamp: float | None = None
    uptime_seconds: float | None = None
    server_type: str | None = None
    kv_connector: str = ""
    kv_role: str = ""
    kv_engine_id: str = ""
    data_parallel_size: int = 0
    shm_namespace_id: str = ""
    kv_cache_dtype: str = ""
    block_size: int = 0
    attention_backend: str = ""
    model_dtype: str = ""
    pairing_protocol: str = ""
    mm_processor: str = ""
    mm_media_ref_schemes: str = ""
    mm_processor_source: str = ""
    mm_device_do_normalize: bool = False
    max_num_seqs: int = 0
    mm_item_limits: str = ""
    multimodal_encoder_dtype: str = ""
    engine_reasoning_parser: str = ""
    constrained_decoding_start: str = ""
    mm_encoder_budget: int = 0
    raw: SkipValidation[pb.GetServerInfoResponse | None] = Field(
        default=None, exclude=True, repr=False
    )

    @classmethod
    def from_grpc(cls, wire: pb.GetServerInfoResponse) -> "ServerInfo":
        values = {
            field.name: getattr(wire, field.name)
            for field in wire.DESCRIPTOR.fields
            if field.name in cls.model_fields
        }
        if not any(values[name] for name in _ACTIVITY):  # a server that does not fill them
            values |= dict.fromkeys(_ACTIVITY)
        return cls(**values, raw=wire)


_ACTIVITY = (
    "active_requests",
    "is_paused",
    "last_receive_timestamp",
    "uptime_seconds",
    "server_type",
)


class SchedulerLoad(Result):
    """The load of one data-parallel rank."""

    dp_rank: int
    num_running_reqs: int
    num_waiting_reqs: int
    num_total_reqs: int
    num_used_tokens: int
    max_total_num_tokens: int
    token_usage: float
    gen_throughput: float
    cache_hit_rate: float
    utilization: float
    max_running_requests: int
    num_waiting_uncached_tokens: int


class Loads(Result):
    timestamp: str = ""
    version: str = ""
    loads: list[SchedulerLoad] = Field(default_factory=list[SchedulerLoad])
    raw: SkipValidation[pb.GetLoadsResponse | None] = Field(default=None, exclude=True, repr=False)

    @property
    def active_requests(self) -> int:
        """Running and waiting requests of all ranks."""
        return sum(load.num_total_reqs for load in self.loads)

    @classmethod
    def from_grpc(cls, wire: pb.GetLoadsResponse) -> "Loads":
        loads = [
            SchedulerLoad(**{name: getattr(load, name) for name in SchedulerLoad.model_fields})
            for load in wire.loads
        ]
        return cls(timestamp=wire.timestamp, version=wire.version, loads=loads, raw=wire)


class Outcome(Result):
    """What became of an administrative request. A refusal is an answer, not an error."""

    success: bool
    message: str = ""

    @classmethod
    def from_grpc(
        cls, wire: common_pb2.FlushCacheResponse | common_pb2.ProfileResponse
    ) -> "Outcome":
        return cls(success=wire.success, message=wire.message)
