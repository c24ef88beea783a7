"""What a GenerateRequest asks of the built-in model: checked as a vLLM server checks it."""

import json
import math
from collections.abc import Callable

import grpc

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing._generation import Sampling
from smg_proto.testing._json_schema import Unsupported, smallest_text
from smg_proto.testing._model import Model

MAX_LOGPROBS = 20
MAX_CHOICES = 16384  # vLLM's VLLM_MAX_N_SEQUENCES


class Refused(Exception):
    """A request that ends with a status."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.code = code


def unsupported(message: str) -> Refused:
    return Refused(message, grpc.StatusCode.UNIMPLEMENTED)


def prompt_of(request: pb.GenerateRequest, model: Model) -> list[int]:
    """The prompt's token ids."""
    _check(not request.HasField("media_refs"), "media_refs need a media processor, which is off")
    if request.HasField("mm_inputs") or request.extra_mm_inputs:
        raise unsupported("the built-in model takes no media")
    match request.WhichOneof("input"):
        case "tokenized":
            prompt = list(request.tokenized.input_ids)
        case "text":
            prompt = model.tokenizer.encode(request.text)
            params = request.sampling_params
            if params.HasField("truncate_prompt_tokens"):
                keep = params.truncate_prompt_tokens  # below 0: no cut
                prompt = prompt[-keep:] if keep > 0 else [] if keep == 0 else prompt
        case None:
            prompt = []
    _check(bool(prompt), "the prompt is empty")
    _check(
        all(token < model.tokenizer.vocab_size for token in prompt),
        "the prompt has a token id outside the vocabulary",
    )
    _check(
        len(prompt) < model.context_length,
        f"the prompt of {len(prompt)} tokens does not fit the context of {model.context_length}",
    )
    return prompt


def sampling_of(
    request: pb.GenerateRequest, answer: str | None, vocabulary: int, max_logprobs: int
) -> Sampling:
    """The parameters, what is unset filled in. A scripted answer takes the place of the model's."""
    params = request.sampling_params
    temperature = params.temperature if params.HasField("temperature") else 1.0
    _check_ranges(params, temperature)
    _check_logprobs(params, vocabulary, max_logprobs)
    for name, ids in (("stop_token_ids", params.stop_token_ids), ("logit_bias", params.logit_bias)):
        _check(
            all(0 <= token < vocabulary for token in ids),
            f"{name} has a token id outside the vocabulary",
        )
    if request.data_parallel_rank:
        raise Refused("data_parallel_rank is out of range: there is one rank")
    if request.kv_transfer_params_json:
        _check_json(request.kv_transfer_params_json, "kv_transfer_params_json")
    whole = answer if answer is not None else _constrained(params)
    return Sampling(
        max_tokens=params.max_tokens if params.HasField("max_tokens") else None,
        temperature=temperature,
        top_p=params.top_p or 1.0,
        top_k=params.top_k,
        min_p=params.min_p,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        repetition_penalty=params.repetition_penalty or 1.0,
        logit_bias=tuple(sorted(params.logit_bias.items())),
        seed=params.seed if params.seed != -1 else 0,
        min_tokens=params.min_tokens,
        stop=tuple(params.stop),
        stop_token_ids=tuple(params.stop_token_ids),
        ignore_eos=params.ignore_eos,
        skip_special=params.skip_special_tokens,
        logprobs=params.logprobs if params.HasField("logprobs") else None,
        whole=whole,
    )


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Refused(otherwise)


def _check_ranges(params: pb.SamplingParams, temperature: float) -> None:
    _check(0 <= temperature <= 2, "temperature must be from 0 to 2")
    _check(0 <= params.top_p <= 1, "top_p must be above 0 and at most 1")
    _check(0 <= params.min_p <= 1, "min_p must be from 0 to 1")
    _check(-2 <= params.frequency_penalty <= 2, "frequency_penalty must be from -2 to 2")
    _check(-2 <= params.presence_penalty <= 2, "presence_penalty must be from -2 to 2")
    rate = params.repetition_penalty
    _check(rate >= 0 and math.isfinite(rate), "repetition_penalty must be above 0")
    most = params.max_tokens if params.HasField("max_tokens") else math.inf
    _check(most >= 1, "max_tokens must be at least 1")
    _check(params.min_tokens <= most, "min_tokens must not be above max_tokens")
    _check("" not in params.stop, "a stop string must not be empty")
    _check(params.n <= 1 or temperature >= 1e-5, "n must be 1 when temperature is 0")
    _check(params.n <= MAX_CHOICES, f"n must be at most {MAX_CHOICES}")


def _check_logprobs(params: pb.SamplingParams, vocabulary: int, most: int) -> None:
    """-1 asks for the whole vocabulary, which the default of --max-logprobs does not allow."""
    for name, asked in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        _check(asked >= -1, f"{name} must be -1 or more")
        wanted = vocabulary if asked == -1 else asked
        _check(
            most == -1 or wanted <= most,
            f"{name} of {wanted} is greater than the maximum of {most} (--max-logprobs)",
        )


def _check_json(text: str, name: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    _check(isinstance(value, dict), f"{name} must be a JSON object")


def _constrained(params: pb.SamplingParams) -> str | None:
    """The text that a constraint leads to."""
    makers: dict[str, Callable[[], str]] = {
        "json_schema": lambda: smallest_text(params.json_schema),
        "json_object": lambda: smallest_text(""),
        "choice": lambda: params.choice.choices[0],
    }
    kind = params.WhichOneof("constraint")
    if kind is None:
        return None
    _check(kind != "json_object" or params.json_object, "json_object must be true or unset")
    if kind not in makers:
        raise unsupported(f"the built-in model cannot keep to a constraint of kind {kind}")
    try:
        return makers[kind]()
    except Unsupported as error:
        raise unsupported(str(error)) from None
    except (ValueError, IndexError):
        raise Refused(f"the constraint {kind} is empty or is not JSON") from None
