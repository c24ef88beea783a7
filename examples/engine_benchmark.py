"""Measure an engine: python engine_benchmark.py [TARGET] [--rate 20] [--svg FILE]

Sends requests at a rate, in whichever contract the engine speaks, and shows the tokens per second
and the distribution of the time to the first token.
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from smg_proto.engine import AsyncEngine, EngineError, connect

WIDTH = 40  # characters of a bar


class Timing:
    """When a request was sent and its tokens arrived, in seconds."""

    def __init__(self, sent: float) -> None:
        self.sent = sent
        self.first = self.last = 0.0
        self.tokens = 0
        self.error = ""


async def measure(engine: AsyncEngine, request: dict[str, Any], began: float) -> Timing:
    timing = Timing(time.perf_counter() - began)
    try:
        async for piece in engine.generate(**request):
            if piece.text or piece.token_ids:
                timing.last = time.perf_counter() - began
                timing.first = timing.first or timing.last
            if piece.usage:
                timing.tokens += piece.usage.completion_tokens
    except EngineError as error:
        timing.error = type(error).__name__
    return timing


async def run(target: str, count: int, rate: float, max_tokens: int) -> list[Timing]:
    async with connect(target) as engine:
        info = await engine.info()
        print(f"{info.model}, {info.engine or 'an engine'}, speaks {engine.contract}")
        prompt: dict[str, Any] = (
            {"prompt": "One contract"} if engine.has_text else {"token_ids": [300, 301, 302]}
        )
        request = {**prompt, "max_tokens": max_tokens, "temperature": 1.0, "timeout": 120}
        tasks: list[asyncio.Task[Timing]] = []
        done: list[Timing] = []
        began = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(began + number / rate - time.perf_counter(), 0))
            task = asyncio.create_task(measure(engine, request, began))
            task.add_done_callback(lambda ended: show_progress(done, ended.result(), count))
            tasks.append(task)
        return await asyncio.gather(*tasks)


def show_progress(done: list[Timing], timing: Timing, count: int) -> None:
    done.append(timing)
    if sys.stderr.isatty():
        bar = "#" * (WIDTH * len(done) // count)
        end = "\n" if len(done) == count else ""
        print(f"\r[{bar:{WIDTH}}] {len(done)}/{count}", end=end, file=sys.stderr, flush=True)


def report(timings: list[Timing]) -> None:
    good = [timing for timing in timings if timing.first and not timing.error]
    errors = [timing.error for timing in timings if timing.error]
    for kind in sorted(set(errors)):
        print(f"{kind}: {errors.count(kind)} requests")
    if not good:
        sys.exit("no request succeeded")
    waits = [(timing.first - timing.sent) * 1000 for timing in good]
    each = [t.tokens / (t.last - t.sent) for t in good if t.last > t.sent]
    seconds = max(t.last for t in good) - min(t.sent for t in good)
    whole = sum(timing.tokens for timing in good) / seconds
    print(f"requests: {len(good)} in {seconds:.2f} s")
    print(f"tokens per second: {whole:.0f}, of one request {statistics.median(each):.0f}")
    ranked = sorted(waits)
    middle, late = ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.95)]
    print(f"time to first token: median {middle:.1f} ms, 95 % {late:.1f} ms")
    step = ranked[-1] / 8
    bins = [min(int(wait / step), 7) for wait in waits]
    for number in range(8):
        share = bins.count(number)
        bar = "#" * round(WIDTH * share / len(bins))
        print(f"{number * step:8.1f} ms {bar} {share or ''}".rstrip())


def draw(timings: list[Timing], file: Path) -> None:
    """Plot when each request was sent, and how long its first token took."""
    good = [timing for timing in timings if timing.first]
    right = max(timing.sent for timing in good) or 1
    top = max(timing.first - timing.sent for timing in good)
    points = "".join(
        f'<circle cx="{60 + 520 * t.sent / right:.1f}" '
        f'cy="{260 - 230 * (t.first - t.sent) / top:.1f}" r="3" fill="#1f77b4"/>'
        for t in good
    )
    file.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="300" font-size="12">'
        '<rect width="600" height="300" fill="white"/>'
        '<path d="M60 30V260H580" fill="none" stroke="black"/>'
        f'<text x="8" y="34">{top * 1000:.1f} ms</text><text x="8" y="264">0</text>'
        f'<text x="500" y="280">sent at {right:.1f} s</text>'
        f'<text x="64" y="20">time to first token</text>{points}</svg>\n',
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", nargs="?", default="localhost:50051")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rate", type=float, default=20, help="requests per second")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a plot")
    args = parser.parse_args()
    if args.requests < 1 or not args.rate > 0:
        parser.error("--requests and --rate must be above 0")
    try:
        timings = asyncio.run(run(args.target, args.requests, args.rate, args.max_tokens))
    except EngineError as error:
        sys.exit(str(error))
    report(timings)
    if args.svg:
        draw(timings, args.svg)


if __name__ == "__main__":
    main()
