"""smg-proto diff: what changed between two contracts, and whom it breaks."""

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

_SHOWN = 20  # problems of a list of accepted findings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"OLD and NEW: {SPECS}. Exit: 0 compatible, 1 not, 2 unreadable input or a stale --accept."
    )
    parser.add_argument("old", metavar="OLD", help="the contract that is in use")
    parser.add_argument("new", metavar="NEW", help="the contract that comes")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="default: text; accept prints lines for --accept",
    )
    parser.add_argument(
        "--level",
        choices=[name for name in CLASSES if name != "notice"],
        default="source",
        help="fail for findings of this class or a worse one (worst first); default: source",
    )
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME",
        help="compare only this proto package and what it uses; may be given again",
    )
    parser.add_argument(
        "-I",
        "--include",
        action="append",
        default=[],
        metavar="DIR",
        help="where imports are found that are not in OLD or NEW: a folder, a wheel, "
        "pypi:NAME==VERSION, crate:NAME@VERSION or git:REVISION:FOLDER; may be given again",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out proto files or folders, by their path below OLD and NEW; "
        "* matches anything; may be given again",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="leave out files that do not compile, on both sides, and name them",
    )
    parser.add_argument(
        "--accept",
        type=Path,
        metavar="FILE",
        help="findings that were reviewed: lines CLASS SYMBOL [until VERSION]: REASON; "
        "a line that accepts nothing is an error",
    )
    parser.add_argument(
        "--release",
        metavar="VERSION",
        help="the version of NEW, for --accept with until; known of self, pypi: and crate:",
    )


def run(args: argparse.Namespace) -> int:
    try:
        old, new = _both(args)
        known = old.every_package | new.every_package
        for name in args.package:
            if name not in known:
                there = ", ".join(sorted(known - {""}))
                raise CommandError(f"no package {name!r}; there are {there}")
        report = diff(old, new, args.package)
        if args.accept:
            report = _accepted(args.accept, report, args.release or release_of(args.new))
    except ContractError as error:
        raise CommandError(str(error)) from error
    say(report.render(args.format, args.level))
    return 1 if report.fails(args.level) else 0


def _both(args: argparse.Namespace) -> tuple[Contract, Contract]:
    """Both sides; a file that is left out of one is left out of the other."""

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
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise CommandError("\n  ".join([*lines[:_SHOWN], *more]))
    return report.accept(acceptances)
