"""The options of every command."""

import argparse
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from smg_proto import __version__, cli
from smg_proto.cli import COMMANDS, CommandError, main


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
    assert parsed("demo").token_delay == 0.03


def test_the_help_names_every_command_and_the_exit_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: smg-proto [-h] [--version] COMMAND ..."
    assert "The wire contract for LLM serving over gRPC: run it, compare it, ship it." in lines
    listed = [line.split(maxsplit=1) for line in lines if line.startswith("    ")]
    modules = iter_modules([str(Path(cli.__file__).parent)])
    commands = {
        module.name.removeprefix("_")
        for module in modules
        if hasattr(import_module(f"smg_proto.cli.{module.name}"), "arguments")
    }
    assert [[name, text] for name, text in COMMANDS.items()] == listed
    assert set(COMMANDS) == commands
    assert lines[-1] == (
        "Run COMMAND --help for details. "
        "Exit status: 0 success, 1 check failed, 2 usage error or unreadable input."
    )
    with pytest.raises(SystemExit):
        main(["show", "--help"])
    assert COMMANDS["show"] in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (CommandError("not so"), 2, "smg-proto list: not so\n"),
        (OSError(2, "No such file", "a\x1bb"), 2, "smg-proto list: a\\x1bb: No such file\n"),
        (OSError(28, "No space left"), 2, "smg-proto list: output: No space left\n"),
        (KeyError(), 2, "smg-proto list: unexpected KeyError; "),
        (ValueError("so"), 2, "smg-proto list: unexpected ValueError: so; "),
        (OSError("so"), 2, "smg-proto list: unexpected OSError: so; "),
    ],
)
def test_a_failure_is_one_line_with_its_exit_status(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr("smg_proto.cli._list.Installed", fail)
    assert main(["list"]) == code
    output = capsys.readouterr()
    hint = "set SMG_PROTO_TRACEBACK=1 for a traceback\n" if message.endswith("; ") else ""
    assert (output.out, output.err) == ("", message + hint)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"smg-proto {__version__}\n"
