"""The released protocol package and these models, put to the same inputs."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sagellm_judge
from support import ROOT, make_environment, missing, need, run

import smg_proto.sagellm
from smg_proto.sagellm import Model, is_interface_frozen

pytestmark = pytest.mark.live

RELEASE = "isagellm-protocol==0.5.4.16"
CASES = json.loads(Path(__file__).with_name("protocol_cases.json").read_text(encoding="utf-8"))
# What each field of each model is given in turn.
PROBES: list[Any] = [
    *(None, True, 0, 1, -1, -2, 2, 3, 0.5, 1.0, 8.5, 1e-6, 2**70, "NaN", "Infinity", -2.5),
    *("", "8", "0.5", "yes", "x", "stop", "length", "error", "user", "developer", "unavailable"),
    *("UNAVAILABLE", "fp16", "bshd", "ttl_expired", "evict_after", "prefill", "greedy", "start"),
    *([], [1], ["1"], [1.5], ["a"], [None], {}, {"a": 1}, {"a": "b"}, {"a": {"b": [1, 2.0]}}),
    [{"role": "user", "content": "hi"}],
]
QUICKSTART = """
from {package} import (
    DEFAULT_SAMPLING_PARAMS, DecodingStrategy, ErrorCode, Metrics, Request, Response,
    SamplingParams, SamplingPreset, StreamEventDelta, StreamEventEnd, StreamEventStart,
)

request = Request(
    request_id="r-1", trace_id="t-1", model="demo-model", prompt="Once upon a time",
    max_tokens=128, stream=False, temperature=0.7,
)
metrics = Metrics(
    ttft_ms=31.5, tbt_ms=12.5, throughput_tps=80.0, peak_mem_mb=4096, error_rate=0.0
)
response = Response(
    request_id="r-1", trace_id="t-1", output_text="there was.", output_tokens=[42, 17],
    finish_reason="stop", metrics=metrics,
)
ids = dict(request_id="r-2", trace_id="t-2", engine_id="e-1")
start = StreamEventStart(**ids, prompt_tokens=10)
delta = StreamEventDelta(**ids, content="there", content_tokens=[42])
end = StreamEventEnd(
    **ids, content="there was", output_tokens=[42, 17], finish_reason="stop", metrics=metrics
)
balanced = SamplingPreset.get_params(SamplingPreset.BALANCED)
own = SamplingParams(
    strategy=DecodingStrategy.SAMPLING, temperature=0.7, top_p=0.9, top_k=50
)
models = [request, metrics, response, start, delta, end, DEFAULT_SAMPLING_PARAMS, balanced, own]
print(*(model.model_dump_json() for model in models), ErrorCode.UNAVAILABLE.value, sep="\\n")
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the released package, which wants 3.11."""
    need("uv")
    found = run("uv", "python", "find", "3.11", check=False).strip()
    if not found:
        missing("Python 3.11")
    return make_environment(tmp_path_factory.mktemp("released"), [RELEASE], python=found)


def _inputs() -> Iterator[tuple[str, Any]]:
    """The cases, and each accepted one with every field probed, left out, and set."""
    for case in CASES:
        yield case["model"], case["input"]
    fullest: dict[str, dict[str, Any]] = {}
    for case in CASES:
        given: Any = case["input"]
        if case["accepted"] and case["version"] != "0.1.1.0" and hasattr(given, "keys"):
            key = f"{case['model']} {given.get('event', '')}"
            if len(given) >= len(fullest.get(key, {})):
                fullest[key] = given
    assert len(fullest) >= 18
    for key, given in fullest.items():
        model = key.split()[0]
        kind = getattr(smg_proto.sagellm, model, None)
        names = set(given)
        if isinstance(kind, type) and issubclass(kind, Model):
            names |= kind.model_fields.keys()
        for name in sorted(names):
            yield model, {field: value for field, value in given.items() if field != name}
            yield from ((model, given | {name: probe}) for probe in PROBES)


def _old_spelling(given: Any) -> bool:
    """What these models accept and the newest release alone does not."""
    return isinstance(given, dict) and bool({"chunk", "chunk_tokens", "output_text"} & given.keys())


def test_both_accept_the_same_and_write_the_same_json(released: Path, tmp_path: Path) -> None:
    inputs = [(model, given) for model, given in _inputs() if not _old_spelling(given)]
    inputs += [(m, g) for m, g in _inputs() if m == "Response"]
    assert len(inputs) > 5000
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps(inputs), encoding="utf-8")
    script = Path(sagellm_judge.__file__)
    theirs = json.loads(run(released, script, "sagellm_protocol", file))
    differing = [
        (model, given, their, our)
        for (model, given), their in zip(inputs, theirs, strict=True)
        if (our := sagellm_judge.judge("smg_proto.sagellm", model, given)) != their
    ]
    assert not differing[:5]
    accepted = sum(their["accepted"] for their in theirs)
    assert 0.2 < accepted / len(theirs) < 0.8  # the inputs tell something


def test_the_quickstart_runs_unchanged_but_for_the_import(released: Path) -> None:
    program = QUICKSTART.format(package="sagellm_protocol")
    ours = QUICKSTART.format(package="smg_proto.sagellm")
    assert run(sys.executable, "-c", ours, cwd=ROOT) == run(released, "-c", program)


def test_promises_and_versions_are_those_of_the_release(released: Path) -> None:
    program = """
import json, {package} as package
names = sorted(json.loads('{names}'))
asked = ["0.0", "0.1", " 0.1 ", "0. 1", "0.2", "1.0", "-1.0", "+0.1", "0_0.1", "a", "0", "0.1.5"]
def negotiate(version):
    try:
        return str(package.negotiate_version(version))
    except ValueError:
        return "refused"
print([package.is_interface_frozen(name) for name in names])
print([package.get_interface_since_version(name) for name in names])
print([negotiate(version) for version in asked])
"""
    script = "import json, sagellm_protocol; print(json.dumps(dir(sagellm_protocol)))"
    names = run(released, "-c", script).strip()
    assert sum(map(is_interface_frozen, json.loads(names))) == 24
    theirs = run(released, "-c", program.format(package="sagellm_protocol", names=names))
    ours = run(
        sys.executable, "-c", program.format(package="smg_proto.sagellm", names=names), cwd=ROOT
    )
    assert ours == theirs
