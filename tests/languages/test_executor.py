"""The comparison with other languages notices damage: an executor in Python, whole and broken."""

import json
import sys
from pathlib import Path

import pytest
from executor import Executor, Vector, every_vector, same, unexpected
from golden import todays_classes

PROGRAM = """
import json, sys
from google.protobuf.json_format import MessageToDict, ParseDict
from smg_proto import vllm_engine_pb2
damage = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    kind = getattr(vllm_engine_pb2, request["message"].rpartition(".")[2])
    if "hex" in request:
        message = kind.FromString(bytes.fromhex(request["hex"]))
        reply = {"json": MessageToDict(message)}
    else:
        message, reply = ParseDict(request["json"], kind()), {}
    if damage == "defaults" and "json" in reply:
        reply["json"] = MessageToDict(message, always_print_fields_with_no_presence=True)
    if damage == "names" and "json" in reply:
        reply["json"] = MessageToDict(message, preserving_proto_field_name=True)
    if damage == "unknown":
        message.DiscardUnknownFields()
    reply["hex"] = message.SerializeToString().hex()
    if damage == "empty":
        reply["hex"] = ""
    if damage == "refuse":
        reply = {"error": "no"}
    print(json.dumps(reply))
"""


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Vector]:
    return every_vector(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="module")
def vectors(every: list[Vector]) -> list[Vector]:
    return [vector for vector in every if vector.message == "vllm.grpc.engine.SamplingParams"]


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    path = tmp_path / "expected_failures.txt"
    path.write_text("# none\n", encoding="utf-8")
    return path


def executor(damage: str = "none") -> Executor:
    return Executor([sys.executable, "-c", PROGRAM, damage])


def test_a_faithful_executor_has_no_problems(vectors: list[Vector], entries: Path) -> None:
    assert len(vectors) > 20
    assert unexpected(executor().outcomes(vectors), entries) == []


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("defaults", "decode"),
        ("names", "decode"),
        ("unknown", "again"),
        ("empty", "encode"),
        ("refuse", "decode"),
    ],
)
def test_a_damaged_executor_is_detected(
    vectors: list[Vector], entries: Path, damage: str, check: str
) -> None:
    found = unexpected(executor(damage).outcomes(vectors), entries)
    assert any(problem.startswith(f"{check} vllm.grpc.engine.SamplingParams") for problem in found)


def test_an_expected_failure_is_accepted(vectors: list[Vector], entries: Path) -> None:
    entries.write_text("# It does so.\nagain * unknown\n", encoding="utf-8")
    assert unexpected(executor("unknown").outcomes(vectors), entries) == []


@pytest.mark.parametrize("entry", ["again * unknown", "decode no.such.Message full"])
def test_an_expected_failure_that_does_not_fail_is_reported(
    vectors: list[Vector], entries: Path, entry: str
) -> None:
    entries.write_text(entry + "\n", encoding="utf-8")
    found = unexpected(executor().outcomes(vectors), entries)
    assert found
    assert all(entry in problem for problem in found)


def test_an_executor_that_stops_early_is_an_error(vectors: list[Vector]) -> None:
    with pytest.raises(AssertionError, match="replies"):
        Executor([sys.executable, "-c", "print('{}')"]).ask([{}, {}])


def test_json_values_may_differ_only_in_the_digits_of_numbers() -> None:
    assert same(json.loads('{"a": [1, "x", true]}'), json.loads('{"a": [1.5, "x", true]}'))
    for one, other in (("1", '"1"'), ("1", "true"), ("{}", '{"a": 0}'), ("[1]", "[1, 1]")):
        assert not same(json.loads(one), json.loads(other))


def test_every_current_type_has_vectors(every: list[Vector]) -> None:
    assert {vector.message for vector in every} == todays_classes().keys()
