"""The prompt and the sampling of a GenerateRequest, checked as a vLLM server checks them."""

import json

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing._engine.checks import (
    Rejected,
    check,
    check_prompt,
    check_sampling,
    fitting_json,
    grammar,
    unsupported,
)
from smg_proto.testing._generation import Sampling
from smg_proto.testing._model import Model

MAX_LOGPROBS = 20
MAX_CHOICES = 16384  # vLLM's VLLM_MAX_N_SEQUENCES


def prompt_of(request: pb.GenerateRequest, model: Model) -> list[int]:
    """The prompt's token ids."""
    check(not request.HasField("media_refs"), "media_refs need a media processor, which is off")
    if request.HasField("mm_inputs") or request.extra_mm_inputs:
        raise unsupported("the built-in model does not support media")
    match request.WhichOneof("input"):
        case "tokenized":
            prompt = list(request.tokenized.input_ids)
        case "text":
            prompt = model.tokenizer.encode(request.text)
            params = request.sampling_params
            if params.HasField("truncate_prompt_tokens"):
                keep = params.truncate_prompt_tokens  # below 0: all
                prompt = prompt[-keep:] if keep > 0 else [] if keep == 0 else prompt
        case None:
            prompt = []
    check_prompt(prompt, model)
    return prompt


def sampling_of(
    request: pb.GenerateRequest, answer: str | None, vocabulary: int, max_logprobs: int
) -> Sampling:
    """The parameters, with defaults for those that are unset. `answer` is a scripted output."""
    params = request.sampling_params
    _check_logprobs(params, vocabulary, max_logprobs)
    for name, ids in (("stop_token_ids", params.stop_token_ids), ("logit_bias", params.logit_bias)):
        check(
            all(0 <= token < vocabulary for token in ids),
            f"{name} has a token id outside the vocabulary",
        )
    if request.data_parallel_rank:
        raise Rejected("data_parallel_rank is out of range: there is one rank")
    if request.kv_transfer_params_json:
        _check_json(request.kv_transfer_params_json, "kv_transfer_params_json")
    replacement = answer if answer is not None else _constrained(params)
    sampling = Sampling(
        max_tokens=params.max_tokens if params.HasField("max_tokens") else None,
        temperature=params.temperature if params.HasField("temperature") else 1.0,
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
        replacement=replacement,
    )
    check_sampling(sampling)
    for name in ("frequency_penalty", "presence_penalty"):
        check(-2 <= getattr(params, name) <= 2, f"{name} must be from -2 to 2")
    check(params.n <= 1 or sampling.temperature >= 1e-5, "n must be 1 when temperature is 0")
    check(params.n <= MAX_CHOICES, f"n must be at most {MAX_CHOICES}")
    return sampling


def _check_logprobs(params: pb.SamplingParams, vocabulary: int, maximum: int) -> None:
    """Check both counts. -1 is the whole vocabulary, which the default --max-logprobs rejects."""
    for name, count in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        check(count >= -1, f"{name} must be at least -1")
        requested = vocabulary if count == -1 else count
        check(
            maximum == -1 or requested <= maximum,
            f"{name} of {requested} is greater than the maximum of {maximum} (--max-logprobs)",
        )


def _check_json(text: str, name: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    check(isinstance(value, dict), f"{name} must be a JSON object")


def _constrained(params: pb.SamplingParams) -> str | None:
    """The text that a constraint leads to."""
    match params.WhichOneof("constraint"):
        case None:
            return None
        case "json_schema":
            return fitting_json(params.json_schema)
        case "json_object":
            check(params.json_object, "json_object must be true or unset")
            return fitting_json("")
        case "choice":
            check(bool(params.choice.choices), "choice must have at least one entry")
            return params.choice.choices[0]
        case kind:
            raise grammar(kind)
