"""smg-proto list: list the contents of the contracts of this release."""

import argparse
import json

from smg_proto.cli._installed import Installed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "package",
        nargs="?",
        metavar="PACKAGE",
        help="list this package, with messages and enums",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    contract = Installed()
    kinds = ("service", "rpc", "message", "enum") if args.package else ("service", "rpc")
    packages = [contract.package(args.package)] if args.package else contract.packages
    listing = {
        package: [s for s in contract.symbols if s.package == package and s.kind in kinds]
        for package in packages
    }
    if args.json:
        shown = {
            package: [{"kind": s.kind, "name": s.name, "since": s.since} for s in members]
            for package, members in listing.items()
        }
        print(json.dumps(shown, indent=2))
        return 0
    for package, members in listing.items():
        print(package)
        for symbol in members:
            name = symbol.name.removeprefix(f"{package}.")
            rest = f"({symbol.type.replace(' -> ', ') returns (')})" if symbol.type else ""
            print(f"  {symbol.kind} {name}{rest}".replace(f"{package}.", ""))
    return 0
