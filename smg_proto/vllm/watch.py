"""Time limits for waits on sync streams: one thread for all of them, and none when none waits.

gRPC's deadline is for a whole call. A stream must be ended when a message is late, however long
it has been running; since a blocked read can be ended by cancelling the call only, somebody else
has to look at the clock. A stream pays one assignment per message for it.
"""

import math
import threading
import time
from typing import Protocol

_LINGER = 0.5  # seconds without streams after which the thread ends


class Watched(Protocol):
    wait_until: float
    """When the present wait is too long; infinite while nobody waits."""
    patience: float
    """The shortest wait that the stream may be given."""

    def expire(self) -> None: ...


class Watchdog:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._streams: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._wakes = math.inf

    def add(self, stream: Watched) -> None:
        with self._changed:
            self._streams.add(stream)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="smg_proto.vllm timeouts", daemon=True
                )
                self._thread.start()
            elif time.monotonic() + stream.patience < self._wakes:
                self._changed.notify()

    def remove(self, stream: Watched) -> None:
        with self._changed:
            self._streams.discard(stream)

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                # A copy: garbage that is collected meanwhile may take its stream out.
                streams = list(self._streams)
                late = [stream for stream in streams if stream.wait_until <= now]
                self._streams.difference_update(late)
                if not late:
                    # A wait that begins after this moment cannot end before `patience` is over.
                    ends = [min(s.wait_until, now + s.patience) for s in streams]
                    self._wakes = min(ends, default=now + _LINGER)
                    pause = min(self._wakes - now, threading.TIMEOUT_MAX)
                    if not self._changed.wait(pause) and not ends and not self._streams:
                        self._thread = None
                        return
            for stream in late:
                stream.expire()


WATCHDOG = Watchdog()
