"""The front door's options: which are valid, and how gRPC gets them."""

import math
from typing import Any

import pytest

from smg_proto.frontdoor import Options, OptionsError


def test_each_call_may_need_two_connections() -> None:
    assert Options("http://localhost", max_active=300).descriptors == 856


def test_the_arguments_of_the_server() -> None:
    usual = Options("http://localhost", max_request=5).server_options
    assert usual == {
        "grpc.max_receive_message_length": 5,
        "grpc.max_send_message_length": -1,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
    }
    aging = Options("http://localhost", max_connection_age=1.5, max_connection_age_grace=0.0)
    assert aging.server_options | usual == usual | {
        "grpc.max_connection_age_ms": 1500,
        "grpc.max_connection_age_grace_ms": 1,
    }


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_request": 0}, "max_request and max_active must be at least 1"),
        ({"max_active": 0}, "max_request and max_active must be at least 1"),
        ({"health_interval": 0.0}, "health_interval: must be more than 0"),
        ({"health_interval": math.nan}, "health_interval: must be more than 0"),
        ({"drain": -0.1}, "drain or wait: must be at least 0"),
        ({"drain": math.nan}, "drain or wait: must be at least 0"),
        ({"wait": -0.1}, "drain or wait: must be at least 0"),
        ({"wait": math.nan}, "drain or wait: must be at least 0"),
        ({"upstream": "http://a/?b"}, "more than a host and a path"),
        ({"upstream": "http://a/#b"}, "more than a host and a path"),
        ({"upstream": "http://u@a"}, "URL with credentials: give the password as a key"),
        ({"upstream": "http://:p@a"}, "URL with credentials: give the password as a key"),
        ({"upstream": "http://a:0"}, "no such host or port"),
        ({"upstream": "http://a/b c"}, "no such host or port"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionsError, match=problem):
        Options(**{"upstream": "http://localhost"} | options).check()


def test_the_least_options_are_valid() -> None:
    least = {"health_interval": 0.001, "drain": 0, "wait": 0, "max_request": 1, "max_active": 1}
    Options("https://a:1/b", **least).check()  # type: ignore[arg-type]
    Options("http://a", wait=None).check()
