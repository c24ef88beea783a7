"""What every engine under test looks like to a test: real, over a stand-in, or fake."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


def nothing(seconds: float) -> None:
    """Set the pace of an engine that has its own."""


@dataclass
class Engine:
    """A running server of one contract.

    `aborts` counts the requests that ended early in the engine itself, by a cancelled call or by
    an abort; `running` those that it has now. `pace` sets the seconds between two tokens, where
    the engine is not a real one. `stop` ends the server at once, with what is in flight.
    """

    name: str  # the key of deviations.json
    contract: str  # the proto package
    target: str  # 127.0.0.1:PORT, without TLS
    model: str  # as it is served
    context: int  # tokens, prompt and output together
    vocabulary: int  # token ids are below
    aborts: Callable[[], int]
    running: Callable[[], int]
    stop: Callable[[], None]
    pace: Callable[[float], None] = nothing
    http: str = ""  # http://127.0.0.1:PORT, its own HTTP server, if it has one
    tls: tuple[str, bytes] | None = None  # a target with TLS, and the roots to trust


# Starts an engine; the folder takes its files. Skips by itself where the platform has none.
Start = Callable[[Path], AbstractContextManager[Engine]]
Engines = Mapping[str, Start]
