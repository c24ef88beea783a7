"""The ranges of fields. A test compares the comments of sagellm.proto with this table."""

from typing import Any

from pydantic import Field

# Message.field to its bounds, by pydantic's names.
BOUNDS: dict[str, dict[str, float]] = {
    "Request.max_tokens": {"gt": 0},
    "Request.temperature": {"ge": 0, "le": 2},
    "Request.top_p": {"gt": 0, "le": 1},
    "Request.kv_budget_tokens": {"gt": 0},
    "Request.rank": {"ge": 0},
    "Request.world_size": {"gt": 0},
    "Request.tp_rank": {"ge": 0},
    "Request.pp_rank": {"ge": 0},
    "Request.tp_size": {"gt": 0},
    "Request.pp_size": {"gt": 0},
    "SamplingParams.temperature": {"ge": 0, "le": 2},
    "SamplingParams.top_p": {"gt": 0, "le": 1},
    "SamplingParams.top_k": {"ge": -1},
    "SamplingParams.beam_size": {"gt": 0},
    "SamplingParams.alpha": {"ge": 0, "le": 1},
    "SamplingParams.penalty_alpha": {"ge": 0},
    "SamplingParams.repetition_penalty": {"ge": 1},
    "SamplingParams.presence_penalty": {"ge": -2, "le": 2},
    "SamplingParams.frequency_penalty": {"ge": -2, "le": 2},
    "SamplingParams.max_tokens": {"gt": 0},
    "SamplingParams.n_speculative_tokens": {"ge": 1},
    "Metrics.ttft_ms": {"ge": 0},
    "Metrics.tbt_ms": {"ge": 0},
    "Metrics.tpot_ms": {"ge": 0},
    "Metrics.throughput_tps": {"ge": 0},
    "Metrics.peak_mem_mb": {"ge": 0},
    "Metrics.error_rate": {"ge": 0, "le": 1},
    "Metrics.kv_used_tokens": {"ge": 0},
    "Metrics.kv_used_bytes": {"ge": 0},
    "Metrics.prefix_hit_rate": {"ge": 0, "le": 1},
    "Metrics.evict_count": {"ge": 0},
    "Metrics.evict_ms": {"ge": 0},
    "Metrics.spec_accept_rate": {"ge": 0, "le": 1},
    "Metrics.prefill_ms": {"ge": 0},
    "Metrics.decode_ms": {"ge": 0},
    "Metrics.kv_transfer_count": {"ge": 0},
    "Metrics.kv_transfer_bytes": {"ge": 0},
    "Metrics.kv_transfer_ms": {"ge": 0},
    "Metrics.comm_overhead_ms": {"ge": 0},
    "Metrics.allreduce_count": {"ge": 0},
    "Metrics.allgather_count": {"ge": 0},
    "KVAllocateParams.num_tokens": {"gt": 0},
    "KVAllocateParams.block_size": {"gt": 0},
    "KVPrefetchParams.prefetch_window_tokens": {"gt": 0},
    "KVHookPayload.elapsed_ms": {"ge": 0},
    "KVQoSPolicy.slo_latency_ms": {"gt": 0},
    "KVQoSPolicy.max_wait_ms": {"gt": 0},
}


def in_range(field: str) -> Any:
    """The annotation that limits a field to its range."""
    bounds: dict[str, Any] = {**BOUNDS[field]}
    return Field(**bounds)
