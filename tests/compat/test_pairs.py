"""Minimal pairs of schemas over all of protobuf, each with the verdict that it deserves."""

import json
import random
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from oracle import break_of, broken
from pairs import Pair, as_protobuf_js, contract, pairs, reports, written
from support import run

from smg_proto.compat import Contract, _contract, diff


def test_there_are_many_pairs_with_every_verdict() -> None:
    assert len(pairs()) >= 150
    assert {pair.cls for pair in pairs()} == {
        "data", "rpc", "presence", "json", "source", "compatible",
    }  # fmt: skip


@pytest.mark.parametrize("pair", pairs(), ids=str)
def test_a_pair_has_its_class_and_direction(pair: Pair) -> None:
    report = diff(contract(pair, "old"), contract(pair, "new"))
    assert report.verdict == pair.cls, report.text()
    witnesses = [w for f in report.findings for w in f.witnesses]
    ways = {witness.direction for witness in witnesses}
    result = "both" if len(ways) == 2 else "".join(ways)
    assert result == pair.direction, report.text()
    data = [finding for finding in report.findings if finding.cls == "data"]
    assert all(f.by_name for f in data) == (pair.by_name or not data), report.text()
    assert ("judging by the names" in report.text()) == any(f.by_name for f in data)
    for finding in report.findings:
        assert bool(finding.witness) == (finding.cls == "data")
        assert finding.place or finding.symbol == finding.package


@pytest.mark.parametrize(
    "title",
    ["a message holds itself deeper", "a field of a message that is held deep down is retyped"],
)
def test_classes_that_are_created_in_advance_give_the_same_report(
    title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with protobuf in pure Python."""
    report = diff(*sides(titled(title)))
    monkeypatch.setattr(_contract, "_EAGER", True)
    assert diff(*sides(titled(title))) == report


def test_a_contract_without_a_file_has_the_packages_of_the_others() -> None:
    pair = titled("an extension of another package's message is retyped")
    whole = contract(pair, "old")
    assert whole.packages == {pair.name, f"{pair.name}.b"}
    assert whole.without([f"{pair.name}/b.proto"]).packages == {pair.name}


def titled(title: str) -> Pair:
    (pair,) = (pair for pair in pairs() if pair.title == title)
    return pair


@pytest.mark.parametrize("pair", pairs(), ids=str)
def test_descriptors_of_protobuf_js_are_read_as_they_are_meant(pair: Pair) -> None:
    old, new = sides(pair)
    short = contract(pair, "old", as_protobuf_js), contract(pair, "new", as_protobuf_js)
    assert diff(*short) == diff(old, new)
    for full, same in zip((old, new), short, strict=True):
        assert diff(full, same).findings == ()
        assert (full.served, full.carriers) == (same.served, same.carriers)


def test_messages_with_maps_are_compared_by_the_runtime_in_pure_python(tmp_path: Path) -> None:
    for side in ("old", "new"):
        chosen = [contract(pair, side).files for pair in pairs() if "map<" in pair.text]
        files = {file.name: file for some in chosen for file in some}
        every = FileDescriptorSet(file=files.values())
        (tmp_path / f"{side}.binpb").write_bytes(every.SerializeToString())
    diffed: list[str | Path] = [sys.executable, "-m", "smg_proto", "diff", "--format", "json"]
    diffed += [tmp_path / "old.binpb", tmp_path / "new.binpb"]
    by_runtime = [
        json.loads(
            run(*diffed, check=False, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation)
        )["findings"]
        for implementation in ("upb", "python")
    ]
    upb, python = ({(f["class"], f["symbol"]) for f in found} for found in by_runtime)
    # Pure Python keeps a number that a closed enum of a map does not name.
    assert {symbol.partition(".")[0] for _, symbol in upb ^ python} == {"enums17"}


def test_the_result_of_buf_is_recorded_with_each_pair() -> None:
    for path, text in written():
        assert path.read_text(encoding="utf-8") == text, "run tests/compat/pairs.py --write"


def test_the_findings_of_each_pair_are_recorded() -> None:
    for path, text in reports():
        assert path.read_text(encoding="utf-8") == text, "run tests/compat/pairs.py --write"


def sides(pair: Pair) -> tuple[Contract, Contract]:
    return contract(pair, "old"), contract(pair, "new")


def types_of_both(old: Contract, new: Contract) -> list[tuple[str, str]]:
    """As which message each is read on the other side: by its name, or by its role in an RPC."""
    there = [(name, name) for name in old.messages if name in new.messages]
    for name, service in old.services.items():
        after = new.services.get(name)
        for method, rpc in service.rpcs.items() if after else ():
            if after and method in after.rpcs:
                now = after.rpcs[method]
                there += [(rpc.request, now.request), (rpc.response, now.response)]
    return list(dict.fromkeys(there))


@pytest.mark.parametrize("pair", [p for p in pairs() if p.cls == "data"], ids=str)
def test_the_runtime_confirms_each_witness(pair: Pair) -> None:
    """By the oracle where it can: it knows no names that were given to other things on purpose."""
    old, new = sides(pair)
    for finding in diff(old, new).findings:
        for witness in finding.witnesses:
            forward = witness.direction == "old to new"
            writer, reader = (old, new) if forward else (new, old)
            name, data = witness.message, bytes.fromhex(witness.bytes)
            if finding.by_name and "Any" in pair.title:
                continue  # that a type's name is no text is beyond the oracle
            both = [names if forward else names[::-1] for names in types_of_both(old, new)]
            kinds = [
                (writer.message_class(before), reader.message_class(after))
                for before, after in both
                if before == name
            ]
            confirmed = any(broken(data, *two, forward) for two in kinds)
            assert confirmed or not complete(writer, name, data), witness


def complete(side: Contract, name: str, data: bytes) -> bool:
    """Whether the sample is whole to its sender; else its reader's refusal says little."""
    message = side.message_class(name)()
    message.MergeFromString(data)
    return message.IsInitialized()


@pytest.mark.parametrize("pair", [p for p in pairs() if p.cls != "data"], ids=str)
def test_random_messages_survive_changes_that_are_not_data_breaks(pair: Pair) -> None:
    old, new = sides(pair)
    chance = random.Random(7)
    compared = diff(old, new).packages
    for before, after in types_of_both(old, new):
        if old.messages[before].package not in compared:
            continue
        kinds = old.message_class(before), new.message_class(after)
        assert not break_of(kinds[0], kinds[1], True, 200, chance)
        assert not break_of(kinds[1], kinds[0], False, 200, chance)
