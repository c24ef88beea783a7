"""smg-proto show: the definition of one symbol, with its comments, as a proto file spells it."""

import argparse
import dataclasses
import json

from smg_proto._descriptors import Symbol
from smg_proto.cli._installed import Installed

INDENT = "  "


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="vllm.grpc.engine.GenerateRequest, or just GenerateRequest")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    contract = Installed()
    symbol = contract.symbol(args.name)
    if args.json:
        members = [dataclasses.asdict(s) for s in contract.inside(symbol)]
        print(json.dumps(dataclasses.asdict(symbol) | {"members": members}, indent=2))
    else:
        print(f"// {symbol.file}", *definition(contract, symbol), sep="\n")
    return 0


def definition(
    contract: Installed, symbol: Symbol, indent: str = "", known_since: str = ""
) -> list[str]:
    """A symbol and what it contains, as lines; `known_since` is what its surroundings say."""
    since = f" Since {symbol.since}." if symbol.since not in ("", known_since) else ""
    lines = [f"{indent}// {line}".rstrip() for line in (symbol.comment + since).splitlines()]
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
                if not member.oneof  # printed in the braces of the oneof
                for line in definition(contract, member, indent + INDENT, symbol.since)
            ]
            head = f"{indent}{symbol.kind} {short} {{"
            return [*lines, head, *inside, f"{indent}}}"] if inside else [*lines, f"{head}}}"]
