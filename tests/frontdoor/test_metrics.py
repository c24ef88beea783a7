"""The text of the metrics."""

import pytest

from smg_proto.frontdoor._metrics import Metrics

CHAT = '{method="smg.v1.ChatService/Chat"}'


def lines_of(metrics: Metrics) -> dict[str, float]:
    """Each series of the text with its value."""
    series = [line.rpartition(" ") for line in metrics.text().splitlines() if line[0] != "#"]
    return {name.removeprefix("smg_proto_"): float(value) for name, _, value in series}


def test_calls_are_counted_from_start_to_end() -> None:
    metrics = Metrics()
    name = CHAT.split('"')[1]
    metrics.started(name)
    metrics.started(name)
    metrics.event(name)
    metrics.first_token(name, 0.5)
    metrics.upstream_error("timeout")
    assert lines_of(metrics)[f"active_requests{CHAT}"] == 2
    metrics.ended(name, "OK", 0.25)
    metrics.ended(name, "INTERNAL", 700)
    found = lines_of(metrics)
    assert {key: value for key, value in found.items() if "_bucket" not in key} == {
        f"requests_started_total{CHAT}": 2,
        'requests_total{method="smg.v1.ChatService/Chat",code="OK"}': 1,
        'requests_total{method="smg.v1.ChatService/Chat",code="INTERNAL"}': 1,
        f"active_requests{CHAT}": 0,
        f"stream_events_total{CHAT}": 1,
        'upstream_errors_total{kind="timeout"}': 1,
        f"request_duration_seconds_sum{CHAT}": 700.25,
        f"request_duration_seconds_count{CHAT}": 2,
        f"time_to_first_token_seconds_sum{CHAT}": 0.5,
        f"time_to_first_token_seconds_count{CHAT}": 1,
    }
    buckets = {
        bound: found[f'request_duration_seconds_bucket{CHAT[:-1]},le="{bound}"}}']
        for bound in ("0.1", "0.25", "600", "+Inf")
    }
    assert buckets == {"0.1": 0, "0.25": 1, "600": 1, "+Inf": 2}


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_every_family_has_its_kind_without_a_call(kind: str) -> None:
    assert f" {kind}\n" in Metrics().text()
