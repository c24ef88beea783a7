"""Parameters of requests: their types, their rules and their form on the wire."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NoReturn, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import LONE_SURROGATE, json_object, mapping, sequence
from smg_proto.vllm._config import AsyncToken, CallParams, Given, Token, json_text, plain, text
from smg_proto.vllm._errors import VLLMGrpcValidationError
from smg_proto.vllm._tokenizer import TokenDecoder

TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
_MOST: Final = (2 - 2**-23) * 2.0**127  # of a 32-bit float
Float = Annotated[float, Field(ge=-_MOST, le=_MOST)]
_GREEDY: Final = 1e-5  # vLLM's threshold for greedy sampling
_MOST_CHOICES: Final = 16384  # vLLM's VLLM_MAX_N_SEQUENCES


class Params(BaseModel):
    """Base of parameters: strict, without unknown names, and with errors that show no values."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    if not TYPE_CHECKING:  # so that type checkers see the fields

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                _raise(error)

    @field_validator(
        "media_refs", "stream_options", "structured_outputs", mode="before", check_fields=False
    )
    @classmethod
    def _keys(cls, value: object, info: ValidationInfo) -> object:
        """Check the names of an object in this one; pydantic passes them to its __init__()."""
        for one in sequence(value) or (value,):
            if not all(isinstance(name, str) for name in mapping(one) or ()):
                raise VLLMGrpcValidationError(info.field_name or "", "keys must be strings")
        return value


def _raise(error: ValidationError) -> NoReturn:
    """Raise pydantic's first error as one that names the parameter and its rule, not the value."""
    found = error.errors()
    first = max(
        (one for one in found if one["loc"][:1] == found[0]["loc"][:1]),
        key=lambda one: len(one["loc"]),  # of a union, the type that fits best
    )
    # The numbers are places in a list; other parts after the name are types of a union.
    name, *places = first["loc"] or ("",)
    param = ".".join([str(name), *(str(place) for place in places if isinstance(place, int))])
    problem = first["msg"][:1].lower() + first["msg"][1:]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, VLLMGrpcValidationError):  # of an object in the parameter, or of several
        if not param or cause.param.startswith(param):
            raise cause from None
        param, problem = f"{param}.{cause.param}", cause.problem
    elif first["type"] == "extra_forbidden":
        problem = _UNKNOWN.get(param, UNKNOWN_PARAMETER)
    elif first["type"] == "string_unicode":
        problem = LONE_SURROGATE
    raise VLLMGrpcValidationError(param, problem) from None


UNKNOWN_PARAMETER: Final = "unknown parameter"
# Parameters of OpenAI's library that this server does not support. Values that ask for nothing are
# accepted.
_UNKNOWN: Final = {
    "best_of": "vLLM does not support best_of; request n choices with logprobs and choose",
    "echo": "the server does not echo the prompt; put it in front of the text yourself",
    "suffix": "vLLM does not insert text between prompt and suffix",
    "extra_query": "gRPC requests do not have a URL; use metadata=",
    "extra_body": "gRPC requests do not have a JSON body; pass the parameter by its name",
    "response_format": "use structured_outputs=StructuredOutputs(json_schema=…)",
    "store": "the server stores nothing",
    "dimensions": "the server returns whole vectors; cut them yourself",
    "encoding_format": "vectors are always returned as floats",
}
_NO_OPS: Final[dict[str, tuple[object, ...]]] = {
    "best_of": (),  # 1 or n
    "echo": (False,),
    "suffix": ("",),
    "extra_query": ({},),
    "extra_body": ({},),
    "store": (False,),
    "encoding_format": ("float",),
    "user": (),
}


def without_no_ops(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters without those that ask for nothing: `echo=False`, or `user`, which vLLM does
    not use."""
    if _NO_OPS.keys().isdisjoint(params):
        return params
    kept = dict(params)
    for name in _NO_OPS.keys() & params.keys():
        value = plain(kept[name])
        if name == "user":
            text(name, value)
        values = _NO_OPS[name] if name != "best_of" else (1, plain(kept.get("n")))
        if name == "user" or any(type(value) is type(one) and value == one for one in values):
            del kept[name]
    return kept


class TokenizedInput(Params):
    """A prompt as token ids, optionally with its text."""

    original_text: str = ""
    input_ids: list[TokenId] = Field(min_length=1)


class ChoiceConstraint(Params):
    """The output must be one of these texts."""

    choices: list[Text] = []


class StructuredOutputs(Params):
    """A constraint on the output: exactly one of these fields."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    json_object: bool | None = None
    choice: ChoiceConstraint | list[Text] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "StructuredOutputs":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise VLLMGrpcValidationError(
                "structured_outputs", f"give exactly one constraint, not {given or 'none'}"
            )
        name, value = self._constraint()
        if not value:
            problem = "is empty or false; omit it for free text"
            raise VLLMGrpcValidationError(f"structured_outputs.{name}", problem)
        if name in ("json_schema", "structural_tag") and isinstance(value, str):
            _json_object(f"structured_outputs.{name}", value)
        return self

    def fill(self, wire: pb.SamplingParams) -> None:
        """Set the constraint in a message."""
        name, value = self._constraint()
        if name == "choice":
            wire.choice.choices.extend(value)
        else:
            if not isinstance(value, str | bool):
                value = json_text(f"structured_outputs.{name}", value)
            setattr(wire, name, value)

    def _constraint(self) -> tuple[str, Any]:
        """The name and value of the only field that is set."""
        ((name, value),) = (field for field in self if field[1] is not None)
        return name, value.choices if isinstance(value, ChoiceConstraint) else value


class MediaRef(Params):
    """An image, sound or video that the server downloads."""

    url: Text
    modality: Literal["image", "audio", "video"] = "image"


class StreamOptions(Params):
    """What a stream reports besides the text."""

    include_usage: bool = False
    """A last chunk without choices has the usage."""
    continuous_usage_stats: bool = False
    """Every chunk has the usage so far."""


class SamplingParams(Params):
    """How to choose tokens and when to stop. Ranges are vLLM's.

    Unset fields are not sent, or are sent as "off" if the wire does not distinguish the two.
    """

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: Float = Field(default=1.0, gt=0)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**32)
    min_tokens: int = Field(default=0, ge=0, lt=2**32)
    stop: list[Text] | None = None
    stop_token_ids: list[TokenId] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    ignore_eos: bool = False
    n: int = Field(default=1, ge=1, le=_MOST_CHOICES)
    logprobs: int | None = Field(default=None, ge=-1, lt=2**31)
    prompt_logprobs: int | None = Field(default=None, ge=-1, lt=2**31)
    seed: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    include_stop_str_in_output: bool = False
    logit_bias: dict[Annotated[int, Field(ge=0, lt=2**31, strict=False)], Float] | None = None
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, lt=2**31)
    structured_outputs: StructuredOutputs | None = None
    grammar_from_first_token: bool = False

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> "SamplingParams":
        if self.n > 1 and self.temperature is not None and self.temperature < _GREEDY:
            raise VLLMGrpcValidationError(
                "n", "must be 1 for greedy sampling (temperature 0); or raise temperature"
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise VLLMGrpcValidationError(
                "min_tokens", f"{self.min_tokens} is above max_tokens={self.max_tokens}"
            )
        return self

    def to_grpc(self) -> pb.SamplingParams:
        """The fields that are set, and the value for "off" where unset would be read as 0."""
        values = dict(_OFF)
        for name in self.model_fields_set & _ON_THE_WIRE:
            values[name] = getattr(self, name)
        if self.top_k < 0:
            values["top_k"] = 0  # -1 is "off" too
        wire = pb.SamplingParams(**values)
        if self.structured_outputs is not None:
            self.structured_outputs.fill(wire)
        return wire


_ON_THE_WIRE = {*SamplingParams.model_fields} - {"structured_outputs"}
_OFF: dict[str, Any] = {
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "n": 1,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
}


def _json_object(param: str, content: str) -> None:
    if json_object(content) is None:
        raise VLLMGrpcValidationError(param, "must be the JSON text of an object")


class CompletionRequest(SamplingParams):
    """The arguments of `completions.create`, without prompt and call options, checked."""

    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    model: Text | None = None
    use_model_defaults: bool = False
    stream_options: StreamOptions | None = None
    kv_transfer_params: str | dict[str, Any] | None = None
    data_parallel_rank: int | None = Field(default=None, ge=0, lt=2**31)
    media_refs: list[MediaRef] | None = Field(default=None, min_length=1)
    mm_inputs: list[pb.MultimodalInputs] | None = Field(default=None, min_length=1)

    @field_validator("mm_inputs", mode="before")
    @classmethod
    def _one_input(cls, value: object) -> object:
        return [value] if isinstance(value, pb.MultimodalInputs) else value

    @model_validator(mode="after")
    def _media(self) -> "CompletionRequest":
        if self.media_refs is not None and self.mm_inputs is not None:
            raise VLLMGrpcValidationError("media_refs", "cannot be used with mm_inputs")
        if isinstance(self.kv_transfer_params, str):
            _json_object("kv_transfer_params", self.kv_transfer_params)
        return self

    @classmethod
    def of(cls, given: dict[str, Any]) -> "CompletionRequest":
        """From the arguments of `create`, which may include a SamplingParams."""
        sampling = given.pop("sampling_params", None)
        if sampling is not None:
            if not isinstance(sampling, SamplingParams):
                raise VLLMGrpcValidationError("sampling_params", "must be a SamplingParams")
            base = {name: getattr(sampling, name) for name in sampling.model_fields_set}
            if twice := base.keys() & given.keys():
                problem = "given twice: by itself and in sampling_params"
                raise VLLMGrpcValidationError(min(twice), problem)
            given = base | given
        return cls(**{name: plain(value) for name, value in without_no_ops(given).items()})

    def with_defaults(self, defaults: Mapping[str, Any]) -> "CompletionRequest":
        """A copy with the model's own sampling parameters in place of unset ones."""
        known = {k: v for k, v in defaults.items() if k in SamplingParams.model_fields}
        if not known:
            return self
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        return CompletionRequest(**known | given)


# The parameters for type checkers. They are documented in the docstrings of `create`.


class SamplingKeywords(CallParams, total=False):
    """Parameters that completions and chat share."""

    request_id: Given[str]
    model: Given[str]
    temperature: Given[float]
    top_p: Given[float]
    top_k: Given[int]
    min_p: Given[float]
    frequency_penalty: Given[float]
    presence_penalty: Given[float]
    repetition_penalty: Given[float]
    max_tokens: Given[int]
    min_tokens: Given[int]
    stop: Given[str | Sequence[str]]
    stop_token_ids: Given[Sequence[int]]
    skip_special_tokens: Given[bool]
    spaces_between_special_tokens: Given[bool]
    ignore_eos: Given[bool]
    n: Given[int]
    prompt_logprobs: Given[int]
    seed: Given[int]
    include_stop_str_in_output: Given[bool]
    logit_bias: Given[Mapping[int, float] | Mapping[str, float]]
    structured_outputs: Given[StructuredOutputs]
    grammar_from_first_token: Given[bool]
    kv_transfer_params: Given[str | Mapping[str, Any]]
    data_parallel_rank: Given[int]
    use_model_defaults: Given[bool]
    stream_options: Given[StreamOptions | Mapping[str, bool]]
    user: Given[str]
    extra_query: Given[Mapping[str, object]]
    extra_body: Given[Mapping[str, object]]


class CompletionParams(SamplingKeywords, total=False):
    """Parameters of `completions.create` besides prompt and stream. None: unset."""

    sampling_params: Given[SamplingParams]
    logprobs: Given[int]
    truncate_prompt_tokens: Given[int]
    media_refs: Given[Sequence[MediaRef]]
    mm_inputs: Given[pb.MultimodalInputs | Sequence[pb.MultimodalInputs]]
    decoder: TokenDecoder | Literal["server"] | None
    best_of: Given[Literal[1]]
    echo: Given[Literal[False]]
    suffix: Given[Literal[""]]


class ChatParams(SamplingKeywords, total=False):
    """Parameters of `chat.completions.create` besides messages and stream."""

    max_completion_tokens: Given[int]
    logprobs: Given[bool]
    top_logprobs: Given[int]
    tools: Given[Sequence[Mapping[str, Any]]]
    tool_choice: Given[Literal["auto", "none"]]
    response_format: Given[Mapping[str, Any]]
    chat_template: Given[str]
    chat_template_kwargs: Given[Mapping[str, Any]]
    add_generation_prompt: Given[bool]
    continue_final_message: Given[bool]
    store: Given[Literal[False]]


class EmbeddingParams(CallParams, total=False):
    """Parameters of `embeddings.create` besides input."""

    request_id: Given[str]
    model: Given[str]
    user: Given[str]
    encoding_format: Given[Literal["float"]]
    extra_query: Given[Mapping[str, object]]
    extra_body: Given[Mapping[str, object]]


class OptionParams(TypedDict, total=False):
    decoder: TokenDecoder | Literal["server"] | None


class ClientParams(CallParams, OptionParams, total=False):
    token: Token | None


class AsyncClientParams(CallParams, OptionParams, total=False):
    token: AsyncToken | None


Prompt: TypeAlias = str | Sequence[int] | TokenizedInput
Prompts: TypeAlias = Prompt | Sequence[str] | Sequence[Sequence[int]] | Sequence[TokenizedInput]
Input: TypeAlias = str | pb.TokenizedInput  # the prompt of one request
ChatMessages: TypeAlias = Sequence[Mapping[str, Any] | BaseModel]
"""OpenAI's messages: mappings, or the message objects of a reply."""


def parse_prompts(value: object, param: str = "prompt") -> list[Input]:
    """One prompt or several, checked."""
    items = sequence(value)
    if items and not hasattr(items[0], "__index__"):
        return [parse_prompt(item, f"{param}[{i}]") for i, item in enumerate(items)]
    return [parse_prompt(value, param)]


def parse_prompt(value: object, param: str) -> Input:
    if isinstance(value, str) and value:
        return text(param, value)
    ids: Sequence[Any] | None = value if isinstance(value, str) else sequence(value)
    if ids is None:
        if isinstance(value, TokenizedInput):
            return pb.TokenizedInput(original_text=value.original_text, input_ids=value.input_ids)
        if isinstance(value, pb.TokenizedInput):
            if not value.input_ids:
                raise VLLMGrpcValidationError(param, "has no token ids")
            return value
        raise VLLMGrpcValidationError(
            param,
            "must be text, a sequence of token ids, a TokenizedInput, or a list of these, "
            f"not {type(value).__name__}",
        )
    if not ids:
        raise VLLMGrpcValidationError(param, "is empty")
    try:
        if bool in set(map(type, ids)):
            raise TypeError
        return pb.TokenizedInput(input_ids=ids)
    except (TypeError, ValueError):
        raise VLLMGrpcValidationError(
            param, f"token ids must be whole numbers from 0 to {2**32 - 1}"
        ) from None
