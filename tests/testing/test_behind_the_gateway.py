"""The fakes beside the real gateway: the engine works behind it, and FakeGateway answers as it."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import free_port, make_environment

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.testing import Address, Answer, FakeVllmEngine, Fault, run_vllm_engine

pytestmark = pytest.mark.e2e

MODEL = "demo-model"
GATEWAY = "smg==1.13.0"
_PATIENCE = 60


@pytest.fixture(scope="module")
def engine() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine() as address:
        yield address


@pytest.fixture(scope="module")
def url(engine: Address[FakeVllmEngine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The HTTP address of a real gateway with the fake engine as its only worker."""
    home = tmp_path_factory.mktemp("smg")
    program = make_environment(home / "venv", [GATEWAY]).with_name("smg")
    port, metrics = free_port(), free_port()
    command = [str(program), "launch", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)]
    command += ["--worker-urls", f"grpc://{engine}"]
    with (
        (home / "log").open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield _ready(f"http://127.0.0.1:{port}", process, home / "log")
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readiness", timeout=5):
                return url
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the gateway did not get ready:\n{log.read_text(encoding='utf-8')[-3000:]}")


def post(url: str, path: str, **body: Any) -> tuple[int, Any]:
    data = json.dumps({"model": MODEL} | body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_gateway_loads_the_tokenizer_from_the_engine(url: str) -> None:
    _, reply = post(url, "/v1/tokenize", prompt=["One café <think>"])
    status, back = post(url, "/v1/detokenize", tokens=reply["tokens"])
    assert (status, back["text"]) == (200, ["One café <think>"])


@pytest.mark.parametrize("prompt", ["One contract", "café 🙂", "  The answer is\n"])
@pytest.mark.parametrize("fields", [{}, {"max_tokens": 5}, {"stop": ["th", " mo"]}], ids=str)
def test_completion_equals_that_of_the_fake_gateway(
    url: str, channel: grpc.Channel, prompt: str, fields: dict[str, Any]
) -> None:
    status, real = post(url, "/v1/completions", prompt=prompt, temperature=0, **fields)
    request = pb.CompletionRequest(model=MODEL, prompt=prompt, temperature=0, **fields)
    fake = rpc.CompletionServiceStub(channel).Complete(request)
    assert status == 200
    choice, usage = real["choices"][0], real["usage"]
    assert (choice["text"], choice["finish_reason"]) == (fake.text, fake.finish_reason)
    assert choice.get("matched_stop", "") == fake.matched_stop.text
    assert usage["prompt_tokens"] == fake.prompt_tokens
    assert usage["completion_tokens"] == fake.completion_tokens


def test_chat_equals_that_of_the_fake_gateway(url: str, channel: grpc.Channel) -> None:
    output = [
        ("system", "Be brief."),
        ("user", "What is a stream?"),
        ("assistant", "It"),
        ("user", "?"),
    ]
    roles = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}
    messages = [{"role": role, "content": text} for role, text in output]
    status, real = post(url, "/v1/chat/completions", messages=messages, temperature=0)
    request = pb.ChatRequest(
        model=MODEL,
        messages=[pb.ChatMessage(role=roles[role], content=text) for role, text in output],
        temperature=0,
    )
    fake = rpc.ChatServiceStub(channel).Chat(request)
    assert status == 200
    assert real["choices"][0]["message"]["content"] == fake.choices[0].message.content
    assert real["usage"]["prompt_tokens"] == fake.usage.prompt_tokens
    assert real["usage"]["completion_tokens"] == fake.usage.completion_tokens


def test_forced_calls_json_and_embeddings_work(url: str, channel: grpc.Channel) -> None:
    messages = [{"role": "user", "content": "x"}]
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3}},
        "required": ["n"],
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    _, called = post(
        url, "/v1/chat/completions", messages=messages, tools=tools, tool_choice="required"
    )
    choice = called["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("f", {"n": 3})
    _, formatted = post(
        url, "/v1/chat/completions", messages=messages, response_format={"type": "json_object"}
    )
    assert formatted["choices"][0]["message"]["content"] == "{}"
    _, embedded = post(url, "/v1/embeddings", input="a worker")
    request = pb.EmbedRequest(model=MODEL, inputs=[pb.EmbedInput(text="a worker")])
    fake = rpc.EmbeddingServiceStub(channel).Embed(request)
    assert embedded["data"][0]["embedding"] == pytest.approx(list(fake.embeddings[0].values))


def test_scripted_answer_and_fault_reach_the_http_client(
    url: str, engine: Address[FakeVllmEngine]
) -> None:
    engine.servicer.script.add(Answer("Hello from the script."))
    _, reply = post(url, "/v1/completions", prompt="x")
    assert reply["choices"][0]["text"] == "Hello from the script."
    engine.servicer.script.add(Fault(grpc.StatusCode.INVALID_ARGUMENT, "not like this"))
    status, reply = post(url, "/v1/completions", prompt="x")
    assert status == 400 and "not like this" in reply["error"]["message"]


def test_gateway_reads_loads_and_subscribes(url: str, engine: Address[FakeVllmEngine]) -> None:
    deadline = time.monotonic() + _PATIENCE
    loads: list[Any] = []
    while not loads and time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}/loads", timeout=10) as reply:
            loads = json.load(reply)["loads"]
        time.sleep(0.1)
    assert loads[0]["max_running_requests"] > 0
    calls = [received.rpc for received in engine.servicer.record.received]
    assert {"HealthCheck", "GetModelInfo", "GetServerInfo", "GetTokenizer"} <= set(calls)
    assert calls.count("SubscribeKvEvents") == 1, "headers came at once, so it stayed"
