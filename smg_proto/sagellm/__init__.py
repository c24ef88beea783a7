"""sageLLM's Protocol 0.1: its models, validated, and carried by the messages of sagellm.v1.

    from smg_proto.sagellm import Request

    message = Request(request_id="r", trace_id="t", prompt="Hi", max_tokens=8).to_proto()
    request = Request.from_proto(message)

Names, fields and constraints are the protocol's own. Needs the extra `client`.
"""

try:
    import pydantic as _pydantic  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError:
    raise ImportError(
        "smg_proto.sagellm needs pydantic: pip install 'smg-grpc-proto[client]'"
    ) from None

from smg_proto.sagellm._codec import WireError
from smg_proto.sagellm._enums import (
    DecodingStrategy,
    ErrorCode,
    KVDType,
    KVEvictReason,
    KVHookEvent,
    KVLayout,
    KVPriority,
    SamplingPreset,
    Unknown,
)
from smg_proto.sagellm._events import (
    AnyStreamEvent,
    DeltaEvent,
    EndEvent,
    StartEvent,
    StreamEvent,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
    StreamEventUnknown,
    stream_event_from_proto,
)
from smg_proto.sagellm._kv import (
    KVAllocateParams,
    KVEvictParams,
    KVFreeParams,
    KVHandle,
    KVHookPayload,
    KVMigrateParams,
    KVPrefetchParams,
    KVQoSPolicy,
)
from smg_proto.sagellm._models import (
    DEFAULT_SAMPLING_PARAMS,
    ChatMessage,
    Error,
    Metrics,
    Request,
    Response,
    SamplingParams,
    Timestamps,
)
from smg_proto.sagellm._openai import (
    ChatCompletionChoice,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ChatCompletionStreamChoice,
    ChatCompletionStreamDelta,
    ChatCompletionStreamResponse,
    ChatCompletionUsage,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    EmbeddingData,
    EmbeddingRequest,
    EmbeddingResponse,
    EmbeddingUsage,
    ModelInfo,
    ModelListResponse,
    OpenAIError,
    OpenAIErrorResponse,
)
from smg_proto.sagellm._version import (
    PROTOCOL_VERSION,
    ProtocolVersion,
    get_interface_since_version,
    is_interface_frozen,
    negotiate_version,
)
from smg_proto.sagellm._wire import (
    Model,
    UnknownWarning,
)

__all__ = [
    "DEFAULT_SAMPLING_PARAMS",
    "PROTOCOL_VERSION",
    "AnyStreamEvent",
    "ChatCompletionChoice",
    "ChatCompletionRequest",
    "ChatCompletionResponse",
    "ChatCompletionStreamChoice",
    "ChatCompletionStreamDelta",
    "ChatCompletionStreamResponse",
    "ChatCompletionUsage",
    "ChatMessage",
    "CompletionChoice",
    "CompletionRequest",
    "CompletionResponse",
    "CompletionUsage",
    "DecodingStrategy",
    "DeltaEvent",
    "EmbeddingData",
    "EmbeddingRequest",
    "EmbeddingResponse",
    "EmbeddingUsage",
    "EndEvent",
    "Error",
    "ErrorCode",
    "KVAllocateParams",
    "KVDType",
    "KVEvictParams",
    "KVEvictReason",
    "KVFreeParams",
    "KVHandle",
    "KVHookEvent",
    "KVHookPayload",
    "KVLayout",
    "KVMigrateParams",
    "KVPrefetchParams",
    "KVPriority",
    "KVQoSPolicy",
    "Metrics",
    "Model",
    "ModelInfo",
    "ModelListResponse",
    "OpenAIError",
    "OpenAIErrorResponse",
    "ProtocolVersion",
    "Request",
    "Response",
    "SamplingParams",
    "SamplingPreset",
    "StartEvent",
    "StreamEvent",
    "StreamEventDelta",
    "StreamEventEnd",
    "StreamEventStart",
    "StreamEventUnknown",
    "Timestamps",
    "Unknown",
    "UnknownWarning",
    "WireError",
    "get_interface_since_version",
    "is_interface_frozen",
    "negotiate_version",
    "stream_event_from_proto",
]
