"""The contract and the models say the same: fields, numbers, what is required, ranges, defaults."""

import json
import re
import subprocess
import sys
from enum import Enum
from typing import Any, get_args

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from sagellm_models import WIRE

import smg_proto.sagellm
from smg_proto import descriptor_set
from smg_proto import sagellm_pb2 as pb
from smg_proto._descriptors import Symbol, symbols
from smg_proto.sagellm import KVPriority, ProtocolVersion, SamplingPreset
from smg_proto.sagellm._bounds import BOUNDS
from smg_proto.sagellm._models import FinishReason, Phase, Role

PROTO = "sagellm/v1/sagellm.proto"
FILE = FileDescriptorSet(file=[file for file in descriptor_set().file if file.name == PROTO])
SYMBOLS = {symbol.name.removeprefix("sagellm.v1."): symbol for symbol in symbols(FILE)}
LISTS = {"ChatMessageList", "StringList"}
EVENT_IDS = ["request_id", "trace_id", "engine_id"]  # in StreamEvent, once for all kinds


def _fields(message: str) -> list[Symbol]:
    return [
        symbol
        for name, symbol in SYMBOLS.items()
        if symbol.kind == "field" and name.rpartition(".")[0] == message
    ]


def test_each_message_has_a_model_and_each_model_a_message() -> None:
    messages = set(pb.DESCRIPTOR.message_types_by_name)
    assert messages == set(WIRE) | LISTS | {"StreamEvent", ProtocolVersion.__name__}


@pytest.mark.parametrize("name", WIRE)
def test_message_and_model_have_the_same_fields(name: str) -> None:
    carried = [s.name.rpartition(".")[2].removesuffix("_json") for s in _fields(name)]
    if name.startswith("StreamEvent"):
        carried = ["event", *EVENT_IDS, *carried]
    assert sorted(carried) == sorted(WIRE[name].model_fields)


def test_enums_of_the_contract_have_the_values_of_the_protocol() -> None:
    closed: dict[str, Any] = {"FinishReason": FinishReason, "Phase": Phase, "Role": Role}
    for name, enum in pb.DESCRIPTOR.enum_types_by_name.items():
        zero, *rest = (value.name for value in enum.values)
        assert zero.endswith("_UNSPECIFIED")
        prefix = zero.removesuffix("UNSPECIFIED")
        ours = getattr(smg_proto.sagellm, name, None)
        if ours is None:
            literal = get_args(get_args(closed.pop(name))[0])[0]
            values = list(get_args(literal))
        else:
            values = [member.value for member in ours]
        assert [value.removeprefix(prefix).lower() for value in rest] == values, name
    assert not closed


def test_python_enums_that_no_field_carries_are_not_in_the_contract() -> None:
    ours = {
        name
        for name in smg_proto.sagellm.__all__
        if isinstance(kind := getattr(smg_proto.sagellm, name), type) and issubclass(kind, Enum)
    }
    absent = {SamplingPreset.__name__, KVPriority.__name__}
    assert ours - set(pb.DESCRIPTOR.enum_types_by_name) == absent


def _stated() -> dict[str, str]:
    """Message.field to its bounds as text, by the table that the models are held to."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return {
        field: ", ".join(f"{signs[word]} {number:g}" for word, number in bounds.items())
        for field, bounds in BOUNDS.items()
    }


def test_the_comments_of_the_contract_state_the_enforced_ranges() -> None:
    comments = {
        name: " ".join(symbol.comment.split())
        for name, symbol in SYMBOLS.items()
        if "Range:" in symbol.comment and name != PROTO
    }
    stated = {name: re.findall(r"Range: (.+?)\.(?:\s|$)", text) for name, text in comments.items()}
    assert stated == {field: [bounds] for field, bounds in _stated().items()}


def test_validation_does_not_depend_on_comments() -> None:
    program = """
import google.protobuf.descriptor_pb2, smg_proto
def refuse(): raise AssertionError("the models read the comments of the contract")
smg_proto.descriptor_set = refuse
from smg_proto.sagellm import Metrics
assert any(getattr(m, "ge", None) == 0 for m in Metrics.model_fields["ttft_ms"].metadata)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", WIRE)
def test_fields_that_the_contract_calls_required_are_required(name: str) -> None:
    """Of numbers, enums and messages; a string or a list that is required may be empty."""
    for symbol in _fields(name):
        field = symbol.name.rpartition(".")[2].removesuffix("_json")
        required = WIRE[name].model_fields[field].is_required()
        stated = re.search(r"\bRequired\b|All four are required", _explained(symbol))
        may_be_zero = symbol.type in ("string", "int64") and not stated
        assert bool(stated) == required or (required and may_be_zero), symbol.name


@pytest.mark.parametrize("name", WIRE)
def test_defaults_in_the_comments_are_those_of_the_models(name: str) -> None:
    for symbol in _fields(name):
        info = WIRE[name].model_fields[symbol.name.rpartition(".")[2].removesuffix("_json")]
        value = info.get_default(call_default_factory=True)
        if info.is_required() or value is None or not value:
            continue
        if symbol.type.startswith("sagellm.v1."):  # an enum: unspecified is worked out
            continue
        assert symbol.presence == "explicit", symbol.name
        assert f"Unset: {json.dumps(value)}." in " ".join(symbol.comment.split()), symbol.name


def _explained(symbol: Symbol) -> str:
    message = symbol.name.removeprefix("sagellm.v1.").rpartition(".")[0]
    return f"{SYMBOLS[message].comment} {symbol.comment}".replace("\n", " ")
