"""The front door's metrics, in Prometheus' text format."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

Labels = tuple[str, ...]


@dataclass
class _Histogram:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Metrics:
    """The metrics of one server. Every RPC is counted when it starts and when it ends."""

    def __init__(self) -> None:
        self._started: dict[Labels, int] = defaultdict(int)
        self._ended: dict[Labels, int] = defaultdict(int)
        self._active: dict[Labels, int] = defaultdict(int)
        self._events: dict[Labels, int] = defaultdict(int)
        self._upstream: dict[Labels, int] = defaultdict(int)
        self._duration: dict[Labels, _Histogram] = defaultdict(_Histogram)
        self._first: dict[Labels, _Histogram] = defaultdict(_Histogram)

    def started(self, method: str) -> None:
        self._started[method,] += 1
        self._active[method,] += 1

    def ended(self, method: str, code: str, seconds: float) -> None:
        self._active[method,] -= 1
        self._ended[method, code] += 1
        self._duration[method,].observe(seconds)

    def event(self, method: str) -> None:
        self._events[method,] += 1

    def first_token(self, method: str, seconds: float) -> None:
        self._first[method,].observe(seconds)

    def upstream_error(self, kind: str) -> None:
        """Count a failed request. kind: timeout, unreachable, cut, …, or the HTTP status."""
        self._upstream[kind,] += 1

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for name, kind, what, labels, series in (
            ("requests_started_total", "counter", "RPCs started.", ("method",), self._started),
            ("requests_total", "counter", "RPCs finished.", ("method", "code"), self._ended),
            ("active_requests", "gauge", "RPCs in flight.", ("method",), self._active),
            ("stream_events_total", "counter", "Events sent.", ("method",), self._events),
            ("upstream_errors_total", "counter", "Failed requests.", ("kind",), self._upstream),
        ):
            yield from _head(name, kind, what)
            for values, number in sorted(series.items()):
                yield f"smg_proto_{name}{_labels(labels, values)} {number}"
        for name, what, histograms in (
            ("request_duration_seconds", "Duration of RPCs.", self._duration),
            ("time_to_first_token_seconds", "Time to a stream's first delta.", self._first),
        ):
            yield from _head(name, "histogram", what)
            for values, histogram in sorted(histograms.items()):
                yield from _histogram(f"smg_proto_{name}", values, histogram)


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP smg_proto_{name} {what}"
    yield f"# TYPE smg_proto_{name} {kind}"


def _histogram(name: str, values: Labels, histogram: _Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.buckets, strict=True):
        total += count
        yield f"{name}_bucket{_labels(('method', 'le'), (*values, bound))} {total}"
    yield f"{name}_sum{_labels(('method',), values)} {histogram.total:.6f}"
    yield f"{name}_count{_labels(('method',), values)} {total}"


def _labels(names: Labels, values: Labels) -> str:
    pairs = (f'{name}="{value}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"
