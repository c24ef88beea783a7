"""The options of `smg-proto serve`, as the front door gets them."""

import argparse
from pathlib import Path

import pytest

from smg_proto.cli import CommandError, _serve
from smg_proto.frontdoor import Options, Timeouts, Tls


def options(*words: str) -> Options:
    parser = argparse.ArgumentParser()
    _serve.arguments(parser)
    return _serve._options(parser.parse_args(["--upstream", "http://g:1", *words]))


def test_each_flag_sets_its_option(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(" secret \n", encoding="utf-8")
    flags = {
        "listen": "127.0.0.1:1", "wait": "1.5", "tls-cert": "c", "tls-key": "k",
        "client-ca": "a", "upstream-ca": "u", "upstream-key-file": str(key),
        "connect-timeout": "2", "request-timeout": "3", "idle-timeout": "4", "drain": "5",
        "max-active": "6", "max-request-mib": "7", "max-connection-age": "8",
        "max-connection-age-grace": "9", "probes": "127.0.0.1:2", "metrics": "127.0.0.1:3",
    }  # fmt: skip
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    assert options(*words, "--log-content") == Options(
        upstream="http://g:1",
        listen="127.0.0.1:1",
        wait=1.5,
        tls=Tls(Path("c"), Path("k"), Path("a")),
        upstream_ca=Path("u"),
        upstream_key="secret",
        timeouts=Timeouts(2, 3, 4),
        max_request=7 * 2**20,
        max_active=6,
        max_connection_age=8,
        max_connection_age_grace=9,
        drain=5,
        probes="127.0.0.1:2",
        metrics="127.0.0.1:3",
        log_content=True,
    )


def test_without_flags_the_options_are_those_that_the_help_names() -> None:
    assert options() == Options(
        upstream="http://g:1",
        listen="127.0.0.1:50051",
        wait=0,
        timeouts=Timeouts(5, 600, 300),
        max_request=32 * 2**20,
        max_active=2000,
        drain=30,
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--wait", "-1"], "argument --wait: invalid seconds value: '-1'"),
        (["--wait", "inf"], "argument --wait: invalid seconds value: 'inf'"),
        (["--drain", "nan"], "argument --drain: invalid seconds value: 'nan'"),
        (["--drain", "soon"], "argument --drain: invalid seconds value: 'soon'"),
        (["--max-active", "0"], "argument --max-active: invalid count value: '0'"),
        (["--max-request-mib", "1.5"], "argument --max-request-mib: invalid count value: '1.5'"),
        (["--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
    ],
)
def test_a_value_out_of_range_is_a_usage_error(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        options(*words)
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


def test_the_least_values_are_accepted() -> None:
    least = options("--wait", "0", "--drain", "0", "--max-active", "1", "--max-request-mib", "1")
    assert (least.wait, least.drain, least.max_active, least.max_request) == (0, 0, 1, 2**20)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "could not read the key in {}"),
        (b"\xff", "could not read the key in {}"),
        (b" \n", "invalid key in {}: must be one line of printable ASCII"),
        (b"a\nb", "invalid key in {}: must be one line of printable ASCII"),
        ("ä".encode(), "invalid key in {}: must be one line of printable ASCII"),
    ],
)
def test_a_key_that_cannot_be_used_is_never_shown(
    content: bytes | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError) as raised:
        options("--upstream-key-file", str(path))
    assert str(raised.value) == problem.format(path)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--tls-cert", "c"], "incomplete certificate: give both --tls-cert and --tls-key"),
        (["--tls-key", "k"], "incomplete certificate: give both --tls-cert and --tls-key"),
        (["--client-ca", "a"], "--client-ca needs --tls-cert and --tls-key"),
    ],
)
def test_incomplete_tls_is_a_usage_error(words: list[str], problem: str) -> None:
    with pytest.raises(CommandError) as raised:
        options(*words)
    assert str(raised.value) == problem
