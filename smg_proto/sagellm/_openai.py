"""The protocol's models of OpenAI's HTTP bodies. On gRPC, smg.v1 has the equivalent messages."""

import time
from typing import Annotated, Literal

from pydantic import Field

from smg_proto.sagellm._bounds import in_range
from smg_proto.sagellm._models import ChatMessage
from smg_proto.sagellm._wire import Model

# The ranges of the protocol's own sampling parameters.
_Temperature = Annotated[float, in_range("SamplingParams.temperature")]
_TopP = Annotated[float | None, in_range("Request.top_p")]
_Penalty = Annotated[float, in_range("SamplingParams.presence_penalty")]
_ChatEnd = Literal["stop", "length", "content_filter", "tool_calls"] | None
_TextEnd = Literal["stop", "length", "content_filter"] | None


def _now() -> int:
    return int(time.time())


class ChatCompletionRequest(Model):
    """POST /v1/chat/completions."""

    model: str
    messages: list[ChatMessage]
    temperature: _Temperature = 1.0
    max_tokens: int | None = None
    stream: bool = False
    top_p: _TopP = None
    n: int = 1
    stop: str | list[str] | None = None
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    user: str | None = None
    session_id: str | None = None
    trace_id: str | None = None


class ChatCompletionChoice(Model):
    """One choice of a chat."""

    index: int
    message: ChatMessage
    finish_reason: _ChatEnd


class ChatCompletionUsage(Model):
    """Token counts of a chat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletionResponse(Model):
    """The reply to ChatCompletionRequest."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(default_factory=_now)
    model: str
    choices: list[ChatCompletionChoice]
    usage: ChatCompletionUsage
    trace_id: str | None = None


class ChatCompletionStreamDelta(Model):
    """The new text of a chunk."""

    role: str | None = None
    content: str | None = None


class ChatCompletionStreamChoice(Model):
    """A chunk's part of one choice."""

    index: int
    delta: ChatCompletionStreamDelta
    finish_reason: _ChatEnd = None


class ChatCompletionStreamResponse(Model):
    """One chunk of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int = Field(default_factory=_now)
    model: str
    choices: list[ChatCompletionStreamChoice]


class CompletionRequest(Model):
    """POST /v1/completions."""

    model: str
    prompt: str
    temperature: _Temperature = 1.0
    max_tokens: int | None = None
    stream: bool = False
    top_p: _TopP = None
    n: int = 1
    stop: str | list[str] | None = None
    user: str | None = None
    trace_id: str | None = None


class CompletionChoice(Model):
    """One continuation."""

    index: int
    text: str
    finish_reason: _TextEnd


class CompletionUsage(Model):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(Model):
    """The reply to CompletionRequest."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(default_factory=_now)
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    trace_id: str | None = None


class EmbeddingRequest(Model):
    """POST /v1/embeddings."""

    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class EmbeddingData(Model):
    """The vector of one input."""

    object: Literal["embedding"] = "embedding"
    embedding: list[float]
    index: int


class EmbeddingUsage(Model):
    """Token counts of embeddings."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Model):
    """The reply to EmbeddingRequest."""

    object: Literal["list"] = "list"
    data: list[EmbeddingData]
    model: str
    usage: EmbeddingUsage


class ModelInfo(Model):
    """An available model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(default_factory=_now)
    owned_by: str = "sagellm"


class ModelListResponse(Model):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class OpenAIError(Model):
    """An error in OpenAI's form."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorResponse(Model):
    """The body of an error response."""

    error: OpenAIError
