"""Each language generates its code, reads every golden vector, and talks to Python."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from executor import Executor, Vector, every_vector, unexpected
from secure_gateway import secure_gateway
from stream_vectors import random_streams, stream_vectors
from support import ROOT, eventually, run
from test_clients_page import copy_service_config
from toolchains import TOOLCHAINS, Command

from smg_proto import llm_pb2, llm_pb2_grpc, smg_pb2, smg_pb2_grpc, vllm_engine_pb2
from smg_proto.testing import FakeGateway, Fault, run_gateway, run_vllm_engine
from smg_proto.vllm_engine_pb2_grpc import VllmEngineStub

pytestmark = [pytest.mark.languages, pytest.mark.timeout(900)]
NOT_UTF8 = {"message": "smg.v1.Failure", "hex": "0a01ff"}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> list[Vector]:
    return every_vector(tmp_path_factory.mktemp("vectors"))


@pytest.mark.parametrize("language", TOOLCHAINS)
def test_language(language: str, vectors: list[Vector], tmp_path: Path) -> None:
    programs = TOOLCHAINS[language](language).prepare()
    reads_every_golden_vector(Executor(programs.executor), language, vectors)
    rejects_invalid_utf8(Executor(programs.executor))
    if language in ("go", "typescript"):
        adds_up_the_events_of_streams(Executor(programs.executor))
    calls_gateway_and_engine(programs.client)
    for name, program in programs.guide.items():
        if name in GUIDE:
            runs_the_program_of_the_guide(name, program)
        else:
            calls_with_tls_and_a_key(program, tmp_path)
    if programs.server:
        serves_the_python_client(programs.server)


def reads_every_golden_vector(executor: Executor, language: str, vectors: list[Vector]) -> None:
    expected = ROOT / "tests" / "languages" / language / "expected_failures.txt"
    problems = unexpected(executor.outcomes(vectors), expected)
    assert not problems, "\n".join([f"{len(problems)} problems", *problems[:50]])


def rejects_invalid_utf8(executor: Executor) -> None:
    refused, fine = executor.ask([NOT_UTF8, {**NOT_UTF8, "hex": "0a0141"}])
    assert "error" in refused
    assert fine == {"json": {"reason": "A"}, "hex": "0a0141"}


def adds_up_the_events_of_streams(executor: Executor) -> None:
    vectors = [*stream_vectors(), *random_streams(30)]
    requests = [
        {"message": v.message, "events": [event.SerializeToString().hex() for event in v.events]}
        for v in vectors
    ]
    for vector, output in zip(vectors, executor.ask(requests), strict=True):
        if vector.error:
            assert output["error"] == vector.error, vector.name
        else:
            assert output.get("text", "") == vector.text, vector.name
            # As Python writes it, maps sorted: their order differs by language, and by run.
            reply = type(vector.reply).FromString(bytes.fromhex(output["hex"]))
            expected = vector.reply.SerializeToString(deterministic=True)
            assert reply.SerializeToString(deterministic=True) == expected, vector.name


def calls_gateway_and_engine(client: Command) -> None:
    with run_gateway(FakeGateway(token_delay=0.002)) as gateway, run_vllm_engine() as engine:
        fake = gateway.servicer
        fake.script.add(Fault(delay=30), rpc="StreamChat", when=asks("Take your time"))
        words = [str(word) for word in [*client, gateway, engine]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        eventually(lambda: fake.record.counters.cancelled == 2)  # the cancelled, and the late one
        *answers, cancelled, late, unknown = done.stdout.splitlines()
        assert answers == [
            f"completion: {completion(gateway)}",
            f"chat: {chat(gateway)}",
            f"generate: {generation(engine)}",
        ]
        assert [plain(line) for line in (cancelled, late, unknown)] == [
            "cancel: canceled",
            "deadline: deadlineexceeded",
            "error: notfound modelnotfound",
        ]


# A part of what each program of the guide prints.
GUIDE = {
    "1-chat": r"\S.* stop \d+\n",
    "2-stream": r"\S.*\n\d+ tokens\n",
    "3-tools": r"\S.*\n",
    "4-json": r"(Paris|Oslo)\n",
}


def runs_the_program_of_the_guide(name: str, program: Command) -> None:
    with run_gateway() as gateway:
        printed = run(*program, gateway if program[0] != "node" else f"http://{gateway}")
        assert re.fullmatch(GUIDE[name], printed, re.DOTALL), printed
        calls = [received.rpc for received in gateway.servicer.record.received]
        assert len(calls) == (2 if name == "3-tools" else 1)


def calls_with_tls_and_a_key(program: Command, folder: Path) -> None:
    copy_service_config(folder)
    with secure_gateway(folder) as (address, fake):
        scheme = "" if program[0] != "node" else "https://"
        assert run(*program, f"{scheme}{address}", cwd=folder) == "demo-model\n"
        (received,) = fake.record.received
        assert dict(received.metadata)["authorization"] == "Bearer my-key"


def plain(line: str) -> str:
    """A line without the differences between languages in spelling a status code."""
    return line.lower().replace("_", "").replace("cancelled", "canceled")


def asks(text: str) -> Callable[..., bool]:
    return lambda request: request.messages[0].content == text


# What the clients ask for, asked by Python.


def completion(gateway: str) -> str:
    prompt = "The capital of France is"
    request = smg_pb2.CompletionRequest(model="demo-model", prompt=prompt, max_tokens=16)
    with grpc.insecure_channel(gateway) as channel:
        return smg_pb2_grpc.CompletionServiceStub(channel).Complete(request).text


def chat(gateway: str) -> str:
    message = smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content="Who are you?")
    request = smg_pb2.ChatRequest(model="demo-model", messages=[message])
    with grpc.insecure_channel(gateway) as channel:
        reply = smg_pb2_grpc.ChatServiceStub(channel).Chat(request)
        return reply.choices[0].message.content


def generation(engine: str) -> str:
    sampling = vllm_engine_pb2.SamplingParams(temperature=0, max_tokens=8)
    request = vllm_engine_pb2.GenerateRequest(
        request_id="python", text="Hello", sampling_params=sampling
    )
    with grpc.insecure_channel(engine) as channel:
        (reply,) = VllmEngineStub(channel).Generate(request)
        tokens = " ".join(map(str, reply.complete.output_ids))
        return f"[{tokens}] {reply.complete.finish_reason}"


# The other direction: a server in another language, called by Python.


@contextmanager
def running(server: Command) -> Iterator[grpc.Channel]:
    process = subprocess.Popen([str(word) for word in server], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        with grpc.insecure_channel(process.stdout.readline().strip()) as channel:
            yield channel
    finally:
        process.kill()
        process.communicate()


def serves_the_python_client(server: Command) -> None:
    with running(server) as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        replies = list(stub.Generate(llm_pb2.GenerateRequest(prompt="one two three")))
        assert [reply.token for reply in replies] == ["one ", "two ", "three", ""]
        assert [reply.finish_reason for reply in replies] == ["", "", "", "stop"]
        request = llm_pb2.GenerateRequest(prompt="one two three", max_tokens=2)
        replies = list(stub.Generate(request))
        assert "".join(reply.token for reply in replies) == "one two "
        assert replies[-1].finish_reason == "length"
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(llm_pb2.GenerateRequest()))
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
