"""What a caller gets: OpenAI's shapes, filled with what the server reports and nothing invented.

`raw` is the message that an object was made of. It is left out of dumps and of repr().
"""

import random
import time
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.checks import json_object
from smg_proto.vllm.errors import Metadata


def new_request_id(prefix: str) -> str:
    return f"{prefix}-{random.getrandbits(96):024x}"


class Result(BaseModel):
    """Base of results. `model_path` and the like are the server's words, not pydantic's."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        protected_namespaces=(), arbitrary_types_allowed=True
    )


class PromptTokensDetails(Result):
    cached_tokens: int = 0


class CompletionTokensDetails(Result):
    """None: the server does not report it. No present server tells reasoning tokens apart."""

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
    text: str = ""
    """Filled when the client has a decoder; cut at stop strings."""
    token_ids: list[int] = []
    """All of them: also the stop token, or the tokens of the stop string."""
    finish_reason: str | None = None
    """stop, length, abort, error or repetition. None: the stream has not got so far."""
    stop_reason: int | str | None = None
    """The stop token id or stop string that ended the choice; None for the end token."""
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: CompletionLogprobs | None = None
    kv_transfer_params: dict[str, Any] | None = None
    raw: SkipValidation[pb.GenerateComplete | None] = Field(default=None, exclude=True, repr=False)


class Completion(Result):
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

    @classmethod
    def from_grpc_complete(
        cls, complete: pb.GenerateComplete, request_id: str, model: str = ""
    ) -> "Completion":
        """One unstreamed choice as a completion."""
        return cls(
            id=request_id,
            model=model,
            choices=[
                CompletionChoice(
                    index=complete.index,
                    token_ids=list(complete.output_ids),
                    finish_reason=complete.finish_reason or None,
                    stop_reason=stop_reason(complete),
                    logprobs=output_logprobs(complete),
                    raw=complete,
                )
            ],
            usage=CompletionUsage.model_validate(
                usage(complete.prompt_tokens, complete.completion_tokens, complete.cached_tokens)
            ),
        )


class CompletionChunkChoice(Result):
    index: int = 0
    delta_token_ids: list[int] = []
    delta_text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: CompletionLogprobs | None = None

    @property
    def text(self) -> str:
        """`delta_text`, by OpenAI's name."""
        return self.delta_text

    @property
    def token_ids(self) -> list[int]:
        """`delta_token_ids`, by the name it has in a choice."""
        return self.delta_token_ids


class CompletionChunk(Result):
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

    @classmethod
    def from_grpc_chunk(
        cls, chunk: pb.GenerateStreamChunk, request_id: str, model: str = ""
    ) -> "CompletionChunk":
        """One message of a stream, by itself; its usage counts this message only."""
        choice = CompletionChunkChoice(
            index=chunk.index,
            delta_token_ids=list(chunk.token_ids),
            logprobs=output_logprobs(chunk),
        )
        counts = CompletionUsage.model_validate(
            usage(chunk.prompt_tokens, chunk.completion_tokens, chunk.cached_tokens)
        )
        return cls(id=request_id, model=model, choices=[choice], usage=counts)


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
    raw: SkipValidation[list[pb.EmbedResponse]] = Field(default=[], exclude=True, repr=False)

    @classmethod
    def from_grpc_response(cls, response: pb.EmbedResponse, model: str = "") -> "EmbeddingResponse":
        return cls.from_grpc_responses([response], model)

    @classmethod
    def from_grpc_responses(
        cls, responses: list[pb.EmbedResponse], model: str = ""
    ) -> "EmbeddingResponse":
        tokens = sum(response.prompt_tokens for response in responses)
        return cls(
            data=[
                Embedding(embedding=list(response.embedding), index=index)
                for index, response in enumerate(responses)
            ],
            model=model,
            usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
            raw=responses,
        )


def stop_reason(complete: pb.GenerateComplete) -> int | str | None:
    match complete.WhichOneof("matched_stop"):
        case "matched_token_id":
            return complete.matched_token_id
        case "matched_stop_str":
            return complete.matched_stop_str
        case _:
            return None


def kv_transfer_params(complete: pb.GenerateComplete) -> dict[str, Any] | None:
    if not complete.HasField("kv_transfer_params_json"):
        return None
    return json_object(complete.kv_transfer_params_json)


def usage(
    prompt: int, completion: int, cached: int, accepted: int = 0, drafted: int = 0
) -> dict[str, object]:
    """CompletionUsage, not yet validated."""
    result: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cached_tokens": cached,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if drafted:
        result["completion_tokens_details"] = {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        }
    return result


def token_name(token_id: int) -> str:
    """How a token is shown when nothing can decode it."""
    return f"token_id:{token_id}"


def _top(
    tops: "list[pb.TopLogProbs]",
) -> tuple[list[dict[str, float] | None], list[dict[int, float] | None]]:
    by_id = [dict(zip(top.token_ids, top.values, strict=False)) or None for top in tops]
    by_name = [
        None if top is None else {token_name(i): value for i, value in top.items()} for top in by_id
    ]
    return by_name, by_id


def output_logprobs(
    message: pb.GenerateStreamChunk | pb.GenerateComplete,
) -> CompletionLogprobs | None:
    if not message.HasField("output_logprobs"):
        return None
    wire = message.output_logprobs
    by_name, by_id = _top(list(wire.top_logprobs))
    return CompletionLogprobs(
        tokens=[token_name(i) for i in wire.token_ids],
        token_ids=list(wire.token_ids),
        token_logprobs=list(wire.token_logprobs),
        top_logprobs=by_name,
        top_ids=by_id,
    )


def input_logprobs(
    message: pb.GenerateStreamChunk | pb.GenerateComplete,
) -> CompletionLogprobs | None:
    if not message.HasField("input_logprobs"):
        return None
    wire = message.input_logprobs
    by_name, by_id = _top(list(wire.top_logprobs))
    return CompletionLogprobs(
        tokens=[token_name(i) for i in wire.token_ids],
        token_ids=list(wire.token_ids),
        token_logprobs=[
            entry.value if entry.HasField("value") else None for entry in wire.token_logprobs
        ],
        top_logprobs=by_name,
        top_ids=by_id,
    )
