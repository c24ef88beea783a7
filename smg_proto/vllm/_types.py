"""What callers get: OpenAI's shapes, filled with what the server reports and nothing invented.

`raw` is the message that an object was made of. It is left out of dumps and of repr().
"""

import random
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache, cached_property
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import Metadata, json_object


def new_request_id(prefix: str) -> str:
    return f"{prefix}-{random.getrandbits(96):024x}"


class Result(BaseModel):
    """Base of results. `model_path` and the like are the server's words, not pydantic's."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        protected_namespaces=(), arbitrary_types_allowed=True
    )


ResultT = TypeVar("ResultT", bound=Result)


def assembled(kind: type[ResultT], values: dict[str, Any]) -> ResultT:
    """An object with these values as they are, of which there is one for each field.

    A stream makes thousands of chunks: validating each takes as long as receiving it. This is
    model_construct() without its look at every field.
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


class Decodable(Result):
    """A result whose tokens may be decoded by hand."""

    @cached_property
    def _decoding(self) -> Any:
        """How the request wanted its tokens as text. Put in place by whoever made the result."""
        return None


# Completions.


class PromptTokensDetails(Result):
    cached_tokens: int = 0


class CompletionTokensDetails(Result):
    """None: the server does not report it. No current server reports reasoning tokens."""

    reasoning_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None


class CompletionUsage(Result):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that came from the cache; 0 also when the server does not know."""
    prompt_tokens_details: PromptTokensDetails = Field(default_factory=PromptTokensDetails)
    completion_tokens_details: CompletionTokensDetails | None = None
    """None: the server reports none of them."""


class CompletionLogprobs(Result):
    """Logprobs by position, as OpenAI lists them, and the token ids that the server speaks of.

    A token is shown as `token_id:N` when no decoder is attached; `text_offset` is then empty.
    `top_ids` keeps what `top_logprobs` cannot: two ids with the same text.
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
    """Cut at stops, as vLLM does it. None: there is no decoder."""
    token_ids: list[int] = []
    """All of them: also the end token, the stop token, or the tokens of the stop string."""
    finish_reason: str | None = None
    """stop, length, abort, error or repetition. None while the choice is unfinished."""
    stop_reason: int | str | None = None
    """The stop token id or stop string that ended the choice; None for the model's first end token.
    Its further end tokens, in its generation config, are reported like stop tokens."""
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: CompletionLogprobs | None = None
    kv_transfer_params: dict[str, Any] | None = None
    raw: SkipValidation[pb.GenerateComplete | None] = Field(default=None, exclude=True, repr=False)


class Completion(Decodable):
    id: str = Field(default_factory=lambda: new_request_id("cmpl"))
    object: str = "text_completion"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str = ""
    choices: list[CompletionChoice] = []
    usage: CompletionUsage | None = None
    initial_metadata: SkipValidation[Metadata] = Field(default=(), exclude=True, repr=False)
    trailing_metadata: SkipValidation[Metadata] = Field(default=(), exclude=True, repr=False)

    @property
    def request_id(self) -> str:
        """What Abort would have to name; the same as `id`."""
        return self.id

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
        """`delta_text`, by OpenAI's name."""
        return self.delta_text

    @property
    def token_ids(self) -> list[int]:
        """`delta_token_ids`, by the name it has in a choice."""
        return self.delta_token_ids


class CompletionChunk(Decodable):
    id: str
    object: str = "text_completion.chunk"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str = ""
    choices: list[CompletionChunkChoice] = []
    usage: CompletionUsage | None = None
    raw: SkipValidation[pb.GenerateResponse | None] = Field(default=None, exclude=True, repr=False)

    @property
    def request_id(self) -> str:
        return self.id


# Chat.


class ChatCompletionMessage(Result):
    """What the model said. Reasoning and tool calls are in `content`, in the model's own syntax."""

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
    raw: SkipValidation[pb.GenerateComplete | None] = Field(default=None, exclude=True, repr=False)


class ChatCompletion(Result):
    id: str = Field(default_factory=lambda: new_request_id("chatcmpl"))
    object: str = "chat.completion"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str = ""
    choices: list[ChatCompletionChoice] = []
    usage: CompletionUsage | None = None
    initial_metadata: SkipValidation[Metadata] = Field(default=(), exclude=True, repr=False)
    trailing_metadata: SkipValidation[Metadata] = Field(default=(), exclude=True, repr=False)

    @property
    def request_id(self) -> str:
        return self.id


class ChatCompletionDelta(Result):
    role: str | None = None
    """In the first chunk of a choice."""
    content: str | None = None


class ChatCompletionChunkChoice(Result):
    index: int = 0
    delta: ChatCompletionDelta = Field(default_factory=ChatCompletionDelta)
    token_ids: list[int] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: ChatLogprobs | None = None


class ChatCompletionChunk(Result):
    id: str
    object: str = "chat.completion.chunk"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str = ""
    choices: list[ChatCompletionChunkChoice] = []
    usage: CompletionUsage | None = None
    raw: SkipValidation[pb.GenerateResponse | None] = Field(default=None, exclude=True, repr=False)

    @property
    def request_id(self) -> str:
        return self.id


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
    raw: SkipValidation[list[pb.EmbedResponse]] = Field(
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


# What the server says of itself. Each is made of the message with the same fields.


def fields_of(wire: Message, kind: type[Result]) -> dict[str, Any]:
    """The fields of a message that a result has too."""
    found: dict[str, Any] = {}
    for field in wire.DESCRIPTOR.fields:
        if field.name in kind.model_fields:
            value = getattr(wire, field.name)
            found[field.name] = list(value) if hasattr(value, "extend") else value
    return found


class HealthCheckResponse(Result):
    healthy: bool
    message: str = ""

    @classmethod
    def from_grpc(cls, wire: pb.HealthCheckResponse) -> "HealthCheckResponse":
        return cls(**fields_of(wire, cls))


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
    """The model's own generation settings; applied by chat, and with `use_model_defaults=True`."""
    raw: SkipValidation[pb.GetModelInfoResponse | None] = Field(
        default=None, exclude=True, repr=False
    )

    @property
    def id(self) -> str:
        """The model's name: the served one, else its path."""
        return self.served_model_name or self.model_path

    @classmethod
    def from_grpc(cls, wire: pb.GetModelInfoResponse) -> "ModelInfo":
        defaults = json_object(wire.default_sampling_params_json) or {}
        return cls(**fields_of(wire, cls), default_sampling_params=defaults, raw=wire)


class ModelList(ModelInfo):
    """The one model that an engine serves, as a list of it: iterating gives ModelInfo."""

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

    Current servers do not fill the first five; `loads.retrieve()` reports activity.
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
        values = fields_of(wire, cls)
        if not any(values[name] for name in _ACTIVITY):  # a server that does not fill them
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
    raw: SkipValidation[pb.GetLoadsResponse | None] = Field(default=None, exclude=True, repr=False)

    @property
    def active_requests(self) -> int:
        """Running and waiting requests of all ranks."""
        return sum(load.num_total_reqs for load in self.loads)

    @classmethod
    def from_grpc(cls, wire: pb.GetLoadsResponse) -> "Loads":
        loads = [SchedulerLoad(**fields_of(load, SchedulerLoad)) for load in wire.loads]
        return cls(timestamp=wire.timestamp, version=wire.version, loads=loads, raw=wire)


class Outcome(Result):
    """What became of an administrative request. A refusal is a reply, not an error."""

    success: bool
    message: str = ""

    @classmethod
    def from_grpc(
        cls, wire: common_pb2.FlushCacheResponse | common_pb2.ProfileResponse
    ) -> "Outcome":
        return cls(**fields_of(wire, cls))
