"""A client of vLLM's gRPC server with the shape of OpenAI's: `client.completions.create(...)`.

Needs the extra `client`; turning token ids into text needs `decode` as well:
pip install 'smg-grpc-proto[client,decode]'
"""

try:
    import pydantic as _pydantic  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError:
    raise ImportError(
        "smg_proto.vllm needs pydantic: pip install 'smg-grpc-proto[client]'"
    ) from None

from smg_proto import __version__
from smg_proto.vllm.aio import AsyncVLLMGrpcClient
from smg_proto.vllm.aio_stream import AsyncGenerateStream, AsyncKvEventStream
from smg_proto.vllm.bundle import TokenizerBundle
from smg_proto.vllm.client import VLLMGrpcClient
from smg_proto.vllm.decode import IncrementalDecoder, TokenDecoder
from smg_proto.vllm.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    VLLMGrpcAbortedError,
    VLLMGrpcAlreadyExistsError,
    VLLMGrpcCancelledError,
    VLLMGrpcClosedError,
    VLLMGrpcConnectionError,
    VLLMGrpcDataLossError,
    VLLMGrpcError,
    VLLMGrpcFailedPreconditionError,
    VLLMGrpcInternalError,
    VLLMGrpcInvalidArgumentError,
    VLLMGrpcNotFoundError,
    VLLMGrpcOutOfRangeError,
    VLLMGrpcPermissionDeniedError,
    VLLMGrpcResourceExhaustedError,
    VLLMGrpcTimeoutError,
    VLLMGrpcUnauthenticatedError,
    VLLMGrpcUnavailableError,
    VLLMGrpcUnimplementedError,
    VLLMGrpcUnknownError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm.options import Timeout
from smg_proto.vllm.params import (
    ChoiceConstraint,
    MediaRef,
    SamplingParams,
    StreamOptions,
    StructuredOutputs,
    TokenizedInput,
)
from smg_proto.vllm.results import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    CompletionTokensDetails,
    CompletionUsage,
    Embedding,
    EmbeddingResponse,
    EmbeddingUsage,
    PromptTokensDetails,
)
from smg_proto.vllm.server_results import (
    HealthCheckResponse,
    Loads,
    ModelInfo,
    ModelList,
    Outcome,
    SchedulerLoad,
    ServerInfo,
)
from smg_proto.vllm.stream import GenerateStream, KvEventStream

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncGenerateStream",
    "AsyncKvEventStream",
    "AsyncVLLMGrpcClient",
    "AuthenticationError",
    "BadRequestError",
    "ChoiceConstraint",
    "Completion",
    "CompletionChoice",
    "CompletionChunk",
    "CompletionChunkChoice",
    "CompletionLogprobs",
    "CompletionTokensDetails",
    "CompletionUsage",
    "ConflictError",
    "Embedding",
    "EmbeddingResponse",
    "EmbeddingUsage",
    "GenerateStream",
    "HealthCheckResponse",
    "IncrementalDecoder",
    "InternalServerError",
    "KvEventStream",
    "Loads",
    "MediaRef",
    "ModelInfo",
    "ModelList",
    "NotFoundError",
    "Outcome",
    "PermissionDeniedError",
    "PromptTokensDetails",
    "RateLimitError",
    "SamplingParams",
    "SchedulerLoad",
    "ServerInfo",
    "StreamOptions",
    "StructuredOutputs",
    "Timeout",
    "TokenDecoder",
    "TokenizedInput",
    "TokenizerBundle",
    "VLLMGrpcAbortedError",
    "VLLMGrpcAlreadyExistsError",
    "VLLMGrpcCancelledError",
    "VLLMGrpcClient",
    "VLLMGrpcClosedError",
    "VLLMGrpcConnectionError",
    "VLLMGrpcDataLossError",
    "VLLMGrpcError",
    "VLLMGrpcFailedPreconditionError",
    "VLLMGrpcInternalError",
    "VLLMGrpcInvalidArgumentError",
    "VLLMGrpcNotFoundError",
    "VLLMGrpcOutOfRangeError",
    "VLLMGrpcPermissionDeniedError",
    "VLLMGrpcResourceExhaustedError",
    "VLLMGrpcTimeoutError",
    "VLLMGrpcUnauthenticatedError",
    "VLLMGrpcUnavailableError",
    "VLLMGrpcUnimplementedError",
    "VLLMGrpcUnknownError",
    "VLLMGrpcValidationError",
    "__version__",
]
