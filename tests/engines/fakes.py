"""The fakes of smg_proto.testing as engines under test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.running import Engine, Engines, Start
from smg_proto.testing import FakeOpenEngine, FakeSglang, FakeVllm, FakeVllmEngine, run_engine


def _start(contract: str, make: Callable[[], Any]) -> Start:
    @contextmanager
    def start(folder: Path) -> Iterator[Engine]:
        del folder
        fake = make()
        running = run_engine(fake)
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
                name=f"fake {contract}",
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
    f"fake {contract}": _start(contract, make)
    for contract, make in {
        "vllm.grpc.engine": FakeVllmEngine,
        "vllm": FakeVllm,
        "sglang.runtime.v1": FakeSglang,
        "openengine.v1": FakeOpenEngine,
    }.items()
}
