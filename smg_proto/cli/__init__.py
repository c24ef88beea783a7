"""The smg-proto command.

Each subcommand NAME is the module _NAME of this package, with `arguments(parser)` and `run(args)`.

Exit status: 0 success, 1 check failed, 2 usage error, unreadable input or an unexpected error.
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

# The name of each command, and its line of help. A module is imported when its command runs.
COMMANDS = {
    "demo": "run an embedded gateway and engine with a small built-in model",
    "serve": "serve smg.v1 over gRPC in front of a gateway's HTTP API",
    "diff": "compare two versions of a contract: what changed, and whom it breaks",
    "check": "compare a running server with this package",
    "list": "list the packages, services and messages of this release",
    "show": "print a definition with its comments",
    "export": "write the proto files to a folder, and check that folder later",
    "generate": "generate code for another language",
}
TRACEBACK = "SMG_PROTO_TRACEBACK"


class CommandError(Exception):
    """Bad usage or unreadable input. The message is one line, and the exit status 2."""


def main(argv: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # escape characters that the locale cannot show
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else [*argv]
    name = next((word for word in words if word in COMMANDS), "")
    try:
        try:
            code = _run(words)
        except SystemExit:  # raised by --help and --version
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, because an error at interpreter exit cannot be caught
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
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
    """Print text that may be untrusted, with control characters escaped."""
    from smg_proto.compat._text import printable

    print("\n".join(printable(line) for line in text.split("\n")))


def _run(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="smg-proto",
        description="The wire contract for LLM serving over gRPC: run it, compare it, ship it.",
        epilog="Run COMMAND --help for details. "
        "Exit status: 0 success, 1 check failed, 2 usage error or unreadable input.",
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
    return f"{what}; set {TRACEBACK}=1 for a traceback"


def _fail(command: str, text: str) -> int:
    """Print an error and return exit status 2."""
    from smg_proto.compat._text import printable

    _drop_output(flush=True)
    head = f"smg-proto {command}".rstrip()
    with suppress(OSError):
        print(f"{head}: {printable(text, keep=chr(10))}", file=sys.stderr, flush=True)
    return 2


def _drop_output(flush: bool = False) -> None:
    """Flush the output if possible, else discard it so that interpreter exit does not fail."""
    try:
        if flush:
            sys.stdout.flush()
            return
    except (OSError, ValueError):
        pass
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
