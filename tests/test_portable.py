"""The sources depend on nothing that one machine has and another has not."""

import ast
from pathlib import Path

import pytest
from support import ROOT

FOLDERS = ["smg_proto", "scripts", "tests", "benchmarks", "examples"]
PROGRAMS = ["scripts/test", "scripts/quickstart"]


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    written = [path for path in found if "_pb2" not in path.name]
    assert len(written) > 200
    return [*written, *(ROOT / name for name in PROGRAMS)]


def is_locale_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text without saying its encoding."""
    given = {keyword.arg for keyword in call.keywords}
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return "encoding" not in given
        case ast.Attribute(value=ast.Name(id="os" | "tarfile" | "zipfile"), attr="open"):
            return False
        case ast.Attribute(attr="open"):
            mode = call.args[:1]
            if mode and not isinstance(mode[0], ast.Constant):
                return False  # a member of an archive
        case ast.Name(id="open"):
            mode = call.args[1:2]
        case _:
            return False
    mode += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return "encoding" not in given and not any("b" in ast.unparse(word) for word in mode)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(name)", True),
        ("path.open('a')", True),
        ("path.read_text(encoding='utf-8')", False),
        ("open(name, 'rb')", False),
        ("path.open(mode='wb')", False),
        ("archive.open(name)", False),
    ],
)
def test_the_encoding_check_finds_its_examples(code: str, found: bool) -> None:
    (statement,) = ast.parse(code).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    assert is_locale_text(statement.value) is found


def test_every_open_names_its_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and is_locale_text(node)
    ]
    assert found == []
