"""The commands on the pages are commands that there are, with options that they have."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module

import pytest
from support import ROOT

from docs.pages import PAGES, blocks
from smg_proto import cli

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# In prose: `smg-proto diff OLD NEW`, which may leave out what the sentence is not about.
INLINE = re.compile(r"`(?:smg-proto|scripts/)[^`]*`")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command in a block, by the block's id: its words, without comments."""
    for block in blocks():
        if block.language in ("", "sh"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if re.match(r"(smg-proto|pip|scripts/\S+|\S+/python) ", f"{line} "):
                    yield block.id, shlex.split(line, comments=True)


def spoken() -> Iterator[tuple[str, list[str]]]:
    """Every command in a sentence."""
    for page in PAGES:
        for found in INLINE.findall(page.read_text(encoding="utf-8")):
            yield page.relative_to(ROOT).as_posix(), found.strip("`").replace("…", "").split()


COMMANDS = list(commands())
SPOKEN = list(spoken())


def only(program: str, found: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    return [(where, words) for where, words in found if words[0] == program]


def named(found: list[tuple[str, list[str]]]) -> pytest.MarkDecorator:
    ids = [f"{where}: {' '.join(words)}" for where, words in found]
    return pytest.mark.parametrize("words", [words for _, words in found], ids=ids)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subcommands whose arguments were accepted; none of them is carried out."""
    done: list[str] = []
    for name in cli.COMMANDS:

        def accept(_: object, name: str = name) -> int:
            done.append(name)
            return 0

        monkeypatch.setattr(import_module(f"smg_proto.cli._{name}"), "run", accept)
    return done


@named(only("smg-proto", COMMANDS))
def test_smg_proto_accepts_the_arguments_on_the_page(words: list[str], ran: list[str]) -> None:
    assert cli.main(words[1:]) == 0
    assert ran == [words[1]]


@named([(where, words) for where, words in only("smg-proto", SPOKEN) if words[1:]])
def test_a_subcommand_in_a_sentence_has_its_options(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = "--help" if words[1] in ("COMMAND", "--help") else words[1]
    if command == "--version":
        return
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0, f"smg-proto has no {command}"
    usage = capsys.readouterr().out
    for option in words[2:]:
        if option.startswith("-"):
            assert re.search(rf"(?<![\w-]){option.partition('=')[0]}(?![\w-])", usage), option


@named(only("pip", COMMANDS))
def test_an_extra_to_install_exists(words: list[str]) -> None:
    declared = PYPROJECT.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    known = set(re.findall(r"^(\w+) = \[", declared, re.MULTILINE))
    assert words[:2] == ["pip", "install"]
    for word in words[2:]:
        if found := re.fullmatch(r"(?:smg-grpc-proto|\.)\[([\w,]+)\](?:>=[\d.]+)?", word):
            assert set(found[1].split(",")) <= known


@named([(w, words) for w, words in [*COMMANDS, *SPOKEN] if words[0].startswith("scripts/")])
def test_a_script_exists_with_its_options(words: list[str]) -> None:
    script = ROOT / words[0].rstrip("/")
    assert script.exists()
    for option in words[1:]:
        if option.startswith("--") and option != "--":
            assert option in script.read_text(encoding="utf-8")
    if script.name == "test":
        groups = re.findall(
            r'^    "([\w-]+): ', PYPROJECT.partition("markers = [")[2], re.MULTILINE
        )
        named = {word for word in words[1:] if not word.startswith("-")}
        assert named <= {"gate", "core", "slow", *(group.replace("_", "-") for group in groups)}


@named([(where, words) for where, words in COMMANDS if words[0].endswith("/python")])
def test_a_program_to_run_exists(words: list[str]) -> None:
    assert (ROOT / words[1]).is_file()


def test_commands_are_found() -> None:
    assert len(only("smg-proto", COMMANDS)) >= 15 and len(only("smg-proto", SPOKEN)) >= 15
    assert {words[0] for _, words in COMMANDS} >= {"pip", "scripts/test", "scripts/build.py"}
