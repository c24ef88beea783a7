"""smg-proto diff: what changed between two contracts, and whom it breaks."""

import argparse

from smg_proto.cli import CommandError
from smg_proto.compat import CLASSES, SPECS, ContractError, diff, load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"OLD and NEW: {SPECS}. Exit: 0 compatible, 1 not, 2 unreadable input."
    parser.add_argument("old", metavar="OLD", help="the contract that is in use")
    parser.add_argument("new", metavar="NEW", help="the contract that comes")
    parser.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="default: text"
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


def run(args: argparse.Namespace) -> int:
    try:
        old, new = load(args.old), load(args.new)
    except ContractError as error:
        raise CommandError(str(error)) from error
    known = old.packages | new.packages
    for name in args.package:
        if name not in known:
            raise CommandError(f"no package {name!r}; there are {', '.join(sorted(known))}")
    report = diff(old, new, args.package)
    match args.format:
        case "json":
            print(report.json())
        case "markdown":
            print(report.markdown())
        case _:
            print(report.text())
    return 1 if report.fails(args.level) else 0
