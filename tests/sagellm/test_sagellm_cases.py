"""Inputs that the released protocol packages accept or refuse: the models agree."""

import json
import time
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo
from sagellm_judge import judge
from sagellm_models import facts

import smg_proto.sagellm

CASES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("protocol_cases.json").read_text(encoding="utf-8")
)
NEWEST = "0.5.4.16"


def _key(case: dict[str, Any]) -> str:
    return json.dumps([case["model"], case["input"]])


# Where the two releases differ, the newer one is followed; only its spelling of events is not the
# only one that passes.
NEWEST_SAYS = {_key(case): case["accepted"] for case in CASES if case["version"] == NEWEST}
BOTH_SPELLINGS = ("delta in the", "end in the")


def _expected(case: dict[str, Any]) -> bool:
    if case["why"].startswith(BOTH_SPELLINGS):
        return True
    accepted: bool = NEWEST_SAYS.get(_key(case), case["accepted"])
    return accepted


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['model']}-{case['version']}-{case['why']}"
)
def test_the_models_accept_and_reject_the_same_as_the_protocol(case: dict[str, Any]) -> None:
    verdict = judge("smg_proto.sagellm", case["model"], case["input"])
    assert verdict["accepted"] == _expected(case)
    if not verdict["accepted"] or case["version"] not in (NEWEST, "both"):
        return
    made = json.loads(verdict["json"])
    becomes: Any = case.get("becomes", {})
    if isinstance(becomes, str):
        assert made == becomes
    elif "dropped" in becomes:
        assert not set(becomes["dropped"]) & set(made)
    elif becomes:
        assert made.items() >= becomes.items()


def test_models_and_enums_have_the_fields_and_members_of_the_protocol_in_order() -> None:
    names: dict[str, list[str]] = {}
    for row in facts("model", "enum"):
        names.setdefault(row["type"], []).append(row["field"])
    assert len(names) > 40
    for name, expected in names.items():
        kind = getattr(smg_proto.sagellm, name)
        ours = list(getattr(kind, "model_fields", None) or kind.__members__)
        assert ours == expected, name


def _said(info: FieldInfo) -> tuple[str, str, str]:
    """Whether a field is required, its default and its range, as the fields file writes them."""
    words = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    ranges = [
        f"{sign} {number:g}"
        for rule in info.metadata
        for word, sign in words.items()
        if (number := getattr(rule, word, None)) is not None
    ]
    default = "-"
    if not info.is_required():
        value: Any = info.get_default(call_default_factory=True)
        now = type(value) is int and abs(value - time.time()) < 60
        plain: Any = value.value if isinstance(value, Enum) else value
        default = "now (Unix s)" if now else repr(plain)
    return "yes" if info.is_required() else "no", default, ", ".join(ranges) or "-"


def test_what_is_required_the_defaults_and_the_ranges_are_those_of_the_protocol() -> None:
    rows = facts("model")
    assert len(rows) > 200
    for row in rows:
        field = getattr(smg_proto.sagellm, row["type"]).model_fields[row["field"]]
        expected = tuple(row[f"{what}_{NEWEST}"] for what in ("required", "default", "constraint"))
        assert _said(field) == expected, f"{row['type']}.{row['field']}"


@pytest.mark.parametrize(
    "old",
    [
        {"event": "delta", "chunk": "x", "chunk_tokens": [1]},
        {"event": "end", "output_text": "x", "output_tokens": [1], "finish_reason": "stop"},
    ],
    ids=["delta", "end"],
)
def test_an_event_in_the_old_spelling_is_converted(old: dict[str, Any]) -> None:
    ids = {"request_id": "r", "trace_id": "t", "engine_id": "e"}
    figures = {"ttft_ms": 1.0, "throughput_tps": 1.0, "peak_mem_mb": 1, "error_rate": 0.0}
    verdict = judge("smg_proto.sagellm", "StreamEvent", ids | old | {"metrics": figures})
    made = json.loads(verdict["json"])
    assert made["content"] == "x"
    assert made.get("content_tokens", made.get("output_tokens")) == [1]
    assert not {"chunk", "chunk_tokens", "output_text"} & made.keys()
