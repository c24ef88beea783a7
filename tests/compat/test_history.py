"""smg-proto diff over every pair of consecutive published releases says what really happened."""

import sys
from dataclasses import dataclass
from functools import cache

import pytest
from _frozen import Frozen
from _upstream import UPSTREAMS
from support import ROOT, run

from smg_proto.compat import Contract, Finding, Report, Witness, diff, load

pytestmark = pytest.mark.packaging  # downloads 31 small wheels, once

RELEASES = ["0.3.2", "0.3.3", *(f"0.4.{patch}" for patch in range(29))]
VERDICTS = {
    "0.4.0": "data",
    "0.4.2": "data",
    "0.4.6": "data",
    "0.4.11": "data",
    "0.4.13": "presence",
    "0.4.14": "source",
    "0.4.28": "presence",
}
SGLANG, TOKENSPEED, VLLM = "sglang.grpc.scheduler", "tokenspeed.grpc.scheduler", "vllm.grpc.engine"


@dataclass(frozen=True)
class Loss:
    """One broken field: what becomes of it from old to new and from new to old."""

    symbol: str
    there: str
    back: str = ""
    carried_by: str = ""


LOSSES = {
    "0.4.0": [
        Loss(
            f"{SGLANG}.MultimodalInputs.processed_features",
            "misread",
            "undecodable",
            f"{SGLANG}.EmbedRequest.mm_inputs, {SGLANG}.GenerateRequest.mm_inputs",
        ),
        Loss(
            "trtllm.MultimodalInput.multimodal_hashes",
            "misread",
            "misread",
            "trtllm.GenerateRequest.multimodal_input",
        ),
        Loss("trtllm.MultimodalInput.multimodal_positions", "lost"),
        Loss("trtllm.MultimodalInput.multimodal_lengths", "lost"),
    ],
    "0.4.2": [
        Loss("trtllm.GenerateRequest.end_id", "lost"),
        Loss("trtllm.GenerateRequest.pad_id", "lost"),
        Loss("trtllm.GenerateRequest.bad_words", "lost"),
        Loss("trtllm.GenerateRequest.stop_words", "lost"),
        Loss(
            f"{VLLM}.MultimodalInputs.image_data", "lost", "", f"{VLLM}.GenerateRequest.mm_inputs"
        ),
    ],
    "0.4.6": [
        Loss(f"{SGLANG}.GenerateResponse.error", "lost"),
        Loss("trtllm.GenerateResponse.error", "lost"),
        Loss(f"{SGLANG}.EmbedResponse.request_id", "lost"),
        Loss(f"{SGLANG}.EmbedResponse.complete", "lost"),
        Loss(f"{SGLANG}.EmbedResponse.error", "lost"),
        Loss(f"{SGLANG}.EmbedRequest.log_metrics", "lost"),
    ],
    "0.4.11": [
        Loss(f"{TOKENSPEED}.TensorData.data", "misread", "misread"),
        Loss(f"{TOKENSPEED}.TensorData.shape", "misread", "misread"),
        Loss(f"{TOKENSPEED}.TensorData.dtype", "misread", "undecodable"),
        Loss(
            f"{TOKENSPEED}.MultimodalInputs.pixel_values",
            "undecodable",
            "undecodable",
            f"{TOKENSPEED}.GenerateRequest.mm_inputs",
        ),
        Loss(f"{TOKENSPEED}.MultimodalInputs.model_specific_tensors", "lost"),
        Loss(f"{TOKENSPEED}.MultimodalInputs.im_token_id", "lost"),
        Loss(f"{TOKENSPEED}.MultimodalInputs.mm_placeholders", "lost"),
    ],
}
NOT_RESERVED = {
    "trtllm.MultimodalInput.multimodal_positions",
    "trtllm.MultimodalInput.multimodal_lengths",
    f"{TOKENSPEED}.MultimodalInputs.model_specific_tensors",
    f"{TOKENSPEED}.MultimodalInputs.im_token_id",
    f"{TOKENSPEED}.MultimodalInputs.mm_placeholders",
}
# What a release broke besides data: class and symbol.
OTHERS = {
    "0.4.2": [
        ("json", "trtllm.GenerateComplete.stop_reason"),
        ("source", "trtllm.GenerateComplete.stop_reason"),
        ("source", "trtllm.TokenSequence"),
    ],
    "0.4.6": [
        ("source", f"{SGLANG}.GenerateError"),
        ("source", "trtllm.GenerateError"),
        ("source", f"{SGLANG}.EmbedComplete"),
        ("source", f"{SGLANG}.EmbedError"),
        ("source", f"{SGLANG}.Embedding"),
    ],
    "0.4.13": [
        ("presence", f"{VLLM}.TensorData.data"),
        ("json", f"{VLLM}.TensorData.data"),
        ("source", f"{VLLM}.TensorData.data"),
        ("source", f"{TOKENSPEED}.ShmHandle"),
        ("source", f"{TOKENSPEED}.RemoteTensorHandle"),
        ("source", f"{TOKENSPEED}.Modality"),
        ("source", f"{TOKENSPEED}.TensorData.shm"),
        ("source", f"{TOKENSPEED}.TensorData.remote"),
        ("source", f"{TOKENSPEED}.MultimodalItem.modality"),
        ("source", f"{TOKENSPEED}.GetModelInfoResponse.supported_modalities"),
    ],
    "0.4.14": [
        ("source", f"{SGLANG}.{verb}LoRA{end}")
        for verb in ("Load", "Unload")
        for end in ("Request", "Response")
    ],
    "0.4.28": [("presence", f"{SGLANG}.GenerateRequest.data_parallel_rank")],
}


@cache
def contract(release: str) -> Contract:
    return load(f"pypi:smg-grpc-proto=={release}")


@cache
def report(release: str) -> Report:
    before = RELEASES[RELEASES.index(release) - 1]
    return diff(contract(before), contract(release))


def breaking(release: str) -> list[Finding]:
    return [finding for finding in report(release).findings if finding.cls != "notice"]


@pytest.fixture(autouse=True)
def downloads_stay_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMG_PROTO_CACHE", str(ROOT / ".cache"))


@pytest.mark.parametrize("release", RELEASES[1:])
def test_the_verdict_is_the_true_one(release: str) -> None:
    assert report(release).verdict == VERDICTS.get(release, "compatible")


@pytest.mark.parametrize("release", RELEASES[1:])
def test_exactly_the_broken_fields_are_named_with_the_effect(release: str) -> None:
    found = {f.symbol: f for f in report(release).findings if f.cls == "data"}
    losses = LOSSES.get(release, [])
    assert found.keys() == {loss.symbol for loss in losses}
    for loss in losses:
        finding = found[loss.symbol]
        assert outcomes(finding.witness) == (loss.there, loss.back), loss.symbol
        assert loss.carried_by in finding.message
        assert ("not reserved" in finding.message) == (loss.symbol in NOT_RESERVED)


def outcomes(witness: Witness | None) -> tuple[str, str]:
    """Old to new, new to old; "" where nothing is wrong."""
    found: dict[str, str] = {}
    while witness:
        found[witness.direction] = witness.outcome
        witness = witness.reverse
    return found.get("old to new", ""), found.get("new to old", "")


@pytest.mark.parametrize("release", OTHERS)
def test_breaks_without_wire_data_are_named(release: str) -> None:
    found = {(finding.cls, finding.symbol) for finding in breaking(release)}
    assert found >= set(OTHERS[release])
    if release not in LOSSES:
        assert found == set(OTHERS[release])


def test_a_type_that_no_rpc_used_is_reported_as_unused() -> None:
    assert all("No RPC used it" in finding.message for finding in breaking("0.4.14"))


def test_distant_releases_with_equal_shared_symbols_have_no_data_finding() -> None:
    far = diff(contract("0.4.6"), contract("0.4.28"))
    touched = [f.symbol for f in far.findings if f.cls in ("data", "rpc")]
    assert touched == []
    assert diff(contract("0.3.2"), contract("0.4.28")).verdict == "data"


def test_the_page_matches_the_current_output() -> None:
    run(sys.executable, ROOT / "scripts" / "history.py", "--check")


def section(title: str) -> list[str]:
    """The rows of one table of the page, one for each release."""
    text = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
    text = text.partition(f"## {title}\n")[2]
    return [row for row in text.partition("\n## ")[0].splitlines() if row.startswith("| 0.")]


def said_by_buf(title: str) -> dict[str, tuple[int, ...]]:
    """The releases of a table for which buf reports errors: how many at each level."""
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in section(title)]
    output = {row[0]: tuple(int(cell or 0) for cell in row[-3:]) for row in cells}
    return {release: errors for release, errors in output.items() if any(errors)}


def test_buf_still_reports_the_recorded_results() -> None:
    assert said_by_buf("smg-grpc-proto") == {
        "0.4.0": (8, 10, 4),
        "0.4.2": (9, 8, 1),
        "0.4.6": (12, 6, 0),
        "0.4.11": (21, 22, 10),
        "0.4.13": (11, 5, 3),
        "0.4.14": (4, 0, 0),
        "0.4.28": (1, 0, 0),
    }
    assert said_by_buf("vllm-proto") == {"0.5.0": (3, 0, 0)}


def test_the_one_break_of_vllms_own_contract_is_the_presence_of_three_fields() -> None:
    frozen = Frozen.here()
    (upstream,) = (upstream for upstream in UPSTREAMS if upstream.name == "vllm-proto")
    found = {
        (version, finding.cls, finding.symbol)
        for old, new, version in zip(
            upstream.frozen, upstream.frozen[1:], upstream.releases[1:], strict=False
        )
        for finding in diff(load(frozen.image(old)), load(frozen.image(new))).findings
        if finding.cls != "notice"
    }
    fields = ("top_k", "top_p", "min_p")
    assert found == {("0.5.0", "presence", f"vllm.RandomSampling.{name}") for name in fields}


def test_the_stability_page_has_every_row_that_is_not_compatible() -> None:
    broken = [row for row in section("smg-grpc-proto") if "| compatible |" not in row]
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8").splitlines()
    assert len(broken) == len(VERDICTS)
    assert [row for row in page if row.startswith("| 0.")] == broken
