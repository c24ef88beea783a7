"""Validated models of sageLLM's Protocol 0.1, which convert to the messages of sagellm.v1.

    from smg_proto.sagellm import Request

    message = Request(request_id="r", trace_id="t", prompt="Hi", max_tokens=8).to_proto()
    request = Request.from_proto(message)

Names, fields and constraints are the protocol's own. Functions convert requests for vLLM's gRPC
server (`create_arguments`, `to_generate_request`) and the gateway (`to_completion_request`), and
turn a vLLM stream into events (`stream_events`). `GenerateServicer` serves GenerateService with a
vLLM engine. Requires the extra `client`.
"""

try:
    import pydantic as _pydantic  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError:
    raise ImportError(
        "smg_proto.sagellm needs pydantic: pip install 'smg-grpc-proto[client]'"
    ) from None

from smg_proto.sagellm._bridge import BridgeError
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
from smg_proto.sagellm._gateway import (
    completion_metadata,
    from_completion_request,
    to_completion_request,
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
    DecodingStrategy,
    Error,
    ErrorCode,
    KVDType,
    KVEvictReason,
    KVHookEvent,
    KVLayout,
    KVPriority,
    Metrics,
    Request,
    Response,
    SamplingParams,
    SamplingPreset,
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
from smg_proto.sagellm._service import GenerateServicer
from smg_proto.sagellm._unknown import Unknown
from smg_proto.sagellm._version import (
    PROTOCOL_VERSION,
    ProtocolVersion,
    get_interface_since_version,
    is_interface_frozen,
    negotiate_version,
)
from smg_proto.sagellm._vllm import create_arguments, from_generate_request, to_generate_request
from smg_proto.sagellm._vllm_events import (
    EngineChoice,
    EngineChunk,
    EngineUsage,
    astream_events,
    response_from_events,
    stream_events,
)
from smg_proto.sagellm._wire import Model, UnknownWarning, WireError

__all__ = [
    "DEFAULT_SAMPLING_PARAMS",
    "PROTOCOL_VERSION",
    "AnyStreamEvent",
    "BridgeError",
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
    "EngineChoice",
    "EngineChunk",
    "EngineUsage",
    "Error",
    "ErrorCode",
    "GenerateServicer",
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
    "astream_events",
    "completion_metadata",
    "create_arguments",
    "from_completion_request",
    "from_generate_request",
    "get_interface_since_version",
    "is_interface_frozen",
    "negotiate_version",
    "response_from_events",
    "stream_event_from_proto",
    "stream_events",
    "to_completion_request",
    "to_generate_request",
]
