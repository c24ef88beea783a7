"""The closed sets of the protocol, and what holds a value that only a newer peer knows."""

import re
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

if TYPE_CHECKING:
    from smg_proto.sagellm._models import SamplingParams

_UNKNOWN = re.compile(r"unknown_(-?\d+)")


class Unknown(str):
    """A value of a closed set that this release does not know: `unknown_77`, number 77 on the wire.

    It stands where a member of the set would, goes back to the wire as the same number and, like
    a member, has `name` and `value`.
    """

    number: int

    def __new__(cls, number: int) -> "Unknown":
        self = super().__new__(cls, f"unknown_{number}")
        self.number = number
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> Any:
        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(
                str, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    def __getnewargs__(self) -> Any:  # for copy and pickle
        return (self.number,)

    @property
    def name(self) -> str:
        return f"UNKNOWN_{self.number}"

    @property
    def value(self) -> str:
        return str(self)


class _OrUnknown:
    """Validates `Closed | Unknown` as the closed set alone, except that Unknown passes."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        closed: Any = get_args(source)[0]
        members: dict[str, Any] = {m.value: m for m in getattr(closed, "__members__", {}).values()}

        def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
            if isinstance(value, str) and (match := _UNKNOWN.fullmatch(value)):
                return Unknown(int(match[1]))
            # The value counts as the member also where pydantic is strict.
            known = members.get(value, value) if isinstance(value, str) else value
            return inner(known)

        def plain(value: Any) -> str:
            return str(value.value if isinstance(value, Enum) else value)

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(closed),
            serialization=core_schema.plain_serializer_function_ser_schema(
                plain, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )


OR_UNKNOWN = _OrUnknown()


class ErrorCode(str, Enum):
    """What kind of error."""

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


class SamplingPreset(str, Enum):
    """Named sampling parameters. Not on the wire: send the parameters."""

    DETERMINISTIC = "deterministic"
    BALANCED = "balanced"
    CREATIVE = "creative"
    PRECISE = "precise"

    @classmethod
    def get_params(cls, preset: "SamplingPreset") -> "SamplingParams":
        """The parameters behind a name, in an object of your own."""
        from smg_proto.sagellm._models import SamplingParams

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
    """When a hook of the KV cache's lifecycle is called."""

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
    """Named priorities. Not on the wire: the parameters carry a number."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    BACKGROUND = "background"


FinishReason = Annotated[Literal["stop", "length", "error"] | Unknown, OR_UNKNOWN]
Phase = Annotated[Literal["prefill", "decode"] | Unknown, OR_UNKNOWN]
Role = Annotated[Literal["system", "user", "assistant", "function", "tool"] | Unknown, OR_UNKNOWN]
