"""What a block of Python needs around it, to run where the test runs.

A block without an entry is run as it stands, with the arguments and variables that
test_python.py gives to every block.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Surroundings:
    before: str = ""  # code in front of the block: the names that the page takes as given
    after: str = ""  # code behind it, which fails if the block did not do what the page says
    # Text of the block and what stands for it: {gateway} and {engine} are addresses of the embedded
    # servers, {engine_port} the latter's port, {upstream} the URL of an OpenAI-compatible server,
    # {port} a free port, {root} the repository.
    instead: Mapping[str, str] = field(default_factory=dict[str, str])
    prints: str = ""  # a part of what the block prints
    # The block is a server: this code is run beside it, and when it is through the block is ended.
    client: str = ""


ENGINE = {"50051": "{engine_port}"}
GATEWAY = {"localhost:50051": "{gateway}"}

SURROUNDINGS = {
    "README.md": Surroundings(instead={"localhost:8000": "{gateway}"}, prints="\n"),
    "README.md.2": Surroundings(instead=ENGINE, prints="\n"),
    "docs/vllm-client.md": Surroundings(instead=ENGINE),
    "docs/vllm-client.md#chat": Surroundings(instead=ENGINE),
    "docs/diff.md#smg-proto-diff-old-new": Surroundings(
        instead={
            "pypi:smg-grpc-proto==0.4.28": (
                "{root}/tests/compat/releases/published-0.4.28/descriptors.binpb"
            )
        }
    ),
    "docs/diff.md#smg-proto-check-hostport": Surroundings(instead=ENGINE, prints="VllmEngine"),
    "docs/diff-your-protos.md#from-python": Surroundings(
        before="""
import os, tempfile
os.chdir(tempfile.mkdtemp())
open("protos-accepted.txt", "w", encoding="utf-8").close()
""",
        instead={
            'load("git:main", include=["third_party"], exclude=["tests"])': 'load("self")',
            'load(".", include=["third_party"], exclude=["tests"])': 'load("self")',
            "shop.v1": "smg.v1",
        },
    ),
    "docs/engine.md": Surroundings(instead=ENGINE, prints="vllm.grpc.engine demo-model"),
    "docs/engine.md.2": Surroundings(instead=ENGINE, prints="1 ("),
    "docs/errors.md#reading": Surroundings(
        before="""
import grpc
from smg_proto import smg_pb2, smg_pb2_grpc
stub = smg_pb2_grpc.CompletionServiceStub(grpc.insecure_channel("{gateway}"))
request = smg_pb2.CompletionRequest(model="demo-model", prompt="Once", temperature=9)
""",
        prints="temperature ",
    ),
    "docs/errors.md#writing": Surroundings(
        after="""
from concurrent import futures
from smg_proto.errors import from_rpc_error
server = grpc.server(futures.ThreadPoolExecutor())
smg_pb2_grpc.add_CompletionServiceServicer_to_server(Completions(), server)
stub = smg_pb2_grpc.CompletionServiceStub(
    grpc.insecure_channel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
)
server.start()
def problem(**fields):
    try:
        stub.Complete(smg_pb2.CompletionRequest(**fields))
    except grpc.RpcError as error:
        return from_rpc_error(error)
assert problem(max_tokens=9999).field_violations[0].field == "max_tokens"
assert problem(model="x").reason == "MODEL_NOT_FOUND"
assert problem(model="my-model") is None
server.stop(None)
"""
    ),
    "docs/frontdoor.md#start-it": Surroundings(
        instead={"http://127.0.0.1:30000": "{upstream}", "50051": "{port}"},
        client="""
import grpc
from smg_proto import smg_pb2, smg_pb2_grpc
with grpc.insecure_channel("127.0.0.1:{port}") as channel:
    stub = smg_pb2_grpc.ModelServiceStub(channel)
    reply = stub.ListModels(smg_pb2.ListModelsRequest(), wait_for_ready=True, timeout=60)
assert [model.id for model in reply.models] == ["demo-model"], reply
""",
    ),
    **{
        f"docs/guide.md#{section}": Surroundings(instead=GATEWAY, prints=prints)
        for section, prints in (
            ("1-chat", " stop "),
            ("2-stream", " tokens"),
            ("2-stream.2", " tokens"),
            ("3-tools", "\n"),
            ("4-json", "\n"),
            ("6-log-probabilities", " ("),
            ("7-embeddings", "100 vectors of "),
            ("8-messages", "\n"),
            ("9-responses", "RESPONSE_STATUS_COMPLETED "),
            ("10-workers", " WORKER_STATE_READY"),
        )
    },
    "docs/guide.md#5-images": Surroundings(
        before="""
import os, tempfile
os.chdir(tempfile.mkdtemp())
open("cat.png", "wb").write(b"\\x89PNG\\r\\n\\x1a\\n")
""",
        instead=GATEWAY,
        prints="\n",
    ),
    "docs/clients.md#tls-and-keys": Surroundings(
        before="""
import os, sys, tempfile
from pathlib import Path
sys.path.insert(0, "{root}/tests")
from secure_gateway import secure_gateway
os.chdir(tempfile.mkdtemp())
running = secure_gateway(Path())
secure, fake = running.__enter__()
""",
        instead={'"front-door.example:443"': "secure"},
        after="""
assert dict(fake.record.received[0].metadata)["authorization"] == "Bearer my-key"
running.__exit__(None, None, None)
""",
        prints="demo-model",
    ),
    "docs/llm.md": Surroundings(prints=" world!"),
    "docs/llm.md#a-whole-server": Surroundings(
        instead={"http://127.0.0.1:30000": "{upstream}"}, prints="127.0.0.1:"
    ),
    "docs/sagellm.md#what-is-rejected": Surroundings(
        before="""
from smg_proto.sagellm import Request
data = {"request_id": "r", "trace_id": "t", "prompt": "p", "max_tokens": 8}
request = Request.model_validate(data)
"""
    ),
    "docs/sagellm.md#bridges": Surroundings(
        before="""
from smg_proto.sagellm import Request
request = Request(request_id="r", trace_id="t", prompt="p", max_tokens=8)
""",
        instead=ENGINE,
        prints='"event":"end"',
    ),
    "docs/sagellm.md#the-service": Surroundings(
        instead={"50051": "{engine_port}", "50061": "{port}"},
        client="""
import grpc
from smg_proto import sagellm_pb2, sagellm_pb2_grpc
with grpc.insecure_channel("127.0.0.1:{port}") as channel:
    stub = sagellm_pb2_grpc.GenerateServiceStub(channel)
    request = sagellm_pb2.Request(prompt="Once", max_tokens=2)
    reply = stub.Generate(request, wait_for_ready=True, timeout=60)
assert len(reply.output_tokens) == 2, reply
""",
    ),
    "docs/testing.md#script-answers-and-faults": Surroundings(
        before="""
import grpc
from smg_proto.testing import run_gateway
running = run_gateway()
smg_gateway = running.__enter__()
""",
        after="""
from smg_proto import smg_pb2, smg_pb2_grpc
stub = smg_pb2_grpc.CompletionServiceStub(grpc.insecure_channel(smg_gateway))
request = smg_pb2.CompletionRequest(model="demo-model", prompt="One contract")
events = []
try:
    events.extend(stub.StreamComplete(request))
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "try later"), error
assert len(events) == 3
running.__exit__(None, None, None)
""",
    ),
    "docs/vllm-client.md#errors": Surroundings(prints="temperature"),
}

# Blocks that need more than the embedded servers, and the tests that run them.
ELSEWHERE = {"docs/frontdoor.md#try-it-without-a-gpu": "e2e/test_recipe.py"}
