"""One of several front doors on the same port: a process that a Supervisor starts and ends.

Standard input brings the settings and then a line for each order; standard output takes a JSON
object for each reply. When the supervisor is gone, the input ends, and the worker drains.
"""

import asyncio
import json
import logging
import os
import pickle
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from smg_proto._serving.process import Orders, raise_descriptor_limit, serve_until_told
from smg_proto.frontdoor._options import Options, OptionsError
from smg_proto.frontdoor._server import FrontDoor

LENGTH_BYTES = 8


@dataclass(frozen=True)
class Settings:
    """What a worker is started with."""

    options: Options
    log_level: int

    def packed(self) -> bytes:
        data = pickle.dumps(self)
        return len(data).to_bytes(LENGTH_BYTES, "big") + data

    @classmethod
    def read(cls, stream: BinaryIO) -> "Settings":
        """From the supervisor alone: whoever writes a pickle may run anything."""
        length = int.from_bytes(stream.read(LENGTH_BYTES), "big")
        settings: Settings = pickle.loads(stream.read(length))
        return settings


def main() -> int:
    """Serve until told to stop. The exit status is 2 if it cannot serve."""
    orders = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anything else prints does not come between the replies
    settings = Settings.read(orders)
    log_to_stderr(settings.log_level)
    raise_descriptor_limit(settings.options.descriptors)  # the supervisor has warned already
    try:
        asyncio.run(_Worker(settings.options, replies).serve(orders))
    except OptionsError as error:
        _reply(replies, failed=str(error))
        return 2
    return 0


def log_to_stderr(level: int) -> None:
    """The log of a front door's process."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)sZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )


class _Worker:
    def __init__(self, options: Options, replies: TextIO) -> None:
        self._door = FrontDoor(options, reuse_port=True)
        self._replies = replies
        self._orders = Orders()

    async def serve(self, orders: BinaryIO) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._orders.drain.set)
        listening = asyncio.create_task(self._listen(orders))
        await serve_until_told(
            self._door.start,
            self._door.stop,
            self._orders,
            started=lambda: _reply(self._replies, ready=self._door.banner()),
            stopping=lambda: None,
        )
        listening.cancel()

    async def _listen(self, orders: BinaryIO) -> None:
        reader = asyncio.StreamReader()
        connect = asyncio.get_running_loop().connect_read_pipe
        await connect(lambda: asyncio.StreamReaderProtocol(reader), orders)
        async for line in reader:
            match line.decode().strip():
                case "metrics":
                    _reply(self._replies, metrics=self._door.metrics.text())
                case "stop":
                    self._orders.stop.set()
                case _:
                    self._orders.drain.set()
        self._orders.drain.set()


def _reply(replies: TextIO, **words: Any) -> None:
    with suppress(BrokenPipeError):  # the supervisor is gone; the orders end as well
        print(json.dumps(words), file=replies, flush=True)
