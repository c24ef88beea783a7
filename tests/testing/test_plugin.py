"""The pytest fixtures, as a user's own tests get them."""

import subprocess
import sys
from pathlib import Path

USERS_TEST = """
import grpc
from smg_proto import smg_pb2, smg_pb2_grpc, vllm_engine_pb2, vllm_engine_pb2_grpc
from smg_proto.testing import Answer


def test_gateway(smg_gateway):
    smg_gateway.servicer.script.add(Answer("Hello from the script."))
    with grpc.insecure_channel(smg_gateway) as channel:
        stub = smg_pb2_grpc.CompletionServiceStub(channel)
        request = smg_pb2.CompletionRequest(model="demo-model", prompt="x")
        assert stub.Complete(request).text == "Hello from the script."
        assert stub.Complete(request).text != "Hello from the script."
    assert smg_gateway.servicer.record.counters.finished == 2


def test_gateway_is_new_for_each_test(smg_gateway):
    assert smg_gateway.servicer.record.counters.started == 0


def test_engine(vllm_engine):
    with grpc.insecure_channel(vllm_engine) as channel:
        stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        assert stub.HealthCheck(vllm_engine_pb2.HealthCheckRequest()).healthy
"""

COST = """
import sys, smg_proto._pytest_plugin
print([name for name in ("grpc", "google.protobuf") if name in sys.modules])
"""


def test_fixtures_need_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(USERS_TEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-p", "no:hypothesispytest", "-p", "no:asyncio", "test_users.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_plugin_imports_nothing_until_a_fixture_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
