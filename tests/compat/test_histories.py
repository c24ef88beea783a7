"""Contracts of others, pinned releases from four registries: our verdicts, beside those of buf.

Slow, and in need of the registries and their clients: `pytest -m histories`.
"""

import random
from pathlib import Path

import pytest
from histories import Step, buf_errors
from oracle import break_of

from smg_proto.compat import CLASSES, diff

pytestmark = [pytest.mark.histories, pytest.mark.timeout(600)]

GOOGLE = "pypi:googleapis-common-protos==1.66.0"
GOGO = "go:github.com/gogo/protobuf@v1.3.2"
GATEWAY = "go:github.com/grpc-ecosystem/grpc-gateway/v2@v2.16.0"
ETCD = (GOOGLE, GOGO, GATEWAY)
OTEL = "opentelemetry-proto"
SIGSTORE = "github.com/sigstore/protobuf-specs"
STEPS = [
    # --- Python wheels
    Step("pypi", OTEL, "1.11.1", "1.12.0", "compatible", (0, 0, 0, 0, 0), (0, 0, 0), ""),
    Step("pypi", OTEL, "1.12.0", "1.15.0", "rpc", (0, 1, 0, 0, 6), (1, 0, 0),
         "a service is removed: its callers get UNIMPLEMENTED; buf's wire levels are silent"),
    Step("pypi", OTEL, "1.15.0", "1.20.0", "data", (3, 0, 1, 7, 25), (21, 7, 0),
         "fields are removed and reserved: an old sender's data is lost; buf's WIRE accepts that"),
    Step("pypi", "xai-sdk", "1.0.0", "1.3.0", "json", (0, 0, 0, 2, 6), (8, 6, 2),
         "messages are renamed with the same bytes, which buf's WIRE calls a break"),
    Step("pypi", "qdrant-client", "1.6.9", "1.7.3", "data", (1, 0, 3, 1, 9), (13, 2, 0),
         "a name goes to another number: a guess from names, and marked as one"),
    # --- crates
    Step("crate", "pulsar", "1.0.0", "4.1.3", "data", (11, 0, 0, 0, 0), (0, 0, 0),
         "values of closed enums in required fields: an old reader refuses the message"),
    Step("crate", "pulsar", "4.1.3", "6.0.0", "compatible", (0, 0, 0, 0, 0), (0, 0, 0), ""),
    Step("crate", "qdrant-client", "1.15.0", "1.16.0", "data", (2, 0, 0, 2, 3), (23, 2, 0),
         "two removed fields lose data; the rest of buf's errors are messages that moved"),
    Step("crate", "containerd-client", "0.5.0", "0.8.0", "json", (0, 0, 0, 2, 8), (8, 5, 3),
         "messages moved to another package with the same bytes, which buf's WIRE calls a break"),
    Step("crate", "vllm-proto", "0.4.0", "0.5.0", "presence", (0, 0, 3, 0, 0), (3, 0, 0),
         "zero and unset differ from then on; buf's wire levels say nothing of it"),
    # --- Go modules
    Step("go", SIGSTORE, "v0.1.0", "v0.2.0", "source", (0, 0, 0, 0, 6), (6, 0, 0), "",
         "protos", (GOOGLE,)),
    Step("go", SIGSTORE, "v0.2.1", "v0.3.0", "data", (1, 0, 0, 1, 1), (1, 1, 0),
         "a removed and reserved field loses data", "protos", (GOOGLE,)),
    Step("go", SIGSTORE, "v0.3.0", "v0.4.1", "source", (0, 0, 0, 0, 1), (2, 1, 1),
         "a reserved range of an enum is narrowed for new values, which breaks nobody",
         "protos", (GOOGLE,)),
    Step("go", "go.etcd.io/etcd/api/v3", "v3.5.0", "v3.6.0", "source", (0, 0, 0, 0, 6), (6, 0, 0),
         "", "", ETCD),
    # --- npm packages
    Step("npm", "@opentelemetry/otlp-grpc-exporter-base", "0.31.0", "0.35.0", "compatible",
         (0, 0, 0, 0, 0), (0, 0, 0), ""),
    Step("npm", "google-proto-files", "3.0.3", "4.0.0", "source", (0, 0, 0, 0, 1), (1, 0, 0), "",
         "google/longrunning", (GOOGLE,)),
]  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("histories")


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_verdict_is_the_recorded_one_and_messages_confirm_it(step: Step, scratch: Path) -> None:
    old, new = step.contract(step.old, scratch), step.contract(step.new, scratch)
    report = diff(old, new)
    classes = [finding.cls for finding in report.findings]
    counts = tuple(classes.count(name) for name in CLASSES if name != "notice")
    assert (report.verdict, counts) == (step.verdict, step.counts), report.text()
    assert buf_errors(old, new, scratch) == step.buf
    # Where the two differ, it is said why.
    agree = (step.verdict == "compatible") == (step.buf[0] == 0) and (
        (step.verdict == "data") == (step.buf[2] > 0)
    )
    assert step.why or agree, step
    chance = random.Random(5)
    broken = [
        name
        for name in old.messages.keys() & new.messages.keys()
        if not name.startswith("google.protobuf.")
        for kinds in [(old.message_class(name), new.message_class(name))]
        if break_of(*kinds, True, 20, chance) or break_of(*kinds[::-1], False, 20, chance)
    ]
    assert not broken or step.verdict == "data", broken


def test_there_are_at_least_five_histories() -> None:
    assert len({step.package for step in STEPS}) >= 5
    assert {step.kind for step in STEPS} == {"pypi", "crate", "go", "npm"}
