"""The options of every command."""

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from smg_proto import __version__
from smg_proto.cli import COMMANDS, main


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    import_module(f"smg_proto.cli._{command}").arguments(parser)
    return parser


def parsed(command: str, *words: str) -> argparse.Namespace:
    return parser_of(command).parse_args(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described_and_its_value_has_a_name(command: str) -> None:
    for action in parser_of(command)._actions:
        assert action.help, f"{action.dest} has no help"
        if action.nargs != 0 and not action.choices:
            assert action.metavar, f"the value of {action.dest} has no name"


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["check"], "HOST[:PORT]"),
        (["diff", "self"], "NEW"),
        (["export"], "DEST"),
        (["generate", "--out", "x"], "--lang"),
        (["generate", "--lang", "go"], "--out"),
        (["serve"], "--upstream"),
        (["show"], "NAME"),
        ([], "COMMAND"),
    ],
)
def test_what_is_required_is_named(
    words: list[str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"the following arguments are required: {missing}" in capsys.readouterr().err


def test_switches_take_no_value() -> None:
    assert parsed("demo", "--engine-only").engine_only is True
    assert parsed("diff", "a", "b", "--keep-going").keep_going is True
    assert parsed("check", "a", "--tls", "--allow-older").allow_older is True
    export = parsed("export", "a", "--all", "--check", "--force", "--descriptor-set")
    assert export.all and export.check and export.force and export.descriptor_set


def test_options_that_may_be_repeated_are_collected() -> None:
    diff = parsed("diff", "a", "b", "-I", "x", "--include", "y", "--exclude", "p", "--exclude", "q")
    assert (diff.include, diff.exclude) == (["x", "y"], ["p", "q"])
    assert parsed("diff", "a", "b", "--package", "x", "--package", "y").package == ["x", "y"]
    assert parsed("export", "a", "--only", "x", "--only", "y").only == ["x", "y"]
    assert parsed("check", "a", "--metadata", "k=v", "--metadata", "l=w").metadata == [
        "k=v",
        "l=w",
    ]


def test_without_options_nothing_is_left_out_and_any_break_fails() -> None:
    diff = parsed("diff", "a", "b")
    assert (diff.format, diff.level, diff.accept, diff.release) == ("text", "source", None, None)
    assert diff.package == diff.include == diff.exclude == []
    assert parsed("diff", "a", "b", "--accept", "f", "--release", "1.2.3").release == "1.2.3"
    assert parsed("diff", "a", "b", "--accept", "f").accept == Path("f")


def test_servers_listen_on_loopback_unless_another_address_is_given() -> None:
    assert parsed("serve", "--upstream", "http://localhost:1").listen == "127.0.0.1:50051"
    assert parsed("demo").listen == "127.0.0.1:8000"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"smg-proto {__version__}\n"
