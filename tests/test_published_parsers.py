"""Bytes of this package survive the published runtimes, and come back equal."""

import base64
import json
import subprocess
from collections.abc import Callable

import pytest
from contract_facts import OWN_PACKAGES, facts, message_classes, published_files
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from random_messages import random_message
from support import ROOT, make_environment, published_wheel

from smg_proto import sglang_scheduler_pb2, vllm_engine_pb2

pytestmark = pytest.mark.packaging
MIRRORED = [kind for kind in message_classes() if kind.DESCRIPTOR.file.package not in OWN_PACKAGES]
# 0.4.6 cannot tell zero from unset in these; every other value of them survives it.
PRESENCE_ADDED = {
    "sglang.grpc.scheduler.GenerateRequest.data_parallel_rank",
    "vllm.grpc.engine.TensorData.inline",
}
SAMPLES = 12
Peer = Callable[[list[Message]], "list[tuple[bytes, bytes] | None]"]


@pytest.fixture(scope="module")
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """Sends messages through the published release that is named."""
    python = make_environment(
        tmp_path_factory.mktemp("published") / "env", [published_wheel(request.param)]
    )

    def send(messages: list[Message]) -> list[tuple[bytes, bytes] | None]:
        requested = [
            [message.DESCRIPTOR.full_name, base64.b64encode(message.SerializeToString()).decode()]
            for message in messages
        ]
        done = subprocess.run(
            [python, ROOT / "tests" / "peers" / "reserialize.py"],
            input=json.dumps(requested) + "\n",
            capture_output=True,
            text=True,
        )
        assert not done.returncode, done.stderr
        return [
            (base64.b64decode(answer[0]), base64.b64decode(answer[1])) if answer else None
            for answer in json.loads(done.stdout)
        ]

    return send


def samples(known: Callable[[FieldDescriptor], bool] = lambda field: True) -> list[Message]:
    return [
        random_message(kind, seed, known, full=seed == 0)
        for kind in MIRRORED
        for seed in range(SAMPLES)
    ]


@pytest.mark.parametrize("peer", ["0.4.28"], indirect=True)
def test_the_newest_published_parser_reads_everything(peer: Peer) -> None:
    sent = samples()
    for message, answer in zip(sent, peer(sent), strict=True):
        assert answer, f"{message.DESCRIPTOR.full_name} is not known"
        assert type(message).FromString(answer[1]) == message


@pytest.mark.parametrize("peer", ["0.4.6"], indirect=True)
def test_an_old_parser_keeps_what_it_does_not_know(peer: Peer) -> None:
    sent = samples(lambda field: field.full_name not in PRESENCE_ADDED)
    rank = sglang_scheduler_pb2.GenerateRequest(data_parallel_rank=3)
    sent += [rank, vllm_engine_pb2.TensorData(inline=b"x")]
    for message, answer in zip(sent, peer(sent), strict=True):
        assert not answer or type(message).FromString(answer[0]) == message


@pytest.mark.parametrize("peer", ["0.4.6"], indirect=True)
def test_an_old_parser_knows_the_symbols_of_its_release(peer: Peer) -> None:
    old = {name.partition(" ")[2] for name in facts(published_files(published_wheel("0.4.6")))}
    sent = samples(lambda field: field.full_name in old - PRESENCE_ADDED)
    answers = peer(sent)
    for message, answer in zip(sent, answers, strict=True):
        assert not answer or type(message).FromString(answer[1]) == message
    assert sum(answer is not None for answer in answers) > 100 * SAMPLES
