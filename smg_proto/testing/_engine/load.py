"""The load of a fake engine, measured as an engine measures it."""

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone

from smg_proto import __version__, common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing._kv_cache import KvCache

MAX_RUNNING = 256
_WINDOW = 2.0  # seconds over which the generation rate is measured


@dataclass(eq=False)
class Running:
    """A request in flight, and whether it was aborted."""

    request_id: str
    aborted: bool = False


@dataclass
class LoadMeter:
    """Requests in flight and recent activity."""

    cache: KvCache
    running: set[Running] = field(default_factory=set[Running])
    # The times of generated tokens; size and cached tokens of prompts.
    tokens: deque[float] = field(default_factory=lambda: deque[float](maxlen=10_000))
    prompts: deque[tuple[int, int]] = field(
        default_factory=lambda: deque[tuple[int, int]](maxlen=64)
    )

    def load(self, *, sample: int = 0) -> common_pb2.EngineLoad:
        since = time.monotonic() - _WINDOW
        total = sum(size for size, _ in self.prompts)
        return common_pb2.EngineLoad(
            running_requests=len(self.running),
            waiting_uncached_tokens=0,
            token_usage=self.cache.used_tokens / self.cache.capacity,
            gen_throughput=sum(at >= since for at in self.tokens) / _WINDOW,
            max_running_requests=MAX_RUNNING,
            sample=sample,
            cache_hit_rate=sum(cached for _, cached in self.prompts) / total if total else 0.0,
            num_used_tokens=self.cache.used_tokens,
            max_total_num_tokens=self.cache.capacity,
        )

    def loads(self) -> pb.GetLoadsResponse:
        load = self.load()
        scheduler = pb.SchedulerLoad(
            num_running_reqs=load.running_requests,
            num_total_reqs=load.running_requests,
            num_used_tokens=load.num_used_tokens,
            max_total_num_tokens=load.max_total_num_tokens,
            token_usage=load.token_usage,
            gen_throughput=load.gen_throughput,
            cache_hit_rate=load.cache_hit_rate,
            utilization=load.token_usage,
            max_running_requests=load.max_running_requests,
        )
        now = datetime.now(timezone.utc).isoformat()
        return pb.GetLoadsResponse(
            timestamp=now, version=__version__, dp_rank_count=1, loads=[scheduler]
        )
