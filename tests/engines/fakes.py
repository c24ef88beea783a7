"""The fakes of smg_proto.testing as engines under test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.running import Engine, Engines, Start
from smg_proto.testing import FakeVllmEngine, run_vllm_engine


def _start(name: str, contract: str, make: Any, run: Any) -> Start:
    @contextmanager
    def start(folder: Path) -> Iterator[Engine]:
        del folder
        fake = make()
        running = run(fake)
        stopped = False

        def stop() -> None:
            nonlocal stopped
            if not stopped:
                stopped = True
                running.__exit__(None, None, None)

        def pace(seconds: float) -> None:
            fake.token_delay = seconds

        counters = fake.record.counters
        target = str(running.__enter__())
        try:
            yield Engine(
                name=name,
                contract=contract,
                target=target,
                model=fake.name,
                context=fake.model.context_length,
                vocabulary=fake.model.tokenizer.vocab_size,
                aborts=lambda: counters.aborted + counters.cancelled,
                running=lambda: counters.running,
                stop=stop,
                pace=pace,
            )
        finally:
            stop()

    return start


FAKES: Engines = {
    "fake vllm.grpc.engine": _start(
        "fake vllm.grpc.engine", "vllm.grpc.engine", FakeVllmEngine, run_vllm_engine
    ),
}
