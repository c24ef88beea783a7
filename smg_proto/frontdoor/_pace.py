"""Decides how long a stream waits for more text before it sends the next message."""

import time

from smg_proto._http.upstream import Stream

# In seconds. Text that arrives faster is sent in larger deltas: nobody reads 200 deltas a second,
# and each one costs a message.
MIN_PAUSE = 0.005
# Still looks like a steady stream to a person.
MAX_PAUSE = 0.1
# How late timers fire on a machine that is not busy.
_USUAL_DELAY = 0.002


class Pace:
    """The pause between messages for all streams of a server. It grows as timers fire later.

    Late timers show that the processor is busy, whatever keeps it busy. Larger deltas then reduce
    the work, and no token waits longer than MAX_PAUSE.
    """

    def __init__(self) -> None:
        self._delay = 0.0  # of timers: seconds, a moving average

    @property
    def pause(self) -> float:
        return min(MAX_PAUSE, MIN_PAUSE + 8 * max(0.0, self._delay - _USUAL_DELAY))

    async def wait(self, stream: Stream) -> None:
        pause = self.pause
        due = time.monotonic() + pause
        if await stream.wait(pause):
            delay = max(0.0, time.monotonic() - due)
            self._delay += (delay - self._delay) / 16
