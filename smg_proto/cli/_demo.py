"""smg-proto demo: the embedded gateway, to try clients against."""

import argparse
import asyncio
import socket

from smg_proto.cli import CommandError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8000",
        metavar="HOST:PORT",
        help="where to listen (default %(default)s); port 0 takes a free one",
    )
    parser.add_argument(
        "--token-delay",
        type=_seconds,
        default=0.03,
        metavar="SECONDS",
        help="time between two tokens, to see streams flow (default %(default)s)",
    )
    parser.add_argument(
        "--engine-only",
        action="store_true",
        help="serve vllm.grpc.engine alone: a worker to put behind a gateway",
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
    _check_free(args.listen)
    try:
        from smg_proto.testing._demo import serve
    except ImportError as error:
        missing = f"{error.name} is missing: pip install 'smg-grpc-proto[testing]'"
        raise CommandError(missing) from None
    try:
        asyncio.run(serve(args.listen, args.token_delay, engine_only=args.engine_only))
    except OSError as error:
        raise CommandError(str(error)) from None
    return 0


def _check_free(listen: str) -> None:
    """Say in one line what gRPC would say in several, or not at all."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise CommandError(f"--listen must be HOST:PORT, such as 127.0.0.1:8000, not {listen!r}")
    try:
        family, *_, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {listen}: {error.strerror or error}; try --listen {host}:0"
        ) from None
