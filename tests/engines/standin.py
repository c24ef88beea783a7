"""What a stand-in for an engine has in common: the small model, orders on stdin, events on stdout.

A line of JSON each. Order: {"delay": seconds between two tokens}. Events: {"event": "ready"},
then "start", "end" and "abort" with the id of a request, and "paced"
when an order is carried out. The process ends when its input does.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from smg_proto.testing._generation import Piece, Sampling, generate
from smg_proto.testing._model import MODEL_NAME, model

CONTEXT = model().context_length


class Parent:
    """The test that started this process."""

    def __init__(self) -> None:
        self.delay = 0.0
        self._telling = threading.Lock()  # a line is whole, whichever threads write
        self._out = events()
        threading.Thread(target=self._obey, daemon=True).start()

    def _obey(self) -> None:
        for line in sys.stdin:
            self.delay = json.loads(line)["delay"]
            self.tell("paced", id="")
        os._exit(0)

    def tell(self, event: str, **what: object) -> None:
        with self._telling:
            print(json.dumps({"event": event, **what}), file=self._out, flush=True)


def events() -> TextIO:
    """What was stdout: events alone go there, and what others print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def write_model(folder: Path) -> Path:
    """The small model's folder, named as it is served."""
    home = folder / MODEL_NAME
    home.mkdir(parents=True, exist_ok=True)
    for name, text in model().tokenizer.files().items():
        (home / name).write_text(text, encoding="utf-8")
    return home


def answer(prompt: list[int], sampling: Sampling, index: int = 0) -> Iterator[Piece]:
    return generate(model(), prompt, sampling, index)
