"""The published MLX server with real MLX, and what it did: python -m engines.mlx_server MODEL PORT

Nothing of it is changed. What goes into MLX's generator and what is taken out of it is told on
stdout, as a stand-in tells it.
"""

import json
import sys
import threading
from typing import Any

from mlx_lm.generate import BatchGenerator
from smg_grpc_servicer.mlx import server, servicer

from engines.standin import events

EVENTS = events()
TELL = threading.Lock()


def tell(event: str, **what: object) -> None:
    with TELL:
        print(json.dumps({"event": event, **what}), file=EVENTS, flush=True)


class Watched(BatchGenerator):
    """Tells of requests by MLX's own ids; one that is removed before its end was aborted."""

    finished: set[int]

    def insert(self, *args: Any, **named: Any) -> Any:
        self.finished = getattr(self, "finished", set[int]())
        ids = super().insert(*args, **named)
        for one in ids:
            tell("start", id=str(one))
        return ids

    def next(self, *args: Any, **named: Any) -> Any:
        prompts, made = super().next(*args, **named)
        self.finished |= {one.uid for one in made if one.finish_reason is not None}
        return prompts, made

    def remove(self, uids: Any, *args: Any, **named: Any) -> Any:
        for one in uids:
            tell("end" if one in self.finished else "abort", id=str(one))
        return super().remove(uids, *args, **named)


if __name__ == "__main__":
    servicer.BatchGenerator = Watched
    sys.argv = ["server", "--model", sys.argv[1], "--host", "127.0.0.1", "--port", sys.argv[2]]
    server.main()
