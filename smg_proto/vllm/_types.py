"""Results, with OpenAI's fields. Values come from the server and are never made up.

`raw` is the message that an object was made from. Dumps and repr() do not include it.
"""

import random
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache, cached_property
from typing import Any, ClassVar, TypeAlias, TypeVar

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field, SkipValidation
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import Self

from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import Metadata, json_object

T = TypeVar("T")
Raw: TypeAlias = SkipJsonSchema[SkipValidation[T]]
"""What only this process can use: dumps and schemas do not include it."""


def new_request_id(prefix: str) -> str:
    return f"{prefix}-{random.getrandbits(96):024x}"


class Result(BaseModel):
    """Base of results. Fields may start with `model_`, which pydantic would reserve."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        protected_namespaces=(), arbitrary_types_allowed=True
    )


ResultT = TypeVar("ResultT", bound=Result)


def assembled(kind: type[ResultT], values: dict[str, Any]) -> ResultT:
    """An object with these values, one for each field, without validation.

    Validating a chunk takes as long as receiving it. This is faster than model_construct(), which
    looks at every field.
    """
    made = object.__new__(kind)
    _SET_VALUES(made, values)
    _SET_FIELDS(made, _all_fields(kind))
    _SET_EXTRA(made, None)
    _SET_PRIVATE(made, None)
    return made


_SET_VALUES, _SET_FIELDS, _SET_EXTRA, _SET_PRIVATE = (
    vars(BaseModel)[f"__{name}__"].__set__
    for name in ("dict", "pydantic_fields_set", "pydantic_extra", "pydantic_private")
)


@cache
def _all_fields(kind: type[Result]) -> set[str]:
    return set(kind.model_fields)


class Generated(Result):
    """A result or chunk of a completion or a chat."""

    id: str
    object: str = ""
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str = ""

    @property
    def request_id(self) -> str:
        """The id for `health.abort()`; the same as `id`."""
        return self.id


class Decodable(Generated):
    """A result whose tokens the caller can decode."""

    @cached_property
    def _decoding(self) -> Any:
        """A CallerDecoding, if the result belongs to a request."""
        return None


# Completions.


class PromptTokensDetails(Result):
    cached_tokens: int = 0


class CompletionTokensDetails(Result):
    """None: not reported. No current server reports reasoning tokens."""

    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class CompletionUsage(Result):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    """Prompt tokens from the cache. 0 can also mean that the server does not report them."""
    prompt_tokens_details: PromptTokensDetails = Field(default_factory=PromptTokensDetails)
    completion_tokens_details: CompletionTokensDetails | None = None
    """None: not reported."""


class CompletionLogprobs(Result):
    """OpenAI's logprobs by position, and token ids.

    Without a decoder, the text of a token is `token_id:N`, and `text_offset` is empty. `top_ids`
    distinguishes ids with the same text, `top_logprobs` does not.
    """

    tokens: list[str] = []
    token_ids: list[int] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    top_ids: list[dict[int, float] | None] = []
    text_offset: list[int] = []


class CompletionChoice(Result):
    index: int = 0
    text: str | None = None
    """Cut at stops, like vLLM's. None: there is no decoder."""
    token_ids: list[int] = []
    """All tokens, including the end token, the stop token, or the tokens of the stop string."""
    finish_reason: str | None = None
    """stop, length, abort, error or repetition. None while the choice is unfinished."""
    stop_reason: int | str | None = None
    """The stop token id or stop string that ended the choice. None for the model's first end token;
    further ones, from its generation config, are reported like stop tokens."""
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: CompletionLogprobs | None = None
    kv_transfer_params: dict[str, Any] | None = None
    raw: Raw[pb.GenerateComplete | None] = Field(default=None, exclude=True, repr=False)


class Completion(Decodable):
    id: str = Field(default_factory=lambda: new_request_id("cmpl"))
    object: str = "text_completion"
    choices: list[CompletionChoice] = []
    usage: CompletionUsage | None = None
    initial_metadata: Raw[Metadata] = Field(default=(), exclude=True, repr=False)
    trailing_metadata: Raw[Metadata] = Field(default=(), exclude=True, repr=False)

    @property
    def raw(self) -> list[pb.GenerateComplete]:
        """The message that ended each choice."""
        return [choice.raw for choice in self.choices if choice.raw is not None]


class CompletionChunkChoice(Result):
    index: int = 0
    delta_token_ids: list[int] = []
    delta_text: str | None = None
    """None: there is no decoder."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: CompletionLogprobs | None = None

    @property
    def text(self) -> str | None:
        """OpenAI's name of `delta_text`."""
        return self.delta_text

    @property
    def token_ids(self) -> list[int]:
        """The name of `delta_token_ids` in CompletionChoice."""
        return self.delta_token_ids


class CompletionChunk(Decodable):
    object: str = "text_completion.chunk"
    choices: list[CompletionChunkChoice] = []
    usage: CompletionUsage | None = None
    raw: Raw[pb.GenerateResponse | None] = Field(default=None, exclude=True, repr=False)


# Chat.


class ChatCompletionMessage(Result):
    """A message of the model. `content` includes reasoning and tool calls in the model's syntax."""

    role: str = "assistant"
    content: str | None = None


class ChatTopLogprob(Result):
    token: str
    logprob: float
    bytes: list[int] | None = None
    token_id: int


class ChatTokenLogprob(ChatTopLogprob):
    top_logprobs: list[ChatTopLogprob] = []


class ChatLogprobs(Result):
    content: list[ChatTokenLogprob] = []


class ChatCompletionChoice(Result):
    index: int = 0
    message: ChatCompletionMessage = Field(default_factory=ChatCompletionMessage)
    token_ids: list[int] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: ChatLogprobs | None = None
    prompt_logprobs: CompletionLogprobs | None = None
    raw: Raw[pb.GenerateComplete | None] = Field(default=None, exclude=True, repr=False)


class ChatCompletion(Generated):
    id: str = Field(default_factory=lambda: new_request_id("chatcmpl"))
    object: str = "chat.completion"
    choices: list[ChatCompletionChoice] = []
    usage: CompletionUsage | None = None
    initial_metadata: Raw[Metadata] = Field(default=(), exclude=True, repr=False)
    trailing_metadata: Raw[Metadata] = Field(default=(), exclude=True, repr=False)


class ChatCompletionDelta(Result):
    role: str | None = None
    """Set in the first chunk of a choice."""
    content: str | None = None


class ChatCompletionChunkChoice(Result):
    index: int = 0
    delta: ChatCompletionDelta = Field(default_factory=ChatCompletionDelta)
    token_ids: list[int] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: ChatLogprobs | None = None


class ChatCompletionChunk(Generated):
    object: str = "chat.completion.chunk"
    choices: list[ChatCompletionChunkChoice] = []
    usage: CompletionUsage | None = None
    raw: Raw[pb.GenerateResponse | None] = Field(default=None, exclude=True, repr=False)


# Embeddings.


class Embedding(Result):
    object: str = "embedding"
    embedding: list[float]
    index: int = 0


class EmbeddingUsage(Result):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Result):
    object: str = "list"
    data: list[Embedding] = []
    model: str = ""
    usage: EmbeddingUsage | None = None
    raw: Raw[list[pb.EmbedResponse]] = Field(
        default_factory=list[pb.EmbedResponse], exclude=True, repr=False
    )


def embedding_response(replies: list[pb.EmbedResponse], model: str) -> EmbeddingResponse:
    tokens = sum(reply.prompt_tokens for reply in replies)
    return EmbeddingResponse(
        data=[
            Embedding(embedding=list(reply.embedding), index=index)
            for index, reply in enumerate(replies)
        ],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        raw=replies,
    )


# Descriptions of the server, made from messages with the same fields.


def fields_of(wire: Message, kind: type[Result]) -> dict[str, Any]:
    """The fields that a message has in common with a result."""
    found: dict[str, Any] = {}
    for field in wire.DESCRIPTOR.fields:
        if field.name in kind.model_fields:
            value = getattr(wire, field.name)
            found[field.name] = list(value) if hasattr(value, "extend") else value
    return found


class Copied(Result):
    """A result with the fields of its message."""

    @classmethod
    def from_grpc(cls, wire: Message) -> Self:
        return cls(**fields_of(wire, cls))


class HealthCheckResponse(Copied):
    healthy: bool
    message: str = ""


class ModelInfo(Result):
    model_path: str
    is_generation: bool
    max_context_length: int
    vocab_size: int
    supports_vision: bool
    object: str = "model"
    served_model_name: str = ""
    tokenizer_path: str = ""
    model_type: str = ""
    architectures: list[str] = Field(default_factory=list[str])
    eos_token_ids: list[int] = Field(default_factory=list[int])
    pad_token_id: int = 0
    bos_token_id: int = 0
    max_req_input_len: int = 0
    default_sampling_params: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The model's own generation config, for chat and `use_model_defaults=True`."""
    raw: Raw[pb.GetModelInfoResponse | None] = Field(default=None, exclude=True, repr=False)

    @property
    def id(self) -> str:
        """The served name of the model, else its path."""
        return self.served_model_name or self.model_path

    @classmethod
    def from_grpc(cls, wire: pb.GetModelInfoResponse) -> "ModelInfo":
        defaults = json_object(wire.default_sampling_params_json) or {}
        return cls(**fields_of(wire, cls), default_sampling_params=defaults, raw=wire)


class ModelList(ModelInfo):
    """The models of a server, of which an engine has one. Iterating gives ModelInfo."""

    object: str = "list"
    data: list[ModelInfo] = Field(default_factory=list[ModelInfo])

    def __iter__(self) -> Iterator[ModelInfo]:  # type: ignore[override]  # ty: ignore
        return iter(self.data)

    async def __aiter__(self) -> AsyncIterator[ModelInfo]:
        for model in self.data:
            yield model

    def __len__(self) -> int:
        return len(self.data)

    @classmethod
    def of(cls, info: ModelInfo) -> "ModelList":
        return cls.model_validate({**info.__dict__, "object": "list", "data": [info]})


_ACTIVITY = (
    "active_requests",
    "is_paused",
    "last_receive_timestamp",
    "uptime_seconds",
    "server_type",
)


class ServerInfo(Result):
    """The server's configuration. None, 0 or empty: not reported, or not in use.

    Current servers do not report the first five fields; use `loads.retrieve()` for activity.
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
    raw: Raw[pb.GetServerInfoResponse | None] = Field(default=None, exclude=True, repr=False)

    @classmethod
    def from_grpc(cls, wire: pb.GetServerInfoResponse) -> "ServerInfo":
        values = fields_of(wire, cls)
        if not any(values[name] for name in _ACTIVITY):
            values |= dict.fromkeys(_ACTIVITY)
        return cls(**values, raw=wire)


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
    raw: Raw[pb.GetLoadsResponse | None] = Field(default=None, exclude=True, repr=False)

    @property
    def active_requests(self) -> int:
        """Running and waiting requests of all ranks."""
        return sum(load.num_total_reqs for load in self.loads)

    @classmethod
    def from_grpc(cls, wire: pb.GetLoadsResponse) -> "Loads":
        loads = [SchedulerLoad(**fields_of(load, SchedulerLoad)) for load in wire.loads]
        return cls(timestamp=wire.timestamp, version=wire.version, loads=loads, raw=wire)


class Outcome(Copied):
    """The result of an administrative request. If the server rejects it, `success` is False."""

    success: bool
    message: str = ""
