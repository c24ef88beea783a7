"""smg-proto demo: run an embedded gateway to try clients against."""

import argparse
import asyncio

from smg_proto.cli import CommandError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8000",
        metavar="ADDR",
        help="listen on HOST:PORT or unix:PATH; port 0 selects a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--token-delay",
        type=_seconds,
        default=0.03,
        metavar="SECONDS",
        help="wait this long between tokens, to make streams visible (default: %(default)s)",
    )
    parser.add_argument(
        "--engine-only",
        action="store_true",
        help="serve only vllm.grpc.engine, as a worker behind a gateway",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 60, not {text!r}")
    return seconds


def run(args: argparse.Namespace) -> int:
    from smg_proto._serving.address import Address, AddressError, check_free

    try:
        address = Address.parse(args.listen)
        check_free(address)  # before the slow imports
        from smg_proto.testing._demo import serve

        asyncio.run(serve(address, args.token_delay, engine_only=args.engine_only))
    except (AddressError, OSError) as error:
        raise CommandError(str(error)) from None
    return 0
