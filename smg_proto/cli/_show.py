"""smg-proto show: print definitions with their comments, as in a proto file."""

import argparse
import dataclasses
import json
from typing import Any

from smg_proto._descriptors import Symbol
from smg_proto.cli._installed import Installed

INDENT = "  "


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="vllm.grpc.engine.GenerateRequest, or just GenerateRequest; VllmEngine/Generate; "
        "or a package, to print all of it",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    contract = Installed()
    if args.name in contract.packages:
        shown = contract.top(args.name)
    else:
        shown = [contract.symbol(args.name)]
    if args.json:
        objects = [_as_json(contract, symbol) for symbol in shown]
        print(json.dumps(objects if args.name in contract.packages else objects[0], indent=2))
        return 0
    file = ""
    for symbol in shown:
        if symbol.file != file:
            print(f"\n// {symbol.file}" if file else f"// {symbol.file}")
            file = symbol.file
        if len(shown) > 1:
            print()
        print(*definition(contract, symbol), sep="\n")
    return 0


def _as_json(contract: Installed, symbol: Symbol) -> dict[str, Any]:
    members = [dataclasses.asdict(s) for s in contract.inside(symbol)]
    return dataclasses.asdict(symbol) | {"members": members}


def definition(
    contract: Installed, symbol: Symbol, indent: str = "", known_since: str = ""
) -> list[str]:
    """The lines of a symbol and its members. `known_since`: the release shown for its parent."""
    comment = symbol.comment.splitlines()
    if symbol.since not in ("", known_since):
        comment.append(f"Since {symbol.since}.")
    lines = [f"{indent}// {line}".rstrip() for line in comment]
    short = symbol.name.rpartition(".")[2]
    spelled = symbol.type.replace(f"{symbol.package}.", "")
    end = " [deprecated = true];" if symbol.deprecated else ";"
    match symbol.kind:
        case "rpc":
            sent, _, got = spelled.partition(" -> ")
            return [*lines, f"{indent}rpc {short}({sent}) returns ({got});"]
        case "value":
            return [*lines, f"{indent}{short} = {symbol.number}{end}"]
        case "field":
            label = "repeated " if symbol.presence == "repeated" else ""
            scalar = not contract.is_message(symbol.type)
            if symbol.presence == "explicit" and scalar and not symbol.oneof:
                label = "optional "
            return [*lines, f"{indent}{label}{spelled} {short} = {symbol.number}{end}"]
        case "oneof":
            fields = [
                line
                for field in contract.fields_of(symbol)
                for line in definition(contract, field, indent + INDENT, symbol.since)
            ]
            return [*lines, f"{indent}oneof {short} {{", *fields, f"{indent}}}"]
        case "reserved":
            what = f'"{symbol.type}"' if symbol.type else symbol.number
            return [f"{indent}reserved {what};"]
        case _:
            inside = [
                line
                for member in contract.inside(symbol)
                if not member.oneof  # printed inside the oneof
                for line in definition(contract, member, indent + INDENT, symbol.since)
            ]
            head = f"{indent}{symbol.kind} {short} {{"
            return [*lines, head, *inside, f"{indent}}}"] if inside else [*lines, f"{head}}}"]
