"""The vLLM client over vLLM's own gRPC says what vLLM's own HTTP server says.

One vllm-rs serves both, over the stand-in for the engine core: the tokens are the small model's,
and what becomes of them is vLLM's doing: text, stops, reasons. The stand-in keeps to schemas and
choices, not to regexes. Neither server takes more than one choice of a prompt.
"""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from typing import Any

import pytest

from engines.processes import free_port
from engines.real import Workshop
from engines.standin import write_model
from smg_proto.testing._model import model
from smg_proto.testing._tokenizer import IM_END
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    StructuredOutputs,
    TokenDecoder,
    VLLMGrpcClient,
    VLLMGrpcInvalidArgumentError,
)

pytestmark = pytest.mark.engines

PROMPT = "One contract"
PERIOD = model().tokenizer.encode(".")[0]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
Params = dict[str, Any]

STOPS: dict[str, Params] = {
    "": {},
    "stop, ": {"stop": [" a", "never said"]},
    "kept stop, ": {"stop": ["y c", " a"], "include_stop_str_in_output": True},
    "late stop, ": {"stop": " a", "min_tokens": 14},
}
ENDS: dict[str, Params] = {
    "limit": {"max_tokens": 16},
    "end token": {"max_tokens": 300},
    "further end token": {"max_tokens": 300, "min_tokens": 9, "logit_bias": {IM_END: 100}},
    "stop token": {"max_tokens": 300, "stop_token_ids": [PERIOD]},
    "no end": {"max_tokens": 60, "ignore_eos": True},
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


@dataclass(frozen=True)
class Servers:
    """The two servers of one vllm-rs."""

    grpc: str
    http: str
    model: str
    decoder: TokenDecoder

    def post(self, path: str, body: Params) -> Params:
        """The reply of the HTTP server."""
        data = {"model": self.model, "return_token_ids": True, **body}
        request = urllib.request.Request(
            f"{self.http}{path}", json.dumps(data).encode(), {"content-type": "application/json"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=60) as reply:
            told: Params = json.load(reply)
        return told


@pytest.fixture(scope="module")
def servers(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("client")
    decoder = TokenDecoder.from_model_path(write_model(home))
    port = free_port()
    with workshop.frontend(home / "vllm-rs", http=port) as engine:
        yield Servers(engine.target, f"http://127.0.0.1:{port}", engine.model, decoder)


def over_http(reply: Params) -> list[Any]:
    (choice,), usage = reply["choices"], reply["usage"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    ended = choice["finish_reason"], choice["stop_reason"]
    return [text, choice["token_ids"], ended, usage["prompt_tokens"], usage["completion_tokens"]]


def over_grpc(result: Any) -> list[Any]:
    """The same of a Completion or a ChatCompletion."""
    return over_http(result.model_dump())


async def said(servers: Servers, resource: str, params: Params, **settings: Any) -> list[Any]:
    """What the sync and the async client return, each without a stream and with one."""
    settings |= {"target": servers.grpc, "protocol": "inference"}
    create = attrgetter(f"{resource}.create")
    with VLLMGrpcClient(**settings) as client:
        stream = create(client)(stream=True, **params)
        found = [create(client)(**params), stream.get_final_completion()]
    async with AsyncVLLMGrpcClient(**settings) as other:
        stream = await create(other)(stream=True, **params)
        deltas = [piece async for piece in stream.text_stream]
        found += [await create(other)(**params), stream.completion]
    results = list(map(over_grpc, found))
    assert "".join(deltas) == results[-1][0]
    return results


@pytest.mark.parametrize("params", CASES.values(), ids=CASES)
async def test_completions_are_those_of_the_http_server(servers: Servers, params: Params) -> None:
    asked = {"prompt": PROMPT, **params}
    expected = over_http(servers.post("/v1/completions", asked))
    assert await said(servers, "completions", asked) == [expected] * 4


def test_the_cases_cover_every_finish_reason(servers: Servers) -> None:
    ends = {
        (choice["finish_reason"], choice["stop_reason"])
        for params in CASES.values()
        for choice in servers.post("/v1/completions", {"prompt": PROMPT, **params})["choices"]
    }
    stops = {("stop", None), ("stop", IM_END), ("stop", PERIOD), ("stop", " a"), ("stop", "y c")}
    assert ends == stops | {("length", None)}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_structured_outputs_are_those_of_the_http_server(
    servers: Servers, form: Params
) -> None:
    asked: Params = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    by_name = {"json" if name == "json_schema" else name: value for name, value in form.items()}
    reply = servers.post("/v1/completions", {**asked, "structured_outputs": by_name})
    asked["structured_outputs"] = StructuredOutputs(**form)
    assert await said(servers, "completions", asked) == [over_http(reply)] * 4


def test_several_prompts_give_the_same_output_as_single_ones(servers: Servers) -> None:
    prompts = [[20, 21, 300], [300, 400], model().tokenizer.encode(PROMPT)]
    params: Params = {"max_tokens": 40, "temperature": 0.8, "seed": 3, "stop": " a"}
    alone = [servers.post("/v1/completions", {"prompt": one, **params}) for one in prompts]
    with VLLMGrpcClient(target=servers.grpc, protocol="inference") as client:
        create: Any = client.completions.create
        whole = create(prompt=prompts, **params)
        stream = create(prompt=prompts, stream=True, **params)
        for result in (whole, stream.get_final_completion()):
            for number, reply in enumerate(alone):
                one = result.model_copy(update={"choices": [result.choices[number]]})
                assert over_grpc(one)[:3] == over_http(reply)[:3]


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
async def test_greedy_chat_is_that_of_the_http_server(
    servers: Servers, messages: list[Params]
) -> None:
    ends: list[Params] = [{"max_tokens": 12}, {"max_tokens": 300}, {"max_tokens": 300, "stop": "s"}]
    for end in ends:
        asked: Params = {"messages": messages, "temperature": 0, **end}
        expected = over_http(servers.post("/v1/chat/completions", asked))
        found = await said(servers, "chat.completions", asked, decoder=servers.decoder)
        assert found == [expected] * 4


def test_several_choices_are_rejected_by_name(servers: Servers) -> None:
    """Its HTTP server says: "Only n=1 is supported."."""
    with (
        VLLMGrpcClient(target=servers.grpc, protocol="inference") as client,
        pytest.raises(VLLMGrpcInvalidArgumentError, match="num_sequences"),
    ):
        client.completions.create(prompt=PROMPT, n=2)
