"""The enums of the protocol, and its requests, responses, metrics and errors."""

from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from smg_proto import sagellm_pb2 as pb
from smg_proto.sagellm._bounds import in_range
from smg_proto.sagellm._unknown import OR_UNKNOWN, Unknown
from smg_proto.sagellm._wire import Wire

GREEDY_BELOW = 1e-5  # temperatures below this mean greedy


class ErrorCode(str, Enum):
    """The kind of an error."""

    INVALID_ARGUMENT = "invalid_argument"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_IMPLEMENTED = "not_implemented"
    KV_TRANSFER_FAILED = "kv_transfer_failed"
    COMM_TIMEOUT = "comm_timeout"
    COMM_GROUP_INVALID = "comm_group_invalid"
    DISTRIBUTED_RUNTIME_ERROR = "distributed_runtime_error"
    OPERATOR_NOT_FOUND = "operator_not_found"
    INVALID_OPERATOR_MAPPING = "invalid_operator_mapping"
    OPERATOR_REGISTRATION_FAILED = "operator_registration_failed"
    COMM_BACKEND_NOT_SUPPORTED = "comm_backend_not_supported"
    COMM_RANK_MISMATCH = "comm_rank_mismatch"
    COMM_GROUP_NOT_FOUND = "comm_group_not_found"
    COMM_COLLECTIVE_FAILED = "comm_collective_failed"
    COMM_P2P_FAILED = "comm_p2p_failed"
    KV_PREFETCH_FAILED = "kv_prefetch_failed"
    KV_QOS_CONSTRAINT_VIOLATED = "kv_qos_constraint_violated"
    KV_PRIORITY_QUEUE_FULL = "kv_priority_queue_full"
    COMPRESSION_NOT_SUPPORTED = "compression_not_supported"
    QUANTIZATION_CALIBRATION_FAILED = "quantization_calibration_failed"
    SPECULATIVE_DECODING_FAILED = "speculative_decoding_failed"


class DecodingStrategy(str, Enum):
    """How tokens are chosen."""

    GREEDY = "greedy"
    SAMPLING = "sampling"
    BEAM_SEARCH = "beam_search"
    CONTRASTIVE = "contrastive"
    SPECULATIVE = "speculative"


class KVDType(str, Enum):
    """Number format of cached keys and values."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"


class KVLayout(str, Enum):
    """Order of the dimensions in memory: b batch, s sequence, h heads, d head size."""

    BSHD = "bshd"
    BHSD = "bhsd"


class KVEvictReason(str, Enum):
    """Why KV cache was evicted."""

    MEMORY_PRESSURE = "memory_pressure"
    TTL_EXPIRED = "ttl_expired"
    EXPLICIT_FREE = "explicit_free"


class KVHookEvent(str, Enum):
    """When a hook of the KV cache is called."""

    ALLOCATE_BEFORE = "allocate_before"
    ALLOCATE_AFTER = "allocate_after"
    FREE_BEFORE = "free_before"
    FREE_AFTER = "free_after"
    EVICT_BEFORE = "evict_before"
    EVICT_AFTER = "evict_after"
    MIGRATE_BEFORE = "migrate_before"
    MIGRATE_AFTER = "migrate_after"
    PREFETCH_BEFORE = "prefetch_before"
    PREFETCH_AFTER = "prefetch_after"


class KVPriority(str, Enum):
    """Named priorities. Not on the wire: the parameters have a number."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    BACKGROUND = "background"


FinishReason = Annotated[Literal["stop", "length", "error"] | Unknown, OR_UNKNOWN]
Phase = Annotated[Literal["prefill", "decode"] | Unknown, OR_UNKNOWN]
Role = Annotated[Literal["system", "user", "assistant", "function", "tool"] | Unknown, OR_UNKNOWN]


class ChatMessage(Wire[pb.ChatMessage]):
    """One message of a conversation. Text only."""

    role: Role
    content: str
    name: str | None = None


class SamplingParams(Wire[pb.SamplingParams]):
    """All sampling settings."""

    strategy: Annotated[DecodingStrategy | Unknown, OR_UNKNOWN] = DecodingStrategy.GREEDY
    temperature: Annotated[float, in_range("SamplingParams.temperature")] = 1.0
    top_p: Annotated[float, in_range("SamplingParams.top_p")] = 1.0
    top_k: Annotated[int, in_range("SamplingParams.top_k")] = 0
    beam_size: Annotated[int, in_range("SamplingParams.beam_size")] = 4
    length_penalty: float = 1.0
    early_stopping: bool = True
    alpha: Annotated[float, in_range("SamplingParams.alpha")] = 0.6
    penalty_alpha: Annotated[float, in_range("SamplingParams.penalty_alpha")] = 0.6
    repetition_penalty: Annotated[float, in_range("SamplingParams.repetition_penalty")] = 1.0
    presence_penalty: Annotated[float, in_range("SamplingParams.presence_penalty")] = 0.0
    frequency_penalty: Annotated[float, in_range("SamplingParams.frequency_penalty")] = 0.0
    max_tokens: Annotated[int | None, in_range("SamplingParams.max_tokens")] = None
    stop_sequences: list[str] | None = None
    n_speculative_tokens: Annotated[int, in_range("SamplingParams.n_speculative_tokens")] = 5
    seed: int | None = None
    skip_special_tokens: bool = True

    @model_validator(mode="after")
    def _derive_strategy(self) -> Self:
        if "strategy" not in self.model_fields_set:
            greedy = self.temperature < GREEDY_BELOW
            self.strategy = DecodingStrategy.GREEDY if greedy else DecodingStrategy.SAMPLING
        return self

    def validate_strategy_params(self) -> None:
        """Raise ValueError if the strategy contradicts another field."""
        for field, problem in self._contradictions():
            raise ValueError(f"{field} {problem}")

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        match self.strategy:
            case DecodingStrategy.SAMPLING if self.temperature < GREEDY_BELOW:
                yield "temperature", f"must be at least {GREEDY_BELOW:g} with strategy sampling"
            case DecodingStrategy.BEAM_SEARCH if self.beam_size <= 1:
                yield "beam_size", "must be above 1 with strategy beam_search"
            # Validation excludes the last two, but an assignment does not.
            case DecodingStrategy.CONTRASTIVE:
                if not 0 <= self.alpha <= 1:
                    yield "alpha", "must be from 0 to 1 with strategy contrastive"
                if not self.penalty_alpha >= 0:
                    yield "penalty_alpha", "must be at least 0 with strategy contrastive"
            case DecodingStrategy.SPECULATIVE if self.n_speculative_tokens < 1:
                yield "n_speculative_tokens", "must be at least 1 with strategy speculative"
            case _:
                pass


DEFAULT_SAMPLING_PARAMS = SamplingParams(strategy=DecodingStrategy.GREEDY)


class SamplingPreset(str, Enum):
    """Named sampling parameters. Not on the wire: send the parameters."""

    DETERMINISTIC = "deterministic"
    BALANCED = "balanced"
    CREATIVE = "creative"
    PRECISE = "precise"

    @classmethod
    def get_params(cls, preset: "SamplingPreset") -> SamplingParams:
        """The parameters of a preset, as a new object."""
        match cls(preset):
            case SamplingPreset.DETERMINISTIC:
                return SamplingParams(strategy=DecodingStrategy.GREEDY, temperature=0.0)
            case SamplingPreset.BALANCED:
                return SamplingParams(
                    strategy=DecodingStrategy.SAMPLING, temperature=0.7, top_p=0.9
                )
            case SamplingPreset.CREATIVE:
                return SamplingParams(
                    strategy=DecodingStrategy.SAMPLING, temperature=1.2, top_p=0.95
                )
            case SamplingPreset.PRECISE:
                return SamplingParams(
                    strategy=DecodingStrategy.BEAM_SEARCH, beam_size=4, length_penalty=1.2
                )


class Request(Wire[pb.Request]):
    """What to generate, and how."""

    request_id: str
    trace_id: str
    model: str = ""
    prompt: str = ""
    messages: list[ChatMessage] | None = None
    max_tokens: Annotated[int, in_range("Request.max_tokens")]
    stream: bool = False
    sampling_params: SamplingParams | None = None
    temperature: Annotated[float | None, in_range("Request.temperature")] = None
    top_p: Annotated[float | None, in_range("Request.top_p")] = None
    kv_budget_tokens: Annotated[int | None, in_range("Request.kv_budget_tokens")] = None
    metadata: dict[str, Any] | None = None
    phase: Phase | None = None
    rank: Annotated[int | None, in_range("Request.rank")] = None
    world_size: Annotated[int | None, in_range("Request.world_size")] = None
    group_id: str | None = None
    tp_rank: Annotated[int | None, in_range("Request.tp_rank")] = None
    pp_rank: Annotated[int | None, in_range("Request.pp_rank")] = None
    tp_size: Annotated[int | None, in_range("Request.tp_size")] = None
    pp_size: Annotated[int | None, in_range("Request.pp_size")] = None

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.prompt and not self.messages:
            yield "prompt", "or messages must be set"
        for rank, size in (("rank", "world_size"), ("tp_rank", "tp_size"), ("pp_rank", "pp_size")):
            value, limit = getattr(self, rank), getattr(self, size)
            if value is not None and limit is not None and value >= limit:
                yield rank, f"must be below {size}, which is {limit}"


class Timestamps(Wire[pb.Timestamps]):
    """When a request reached each stage, in Unix seconds."""

    queued_at: float
    scheduled_at: float
    executed_at: float
    completed_at: float

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        stages = list(self)
        for (earlier, begin), (later, end) in pairwise(stages):
            if end < begin:
                yield later, f"must not be before {earlier}"


class Metrics(Wire[pb.Metrics]):
    """Performance figures of one request, with times in milliseconds."""

    ttft_ms: Annotated[float, in_range("Metrics.ttft_ms")]
    tbt_ms: Annotated[float, in_range("Metrics.tbt_ms")] = 0.0
    tpot_ms: Annotated[float, in_range("Metrics.tpot_ms")] = 0.0
    throughput_tps: Annotated[float, in_range("Metrics.throughput_tps")]
    peak_mem_mb: Annotated[int, in_range("Metrics.peak_mem_mb")]
    error_rate: Annotated[float, in_range("Metrics.error_rate")]
    kv_used_tokens: Annotated[int, in_range("Metrics.kv_used_tokens")] = 0
    kv_used_bytes: Annotated[int, in_range("Metrics.kv_used_bytes")] = 0
    prefix_hit_rate: Annotated[float, in_range("Metrics.prefix_hit_rate")] = 0.0
    evict_count: Annotated[int, in_range("Metrics.evict_count")] = 0
    evict_ms: Annotated[float, in_range("Metrics.evict_ms")] = 0.0
    spec_accept_rate: Annotated[float, in_range("Metrics.spec_accept_rate")] = 0.0
    prefill_ms: Annotated[float, in_range("Metrics.prefill_ms")] = 0.0
    decode_ms: Annotated[float, in_range("Metrics.decode_ms")] = 0.0
    kv_transfer_count: Annotated[int, in_range("Metrics.kv_transfer_count")] = 0
    kv_transfer_bytes: Annotated[int, in_range("Metrics.kv_transfer_bytes")] = 0
    kv_transfer_ms: Annotated[float, in_range("Metrics.kv_transfer_ms")] = 0.0
    comm_overhead_ms: Annotated[float, in_range("Metrics.comm_overhead_ms")] = 0.0
    allreduce_count: Annotated[int, in_range("Metrics.allreduce_count")] = 0
    allgather_count: Annotated[int, in_range("Metrics.allgather_count")] = 0
    itl_list: list[float] = Field(default_factory=list[float])
    timestamps: Timestamps | None = None
    component_trace: list[str] | None = None


class Error(Wire[pb.Error]):
    """An error of a request."""

    code: Annotated[ErrorCode | Unknown, OR_UNKNOWN]
    message: str
    retryable: bool | None = None


class Response(Wire[pb.Response]):
    """The complete reply."""

    request_id: str
    trace_id: str
    output_text: str
    output_tokens: list[int]
    prompt_tokens: int | None = None
    finish_reason: FinishReason
    metrics: Metrics
    error: Error | None = None
