"""Options as gRPC and the operating system get them."""

from smg_proto.frontdoor import Options


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
