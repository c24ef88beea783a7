"""The smg-proto command.

Each subcommand NAME is the module _NAME here, with `arguments(parser)` and `run(args)`.

Exit codes: 0 fine, 1 the answer is no, 2 bad usage or unreadable input.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from smg_proto import __version__

__all__ = ["main"]

# Name and one line for --help. A module is imported only when its command is run.
COMMANDS = {
    "demo": "run an embedded gateway and engine over a small built-in model",
    "serve": "serve the gateway API (smg.v1) over gRPC, in front of a gateway's HTTP API",
    "diff": "tell what changed between two contracts, and whom it breaks",
    "check": "ask a running server what it cannot do for this package, and the other way round",
    "list": "list packages, services and messages of this release",
    "show": "print one definition with its comments",
    "export": "write the proto files into a folder of yours, and check it later",
    "generate": "generate code for another language",
}


class CommandError(Exception):
    """Bad usage or unreadable input: one line for the person at the terminal, exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a locale without a character gets its number
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(sys.argv[1:] if argv is None else [*argv])
        finally:
            sys.stdout.flush()  # what fails while the interpreter ends cannot be caught
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="smg-proto",
        description="The wire contract for LLM serving over gRPC: run it, compare it, ship it.",
        epilog="COMMAND --help tells more. Exit: 0 fine, 1 the answer is no, 2 bad usage.",
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
    try:
        code: int = args.run(args)
    except CommandError as error:
        print(f"smg-proto {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code
