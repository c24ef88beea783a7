"""smg-proto diff: compare two versions of a contract."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from smg_proto.cli import CommandError, say
from smg_proto.compat import (
    CLASSES,
    FORMATS,
    SPECS,
    Contract,
    ContractError,
    Report,
    diff,
    load,
    read_acceptances,
)
from smg_proto.compat._accept import problems
from smg_proto.compat._load import release_of
from smg_proto.compat._text import printable

_MAX_SHOWN = 20  # problems with accepted findings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"OLD and NEW: {SPECS}. Exit status: 0 compatible, 1 not compatible, 2 unreadable input "
        "or stale accepted findings."
    )
    parser.add_argument("old", metavar="OLD", help="the contract in use")
    parser.add_argument("new", metavar="NEW", help="the contract to replace it")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="print the report in this format; accept prints lines for --accept (default: text)",
    )
    parser.add_argument(
        "--level",
        choices=[name for name in CLASSES if name != "notice"],
        default="source",
        help="fail for findings of this class or worse (listed worst first; default: source)",
    )
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME",
        help="compare only this proto package and the types that it uses; repeatable",
    )
    parser.add_argument(
        "-I",
        "--include",
        action="append",
        default=[],
        metavar="DIR",
        help="search missing imports here: a folder, a wheel, pypi:NAME==VERSION, "
        "crate:NAME@VERSION or git:REVISION:FOLDER; repeatable",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out proto files or folders, by their path below OLD and NEW; "
        "* matches anything; repeatable",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="leave out files that do not compile, on both sides, and list them",
    )
    parser.add_argument(
        "--accept",
        type=Path,
        metavar="FILE",
        help="accept the reviewed findings in FILE: lines CLASS SYMBOL [until VERSION]: REASON; "
        "a line that accepts nothing is an error",
    )
    parser.add_argument(
        "--release",
        metavar="VERSION",
        help="set the version of NEW, for `until` in --accept; known for self, pypi: and crate:",
    )


def run(args: argparse.Namespace) -> int:
    try:
        old, new = _both(args)
        known = old.every_package | new.every_package
        for name in args.package:
            if name not in known:
                choices = ", ".join(sorted(known - {""}))
                raise CommandError(f"no package {name!r}; choose from {choices}")
        report = diff(old, new, args.package)
        if args.accept:
            report = _accepted(args.accept, report, args.release or release_of(args.new))
    except ContractError as error:
        raise CommandError(str(error)) from error
    say(report.render(args.format, args.level))
    return 1 if report.fails(args.level) else 0


def _both(args: argparse.Namespace) -> tuple[Contract, Contract]:
    """Both sides. A file that is left out of one side is left out of the other too."""

    def read(spec: str, also: Sequence[str] = ()) -> Contract:
        return load(
            spec,
            include=args.include,
            exclude=[*args.exclude, *also],
            keep_going=args.keep_going,
        )

    old, new = read(args.old), read(args.new)
    skipped = {**old.skipped, **new.skipped}
    for name, why in skipped.items():
        print(f"smg-proto diff: left out {printable(name)}: {printable(why)}", file=sys.stderr)
    without = frozenset(skipped)
    return old.without(without), new.without(without)


def _accepted(path: Path, report: Report, release: str | None) -> Report:
    acceptances = read_acceptances(path)
    lines = [f"{path}:{one.line}: {text}" for one, text in problems(acceptances, report, release)]
    if lines:
        more = [f"and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
        raise CommandError("\n  ".join([*lines[:_MAX_SHOWN], *more]))
    return report.accept(acceptances)
