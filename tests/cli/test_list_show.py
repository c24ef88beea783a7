"""smg-proto list and show: the contract, told at the terminal."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from smg_proto import descriptor_set, proto_path
from smg_proto._descriptors import symbols
from smg_proto.cli import main
from smg_proto.cli._installed import unknown
from smg_proto.compat import diff, load
from smg_proto.compat._contract import Contract, Message


def test_list_names_every_service_with_its_rpcs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "  rpc LLMService.Generate(GenerateRequest) returns (stream GenerateResponse)" in shown
    services = {s.name.rpartition(".")[2] for s in symbols(descriptor_set()) if s.kind == "service"}
    assert services == set(re.findall(r"^  service (\w+)$", shown, re.MULTILINE))


def test_list_prints_a_line_for_each_symbol_below_its_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = [
        "entity.grpc",
        "  service LLMService",
        "  rpc LLMService.Generate(GenerateRequest) returns (stream GenerateResponse)",
    ]
    messages = ["  message GenerateRequest", "  message GenerateResponse"]
    assert main(["list", "entity.grpc"]) == 0
    assert capsys.readouterr().out.splitlines() == service + messages
    assert main(["list"]) == 0
    every = capsys.readouterr().out.splitlines()
    assert every[: len(service)] == service
    assert [line for line in every if not line.startswith(" ")] == sorted(
        {s.package for s in symbols(descriptor_set()) if not s.package.startswith("google.")}
    )
    assert not any(line.startswith("  message ") for line in every)


def test_list_of_a_package_has_its_messages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "smg.v1", "--json"]) == 0
    output = capsys.readouterr().out
    listing = json.loads(output)
    assert output == json.dumps(listing, indent=2) + "\n"
    assert list(listing) == ["smg.v1"]
    assert {"kind": "message", "name": "smg.v1.Usage", "since": "1.0.0"} in listing["smg.v1"]


def test_show_prints_a_definition_that_compiles_to_the_same_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every line of the shown definition that is not a comment stands in the proto file."""
    name = "vllm.grpc.engine.SamplingParams"
    assert main(["show", name]) == 0
    shown = capsys.readouterr().out
    source = (proto_path() / "vllm/grpc/engine/vllm_engine.proto").read_text(encoding="utf-8")
    code = [line for line in shown.splitlines() if not line.strip().startswith("//")]
    assert len(code) > 30
    assert [line for line in code if line not in source.splitlines()] == []


def test_all_that_show_prints_compiles_to_the_same_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without options other than `deprecated`, and each package in one file."""
    contract = descriptor_set()
    packages = {file.name: file.package for file in contract.file}
    for package in sorted({name for name in packages.values() if not name.startswith("google.")}):
        assert main(["show", package]) == 0
        needed = {
            name
            for file in contract.file
            if file.package == package
            for name in file.dependency
            if packages.get(name) != package
        }
        google = [name for name in needed if name.startswith("google/")]
        others = {f"{packages[name]}.proto" for name in needed.difference(google)}
        imports = "".join(f'import "{name}";\n' for name in sorted({*google, *others}))
        text = f'syntax = "proto3";\npackage {package};\n{imports}{capsys.readouterr().out}'
        (tmp_path / f"{package}.proto").write_text(text, encoding="utf-8")
    shown = load(tmp_path)
    report = diff(load("self"), shown, sorted({*packages.values()} & shown.packages))
    # Files differ, and names of generated code and idempotency are options.
    breaks = [f for f in report.findings if f.cls not in ("source", "notice")]
    left = [f for f in breaks if not f.message.startswith("idempotency_level ")]
    assert left == [], report.text()
    for name, message in load("self").messages.items():
        if message.package in shown.packages:
            assert declared(shown.messages[name]) == declared(message)
    assert not optional(shown, messages=True)  # which have presence without the word
    ours = optional(load("self"), messages=False)
    assert optional(shown, messages=False) == {n for n in ours if n.startswith((*shown.packages,))}
    for name, enum in load("self").enums.items():
        if enum.package in shown.packages:
            assert shown.enums[name].numbers == enum.numbers


def optional(contract: Contract, *, messages: bool) -> set[str]:
    """The fields, of messages or of other types, that are declared with the word `optional`."""
    found: set[str] = set()
    todo = [(file.package, m) for file in contract.files for m in file.message_type]
    while todo:
        outer, message = todo.pop()
        name = f"{outer}.{message.name}"
        found |= {
            f"{name}.{field.name}"
            for field in message.field
            if field.proto3_optional and (field.type == field.TYPE_MESSAGE) is messages
        }
        todo += [(name, nested) for nested in message.nested_type]
    return found


def declared(message: Message) -> list[object]:
    """What a message declares, apart from places and options."""
    fields = [
        (f.number, f.name, f.type_name, f.presence, f.oneof, f.deprecated)
        for f in message.fields.values()
    ]
    return [fields, message.reserved]


def test_show_prints_comments_and_since(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "vllm.grpc.engine.SamplingParams.grammar_from_first_token"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "// Since 0.4.28."  # not at the end of a sentence, or of a list
    assert len(lines) > 3


@pytest.mark.parametrize("name", ["smg.v1.ChatService/Chat", "/smg.v1.ChatService/Chat"])
def test_show_accepts_the_path_of_an_rpc(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    assert "rpc Chat(" in capsys.readouterr().out


def test_show_of_a_package_prints_all_its_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smg.v1"]) == 0
    shown = capsys.readouterr().out
    mine = {s for s in symbols(descriptor_set()) if s.package == "smg.v1"}
    top = {s for s in mine if s.kind in ("service", "message", "enum") and s.name.count(".") == 2}
    heads = re.findall(r"^(service|message|enum) (\w+) {", shown, re.MULTILINE)
    assert sorted(heads) == sorted((s.kind, s.name.rpartition(".")[2]) for s in top)
    files = re.findall(r"^// (smg/v1/.*)$", shown, re.MULTILINE)
    assert sorted(files) == sorted({s.file for s in mine})
    assert main(["show", "smg.v1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in result} == {s.name for s in top}


def test_show_separates_files_by_an_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smg.v1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("// smg/v1/")]
    assert starts[0] == 0 and len(starts) > 3
    assert all(lines[number - 1] == "" for number in starts[1:])


def test_show_prints_the_file_and_an_empty_line_between_definitions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "smg.v1.MatchedStop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "// smg/v1/token.proto"
    assert "" not in lines
    assert main(["show", "entity.grpc"]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [n for n, line in enumerate(lines) if re.match("(service|message) ", line)]
    assert lines[:2] == ["// entity/grpc/llm.proto", ""]
    assert lines.count("") == len(starts) == 3
    assert [after for line, after in pairwise(lines) if line == "}"] == ["", ""]


def test_show_prints_reserved_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smg.grpc.common.KvEventBatch"]) == 0
    assert "  reserved 5;\n" in capsys.readouterr().out


def test_show_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smg.v1.MatchedStop", "--json"]) == 0
    output = capsys.readouterr().out
    shown = json.loads(output)
    assert output == json.dumps(shown, indent=2) + "\n"
    members = {member["name"]: member["number"] for member in shown["members"]}
    assert shown["kind"] == "message"
    assert members == {
        "smg.v1.MatchedStop.stop": 0,
        "smg.v1.MatchedStop.text": 1,
        "smg.v1.MatchedStop.token_id": 2,
    }


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["show", "VllmEngne"], "vllm.grpc.engine.VllmEngine"),
        (["show", "vllm.grpc.engine.GenerateReqest"], "vllm.grpc.engine.GenerateRequest"),
        (["show", "GenerateRequest"], "ambiguous name"),
        (["list", "smg.v2"], "smg.v1"),
    ],
)
def test_an_unknown_name_lists_similar_ones_and_exits_with_2(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    result = capsys.readouterr()
    assert hint in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize("name", ["vllm.grpc.engine.GenerateReques", "tokenns"])
def test_at_most_three_similar_names_are_listed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", name]) == 2
    assert capsys.readouterr().err.count(", ") == 2
    assert unknown("letter", "aaaa", ["aaab", "aaac", "aaad", "aaae"]).count(", ") == 2


@pytest.mark.parametrize("words", [["list"], ["show", "smg.v1.ChatService"], ["--version"]])
def test_a_closed_reader_is_not_an_error(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "smg_proto", *words]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered, cwd=tmp_path
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_character_that_the_locale_lacks_is_not_an_error(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "smg_proto", "diff", "self", "self", "--format", "markdown"]
    done = subprocess.run(command, capture_output=True, env=os.environ | ascii_only, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"`self` \u2192 `self`" in done.stdout
