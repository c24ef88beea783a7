"""The smg-proto command.

Each subcommand NAME is the module _NAME here, with `arguments(parser)` and `run(args)`.

Exit codes: 0 fine, 1 the answer is no, 2 bad usage, unreadable input or anything unexpected.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper

from smg_proto import __version__

__all__ = ["main"]

# Name and one line for --help. A module is imported only when its command is run.
COMMANDS = {
    "demo": "run an embedded gateway and engine over a small built-in model",
    "serve": "serve the gateway API (smg.v1) over gRPC, in front of a gateway's HTTP API",
    "diff": "compare two versions of a contract: what changed, and whom it breaks",
    "check": "compare a running server with this package",
    "list": "list packages, services and messages of this release",
    "show": "print one definition with its comments",
    "export": "write the proto files into a folder, and check that folder later",
    "generate": "generate code for another language",
}
TRACEBACK = "SMG_PROTO_TRACEBACK"


class CommandError(Exception):
    """Bad usage or unreadable input: one line for the person at the terminal, exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a locale without a character gets its number
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else [*argv]
    name = next((word for word in words if word in COMMANDS), "")
    try:
        try:
            code = _run(words)
        except SystemExit:  # --help and --version end so
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # what fails while the interpreter ends cannot be caught
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        _drop_output()
        return 0
    except CommandError as error:
        return _fail(name, str(error))
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        return _fail(name, _unexpected(error))
    return code


def say(text: str) -> None:
    """Print text that may be others' in part: their control characters are shown, not obeyed."""
    from smg_proto.compat._text import printable

    print("\n".join(printable(line) for line in text.split("\n")))


def _run(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="smg-proto",
        description="The wire contract for LLM serving over gRPC: run it, compare it, ship it.",
        epilog="COMMAND --help tells more. Exit: 0 fine, 1 the answer is no, 2 bad usage or input.",
    )
    parser.add_argument("--version", action="version", version=f"smg-proto {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line)
        if words[:1] == [name]:
            module = import_module(f"smg_proto.cli._{name}")  # `list` is a module of this package
            module.arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(words)
    code: int = args.run(args)
    return code


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    what = f"unexpected {type(error).__name__}"
    what += f": {error}" if str(error) else ""
    return f"{what}; set {TRACEBACK}=1 to see where"


def _fail(command: str, text: str) -> int:
    """One line, and the exit code of what is no answer."""
    from smg_proto.compat._text import printable

    _drop_output(flush=True)
    head = f"smg-proto {command}".rstrip()
    with suppress(OSError):
        print(f"{head}: {printable(text, keep=chr(10))}", file=sys.stderr, flush=True)
    return 2


def _drop_output(flush: bool = False) -> None:
    """Write what can be written, and nothing while the interpreter ends."""
    try:
        if flush:
            sys.stdout.flush()
            return
    except (OSError, ValueError):
        pass
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
