"""What the gateway does with each field of a request is what docs/support.md says.

A field is set, and the request that the worker received and the reply are compared with those of
the same request without it. SMG_PROTO_RECORD=1 writes what was seen into the record, of which
scripts/build.py makes the page.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from e2e.conftest import GATEWAY, PARSERS, TEMPLATE
from e2e.deployment import Deployment, front_door, gateway, over_http
from smg_proto import smg_pb2 as smg
from smg_proto.build import function_tool, image, user
from smg_proto.frontdoor._ignored import Gateway, ignored_fields
from smg_proto.streams import collect
from smg_proto.testing import FakeVllmEngine, run_vllm_engine

pytestmark = pytest.mark.e2e

RECORD = Path(__file__).with_name("support.json")
VERSION = GATEWAY.partition("==")[2]
TEXT = "One, two, three, four and five."
THOUGHT = f"<think>\nOne and one.\n</think>\n\n{TEXT}"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
SCHEMA = smg.JsonSchema(schema_json='{"type":"object"}')
PICTURE = image("https://example.org/cat.png")
# What changes with every request, and what follows from the requests before.
VOLATILE = {"id", "requestId", "createTime", "completeTime", "pipeline", "usage", "callId"}


def add(a: int) -> None:
    """Add."""


TOOLS = [function_tool(add)]


@dataclass(frozen=True)
class Probe:
    """A field, a value for it, and what the request must have besides, with and without it."""

    path: str
    value: Any
    beside: dict[str, Any] = field(default_factory=dict[str, Any])
    says: str = TEXT  # what the model says
    # Where the reply has what was asked for. Without it any difference shows that it was honored.
    returns: Callable[[Any], Any] | None = None
    instead: str = ""  # the field of the base whose place it takes


SAMPLING = [
    Probe("max_tokens", 3),
    Probe("temperature", 0.5),
    Probe("top_p", 0.5),
    Probe("top_k", 3),
    Probe("stop", ["four"]),
    Probe("seed", 7),
    Probe("frequency_penalty", 0.5),
    Probe("presence_penalty", 0.5),
    Probe("sampling.min_p", 0.5),
    Probe("sampling.repetition_penalty", 1.5),
    Probe("sampling.min_tokens", 1),
    Probe("sampling.stop_token_ids", [9]),
    Probe("sampling.ignore_eos", True),
    Probe("sampling.include_stop_in_output", True, {"stop": ["four"]}),
    Probe("sampling.skip_special_tokens", False),
    Probe("output_format.json_schema", SCHEMA),
    Probe("output_format.json_object", smg.JsonObject()),
    Probe("output_format.regex", "a+"),
    Probe("output_format.grammar", 'root ::= "a"'),
]
CALLING = [
    Probe("tools", TOOLS),
    Probe("tool_choice", smg.ToolChoice(mode=smg.TOOL_CHOICE_MODE_REQUIRED), {"tools": TOOLS}),
    Probe("parallel_tool_calls", False, {"tools": TOOLS}, says=CALL + CALL),
]


def only(*names: str) -> list[Probe]:
    return [probe for probe in SAMPLING if probe.path in names]


def summaries(reply: smg.Response) -> list[str]:
    return [text for item in reply.output for text in item.reasoning.summary]


SAID = [smg.ChatMessage(role=smg.ROLE_USER, content="hello")]
GOES_ON = [*SAID, smg.ChatMessage(role=smg.ROLE_ASSISTANT, content="One")]
# Each RPC: what its requests have at least, and the fields to try.
PROBES: dict[str, tuple[Any, list[Probe]]] = {
    "CompletionService.Complete": (
        smg.CompletionRequest(prompt="hello"),
        [
            *SAMPLING,
            Probe("prompts", [smg.CompletionPrompt(text=t) for t in "ab"], instead="prompt"),
            Probe("prompt_token_ids", smg.TokenIds(ids=[9, 10]), instead="prompt"),
            Probe("logprobs", 2, returns=lambda reply: reply.logprobs),
            Probe("return_token_ids", True, returns=lambda reply: reply.token_ids),
            Probe("n", 2, {"temperature": 0.5}),
            Probe("echo", True),
        ],
    ),
    "ChatService.Chat": (
        smg.ChatRequest(messages=SAID),
        [
            *SAMPLING,
            *CALLING,
            Probe("messages.parts.image", [user("hello", PICTURE)], instead="messages"),
            Probe("logprobs", 2, returns=lambda reply: reply.choices[0].logprobs),
            Probe("return_token_ids", True, returns=lambda reply: reply.choices[0].token_ids),
            Probe("reasoning_effort", "low"),
            Probe("reasoning_budget_tokens", 2048),
            Probe("separate_reasoning", False, says=THOUGHT),
            Probe("chat_template_kwargs_json", '{"mood":"calm"}'),
            Probe("continue_final_message", True, {"messages": GOES_ON}),
            Probe("n", 2, {"temperature": 0.5}),
        ],
    ),
    "MessageService.CreateMessage": (
        smg.CreateMessageRequest(
            max_tokens=200,
            turns=[smg.Turn(role=smg.ROLE_USER, blocks=[smg.MessageBlock(text="hello")])],
        ),
        [
            *only("max_tokens", "temperature", "top_p", "top_k", "stop"),
            *only("output_format.json_schema"),
            *CALLING,
            Probe("reasoning_effort", "low", says=THOUGHT),
            Probe("reasoning_budget_tokens", 2048, {"max_tokens": 4096}, says=TEXT),
            Probe("system", "Be brief."),
        ],
    ),
    "ResponseService.CreateResponse": (
        smg.CreateResponseRequest(input="hello"),
        [
            *only("max_tokens", "temperature", "top_p"),
            *only("output_format.json_schema", "output_format.json_object"),
            *CALLING,
            Probe("instructions", "Be brief."),
            Probe("reasoning_effort", "low"),
            Probe("reasoning_summary", "auto", says=THOUGHT, returns=summaries),
            Probe("include", ["message.output_text.logprobs"]),
            Probe("background", True),
        ],
    ),
    "EmbeddingService.Embed": (
        smg.EmbedRequest(inputs=[smg.EmbedInput(text="hello")]),
        [
            Probe("inputs.token_ids", [{"token_ids": {"ids": [9]}}], instead="inputs"),
            Probe("dimensions", 3),
        ],
    ),
    "EmbeddingService.Rerank": (
        smg.RerankRequest(query="q", documents=[smg.RerankDocument(text=t) for t in "ab"]),
        [Probe("top_n", 1)],
    ),
}
KINDS = ("grpc", "http")
# What is in every request, is the front door's own work, or changes no reply.
UNTRIED = {
    *("model", "messages", "prompt", "turns", "input", "items", "query", "documents"),
    *("extra_body_json", "idempotency_key", "allow_partial", "user", "metadata"),
    # Tests of their own show these: test_mcp.py, test_services.py.
    *("max_tool_calls", "store", "previous_response_id", "conversation_id"),
}


@pytest.fixture(scope="module")
def over_grpc(
    gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    home, engine = tmp_path_factory.mktemp("grpc"), FakeVllmEngine()
    template = home / "template.jinja"
    # Also what a template can be told.
    result = "{{ mood | default('') }}{{ reasoning_effort | default('') }}"
    template.write_text(result + TEMPLATE, encoding="utf-8")
    flags = [*PARSERS, "--chat-template", str(template)]
    with (
        run_vllm_engine(engine) as worker,
        gateway(gateway_python, home, worker, flags=flags) as real,
        front_door(real.http.url, home) as door,
    ):
        yield Deployment(real.http, door, engine.name, engine)


@pytest.fixture(scope="module")
def houses(
    over_grpc: Deployment, gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Deployment]]:
    with over_http(gateway_python, tmp_path_factory.mktemp("http")) as deployment:
        yield {"grpc": over_grpc, "http": deployment}


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    """The rows of this gateway; with SMG_PROTO_RECORD they are written anew."""
    found = json.loads(RECORD.read_text(encoding="utf-8"))
    rows = found["gateways"].setdefault(VERSION, {})
    if os.environ.get("SMG_PROTO_RECORD"):
        rows.clear()
    yield rows
    if os.environ.get("SMG_PROTO_RECORD"):
        RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@pytest.mark.parametrize("rpc", PROBES)
def test_fields_are_honored_as_recorded(
    houses: dict[str, Deployment], record: dict[str, Any], rpc: str
) -> None:
    base, probes = PROBES[rpc]
    seen = {
        probe.path: {kind: outcome(houses[kind], rpc, base, probe) for kind in KINDS}
        for probe in probes
    }
    if os.environ.get("SMG_PROTO_RECORD"):
        record[rpc] = seen
    assert different(seen, record[rpc]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rpc", PROBES)
def test_a_reply_names_the_fields_that_are_ignored(
    record: dict[str, Any], rpc: str, kind: str
) -> None:
    """The front door's own list says what was observed: no more and no less."""
    base, probes = PROBES[rpc]
    observed = [probe.path for probe in probes if record[rpc][probe.path][kind] == "ignored"]
    listed = [
        probe.path
        for probe in probes
        if probe.path
        in ignored_fields(Gateway(VERSION), f"{kind}://w:1", rpc, request_of(base, probe, "m"))
    ]
    assert listed == observed


@pytest.mark.parametrize("rpc", PROBES)
def test_every_field_is_tried(rpc: str) -> None:
    base, probes = PROBES[rpc]
    tried = {probe.path.partition(".")[0] for probe in probes}
    assert {field.name for field in base.DESCRIPTOR.fields} <= tried | UNTRIED


def different(seen: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    names = dict.fromkeys([*seen, *recorded])
    return [
        f"{name}: seen {seen.get(name)}, recorded {recorded.get(name)}"
        for name in names
        if seen.get(name) != recorded.get(name)
    ]


# --- Looking ---


def request_of(base: Any, probe: Probe, model: str, *, with_field: bool = True) -> Any:
    request = type(base)()
    request.CopyFrom(base)
    request.model = model
    for name, value in probe.beside.items():
        put(request, name, value)
    if with_field:
        if probe.instead:
            request.ClearField(probe.instead)
        known = probe.instead if probe.path.startswith(f"{probe.instead}.") else probe.path
        put(request, known, probe.value)
    return request


def put(request: Any, path: str, value: Any) -> None:
    *holders, name = path.split(".")
    for holder in holders:
        request = getattr(request, holder)
    if isinstance(value, list):
        request.ClearField(name)
        for each in value:
            request.MergeFrom(type(request)(**{name: [each]}))
    elif isinstance(value, dict):
        getattr(request, name).update(value)
    elif isinstance(value, Message):
        getattr(request, name).CopyFrom(value)
    else:
        setattr(request, name, value)


def outcome(deployment: Deployment, rpc: str, base: Any, probe: Probe) -> str:
    """Whether a field was honored, ignored or rejected, and whether streams differ.

    The worker that speaks HTTP is relayed, and has no streams.
    """
    stub, *methods = RPCS[rpc]
    calls = [getattr(getattr(deployment.door, stub), method) for method in methods]
    found = [
        one_outcome(deployment, call, base, probe)
        for call in calls[: 2 if deployment.engine else 1]
    ]
    return found[0] if len({*found}) == 1 else f"{found[0]}, in streams {found[1]}"


def one_outcome(deployment: Deployment, call: Callable[[Any], Any], base: Any, probe: Probe) -> str:
    sent = request_of(base, probe, deployment.model)
    with deployment.saying(probe.says):
        try:
            plain = look(
                deployment, call, request_of(base, probe, deployment.model, with_field=False)
            )
            found = look(deployment, call, sent)
        except grpc.RpcError as error:
            assert error.code() in REJECTED, f"{probe.path}: {error}"
            return "rejected"
    if probe.returns and deployment.engine:
        return "honored" if probe.returns(found.reply) else "ignored"
    return "honored" if found.result() != plain.result() else "ignored"


REJECTED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
# The stub, the unary RPC and its stream.
RPCS = {
    "CompletionService.Complete": ("completions", "Complete", "StreamComplete"),
    "ChatService.Chat": ("chats", "Chat", "StreamChat"),
    "MessageService.CreateMessage": ("messages", "CreateMessage", "StreamMessage"),
    "ResponseService.CreateResponse": ("responses", "CreateResponse", "StreamResponse"),
    "EmbeddingService.Embed": ("embeddings", "Embed"),
    "EmbeddingService.Rerank": ("embeddings", "Rerank"),
}


@dataclass(frozen=True)
class Look:
    """What the worker received, and the reply."""

    received: list[Any]
    reply: Any

    def result(self) -> Any:
        return stable([self.received, json_format.MessageToDict(self.reply)])


def look(deployment: Deployment, call: Callable[[Any], Any], request: Any) -> Look:
    with received(deployment) as found:
        reply = call(request)
        if not isinstance(reply, Message):
            reply = collect(reply)
    return Look(found, reply)


@contextmanager
def received(deployment: Deployment) -> Iterator[list[Any]]:
    """The requests that the worker gets in the meantime."""
    found: list[Any] = []
    if deployment.engine:
        deployment.engine.record.received.clear()
        yield found
        for each in tuple(deployment.engine.record.received):
            if each.rpc in ("Generate", "Embed"):
                found.append(json_format.MessageToDict(each.request))
    else:
        assert deployment.worker
        deployment.worker.received.clear()
        yield found
        found.extend(deployment.worker.received)


def stable(data: Any) -> Any:
    """Without what is another in every request."""
    if isinstance(data, dict):
        return {key: stable(value) for key, value in data.items() if key not in VOLATILE}
    return [stable(each) for each in data] if isinstance(data, list | tuple) else data
