"""One of several front doors on the same port: a process that a Supervisor starts and stops.

The worker reads its settings and then one command per line from standard input, and writes one JSON
object per reply to standard output. When the supervisor ends, the input ends and the worker drains.
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

from smg_proto._serving.process import Shutdown, raise_descriptor_limit, serve_until_shutdown
from smg_proto.frontdoor._options import Options, OptionsError
from smg_proto.frontdoor._server import FrontDoor

LENGTH_BYTES = 8


@dataclass(frozen=True)
class Settings:
    """The settings of a worker."""

    options: Options
    log_level: int

    def packed(self) -> bytes:
        data = pickle.dumps(self)
        return len(data).to_bytes(LENGTH_BYTES, "big") + data

    @classmethod
    def read(cls, stream: BinaryIO) -> "Settings":
        """Read settings. The stream must be the supervisor's: a pickle can run any code."""
        length = int.from_bytes(stream.read(LENGTH_BYTES), "big")
        settings: Settings = pickle.loads(stream.read(length))
        return settings


def main() -> int:
    """Serve until the supervisor stops the worker. The exit status is 2 if it cannot serve."""
    commands = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep other output out of the replies
    settings = Settings.read(commands)
    log_to_stderr(settings.log_level)
    raise_descriptor_limit(settings.options.descriptors)  # the supervisor has already warned
    try:
        asyncio.run(_Worker(settings.options, replies).serve(commands))
    except OptionsError as error:
        _reply(replies, failed=str(error))
        return 2
    return 0


def log_to_stderr(level: int) -> None:
    """Configure the log of a front door's process."""
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
        self._shutdown = Shutdown()

    async def serve(self, commands: BinaryIO) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._shutdown.drain.set)
        reading = asyncio.create_task(self._read(commands))
        await serve_until_shutdown(
            self._door.start,
            self._door.stop,
            self._shutdown,
            started=lambda: _reply(self._replies, ready=self._door.banner()),
            stopping=lambda: None,
        )
        reading.cancel()

    async def _read(self, commands: BinaryIO) -> None:
        reader = asyncio.StreamReader()
        connect = asyncio.get_running_loop().connect_read_pipe
        await connect(lambda: asyncio.StreamReaderProtocol(reader), commands)
        async for line in reader:
            match line.decode().strip():
                case "metrics":
                    _reply(self._replies, metrics=self._door.metrics.text())
                case "stop":
                    self._shutdown.stop.set()
                case _:
                    self._shutdown.drain.set()
        self._shutdown.drain.set()


def _reply(replies: TextIO, **members: Any) -> None:
    with suppress(BrokenPipeError):  # the supervisor has ended, and so do the commands
        print(json.dumps(members), file=replies, flush=True)
