"""smg-proto demo as a person runs it."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from smg_proto import llm_pb2, llm_pb2_grpc, smg_pb2, vllm_engine_pb2, vllm_engine_pb2_grpc
from smg_proto.cli import main

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def demo(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """The process, its address, and what it printed at the start."""
    command = [sys.executable, "-m", "smg_proto", "demo", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("python -c"):
                    break
            found = re.search(r"listening on (\S+),", "".join(lines))
            assert found is not None, lines
            yield process, found[1], "".join(lines)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[str, str]]:
    with demo("--token-delay", "0") as (_, address, printed):
        yield address, printed


def outcome(*command: str) -> "subprocess.CompletedProcess[str]":
    utf8 = os.environ | {"PYTHONIOENCODING": "utf-8"}  # the demo's model has an emoji
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=utf8,
        timeout=60,
        cwd=ROOT,
    )


def reflected(channel: grpc.Channel) -> set[str]:
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    (reply,) = stub.ServerReflectionInfo(iter([ask]))
    return {service.name for service in reply.list_services_response.service}


def test_it_serves_and_prints_all_services(running: tuple[str, str]) -> None:
    address, printed = running
    expected = {service.full_name for service in smg_pb2.DESCRIPTOR.services_by_name.values()}
    expected |= {"entity.grpc.LLMService", "vllm.grpc.engine.VllmEngine", "grpc.health.v1.Health"}
    with grpc.insecure_channel(address) as channel:
        versions = {f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")}
        assert reflected(channel) == expected | versions
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "readiness", "liveness", *expected - {"grpc.health.v1.Health"}):
            status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        info = vllm_engine_pb2.GetModelInfoRequest()
        engine = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        assert engine.GetModelInfo(info).served_model_name == "demo-model"
    for name in expected:
        assert name.rpartition(".")[2] in printed


def test_the_printed_command_works(running: tuple[str, str]) -> None:
    line = running[1].strip().splitlines()[-1].replace("python", sys.executable, 1)
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout[:7]) == (0, " serves"), done.stderr


def test_llm_service_streams_tokens_and_counts_them(running: tuple[str, str]) -> None:
    with grpc.insecure_channel(running[0]) as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        request = llm_pb2.GenerateRequest(prompt="One contract", max_tokens=4, temperature=0)
        replies = list(stub.Generate(request))
        assert "".join(reply.token for reply in replies) == " serves many clients in"
        last = replies[-1]
        assert (last.finish_reason, last.prompt_tokens, last.completion_tokens) == ("length", 3, 4)
        assert not any(reply.HasField("finish_reason") for reply in replies[:-1])
        for wrong in (
            llm_pb2.GenerateRequest(),
            llm_pb2.GenerateRequest(prompt="x", max_tokens=0),
            llm_pb2.GenerateRequest(prompt="x", temperature=3),
            llm_pb2.GenerateRequest(prompt="x", top_p=0),
            llm_pb2.GenerateRequest(prompt="x", stop=[""]),
            llm_pb2.GenerateRequest(prompt="word " * 5000),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                list(stub.Generate(wrong))
            assert isinstance(raised.value, grpc.Call)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_engine_only_serves_only_the_engine() -> None:
    with demo("--engine-only") as (_, address, _), grpc.insecure_channel(address) as channel:
        assert {name for name in reflected(channel) if not name.startswith("grpc.")} == {
            "vllm.grpc.engine.VllmEngine"
        }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_signals_stop_it_cleanly_even_during_a_stream(number: signal.Signals) -> None:
    with demo("--token-delay", "0.2") as (process, address, _):
        with grpc.insecure_channel(address) as channel:
            request = llm_pb2.GenerateRequest(prompt="One contract")
            call = llm_pb2_grpc.LLMServiceStub(channel).Generate(request)
            next(call)
            process.send_signal(number)
            assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == "smg-proto demo: stopping\n"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What it says on standard error, with exit code 2 and nothing else."""
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_no_other_server_can_share_its_port(running: tuple[str, str]) -> None:
    with futures.ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError):
        grpc.server(pool).add_insecure_port(running[0])


def test_port_in_use_is_one_clear_line(
    running: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (
        f"smg-proto demo: cannot listen on {running[0]}: address already in use; "
        "choose another port, or 0 for a free one\n"
    )
    assert refused(capsys, "--listen", running[0]) == expected


@pytest.mark.parametrize("listen", ["8000", ":8000", "127.0.0.1:port", "127.0.0.1:70000", ""])
def test_bad_address_is_one_clear_line(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = refused(capsys, "--listen", listen)
    assert printed.startswith(f'smg-proto demo: invalid address "{listen}": ')
    assert printed.count("\n") == 1


@pytest.mark.parametrize("seconds", ["soon", "-1", "61", "nan"])
def test_bad_delay_is_one_clear_line(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--token-delay={seconds}"])
    output = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert output.endswith(f"--token-delay: must be a number from 0 to 60, not {seconds!r}")


def test_default_port_is_8000(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 8000))
        except OSError:
            pass  # taken by someone else: all the better
        else:
            other.listen()
        assert "127.0.0.1:8000" in refused(capsys)


def test_demo_and_fakes_need_no_extra() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['grpc_health', 'grpc_reflection', "
        "'tokenizers', 'pytest', 'pydantic', 'aiohttp'])); "
        "import smg_proto.testing, smg_proto.errors; from smg_proto.cli import main; "
        "sys.exit(main(['demo', '--listen', '127.0.0.1:0']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        try:
            assert demo.stdout.readline().startswith("smg-proto demo: listening on 127.0.0.1:")
            demo.terminate()
            assert demo.wait(timeout=60) == 0
        finally:
            demo.kill()
