"""How long a stream waits for more text before it sends the next message."""

import time

from smg_proto._http.upstream import Stream

# Seconds. Text that comes faster than this is sent in larger pieces: nobody reads 200 deltas a
# second, and each one costs a message.
SHORTEST = 0.005
# A person still takes this for a steady flow.
LONGEST = 0.1
# What a timer may be late without the machine being busy.
_USUAL = 0.002


class Pace:
    """The pause of all streams of a server: longer, the later its timers fire.

    Late timers are what a full processor looks like from the inside, whoever fills it. Larger
    pieces then are less work for everyone, and each token still waits for less than LONGEST.
    """

    def __init__(self) -> None:
        self._late = 0.0  # seconds, a moving average

    @property
    def pause(self) -> float:
        return min(LONGEST, SHORTEST + 8 * max(0.0, self._late - _USUAL))

    async def rest(self, stream: Stream) -> None:
        pause = self.pause
        due = time.monotonic() + pause
        if await stream.rest(pause):
            late = max(0.0, time.monotonic() - due)
            self._late += (late - self._late) / 16
