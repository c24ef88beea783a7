"""Settings of clients and calls: defaults, checks, and what replaces what."""

import array
import math
from collections import OrderedDict
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest

from smg_proto import __version__
from smg_proto.vllm import (
    NOT_GIVEN,
    AsyncVLLMGrpcClient,
    NotGiven,
    Timeout,
    VLLMGrpcClient,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._config import (
    Options,
    address,
    check_traceparent,
    default_timeout,
    default_token,
    duration,
    json_text,
    merge_metadata,
    plain,
    split,
    whole,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "SECURE", "TIMEOUT", "TOKEN", "LOG"):
        monkeypatch.delenv(f"VLLM_GRPC_{name}", raising=False)


def test_channels_have_these_options_by_default() -> None:
    assert dict(address("far.example", 1).options) == {
        "grpc.primary_user_agent": f"smg-proto/{__version__}",
        "grpc.max_send_message_length": -1,
        "grpc.max_receive_message_length": -1,
        "grpc.initial_reconnect_backoff_ms": 250,
        "grpc.max_reconnect_backoff_ms": 8000,
    }
    sized = address(port=1, max_send_message_length=5, max_receive_message_length=6)
    options = dict(sized.options)
    assert options["grpc.max_send_message_length"] == 5
    assert options["grpc.max_receive_message_length"] == 6
    assert options["grpc.enable_http_proxy"] == 0
    for name in ("max_send_message_length", "max_receive_message_length"):
        limits: dict[str, Any] = {name: 2**31 - 1}
        assert address(port=1, **limits)
        for wrong in (-2, 2**31):
            limits[name] = wrong
            with pytest.raises(VLLMGrpcValidationError, match=f"{name}: must be a whole number"):
                address(port=1, **limits)


@pytest.mark.parametrize("kind", [VLLMGrpcClient, AsyncVLLMGrpcClient])
def test_clients_have_these_settings_by_default(kind: Any) -> None:
    options = kind()._caller.options
    assert options == Options(Timeout(60.0, 60.0, 60.0, None), False, 2, (), False, 0.5, 8.0)
    assert options == Options(Timeout(60.0, 60.0, 60.0))
    client = kind(
        timeout=5, max_retries=0, metadata={"a": "b"}, wait_for_ready=True, initial_backoff=1,
        max_backoff=2, traceparent=TRACE,
    )  # fmt: skip
    headers = (("a", "b"), ("traceparent", TRACE))
    assert client._caller.options == Options(Timeout.of(5), True, 0, headers, True, 1.0, 2.0)
    assert repr(kind(target="h:1")) == f"{kind.__name__}('h:1', secure=False)"
    assert kind(target="h:1").target == "h:1" and not kind(target="h:1").is_closed


def test_a_default_port_says_which_ports_are_usual() -> None:
    assert "8000 (vllm serve --grpc) or 50051" in address().hint
    assert "9000 was used" in address("h").hint
    assert address(port=9000).hint == address(target="h:1").hint == ""


@pytest.mark.parametrize("port", ["1", "65535", "00080"])
def test_the_environment_gives_a_port(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_GRPC_PORT", port)
    where = address()
    assert (where.target, where.hint) == (f"localhost:{int(port)}", "")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "1.0", "x", "9" * 5000])
def test_a_port_that_cannot_be_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_GRPC_PORT", port)
    with pytest.raises(VLLMGrpcValidationError, match="from 1 to 65535"):
        address()


@pytest.mark.parametrize(("host", "target"), [("::1", "[::1]:5"), ("[::1]", "[::1]:5")])
def test_ipv6_addresses_have_brackets(host: str, target: str) -> None:
    assert address(host, 5).target == target


@pytest.mark.parametrize("value", ["true", "TRUE", "1", "yes"])
def test_the_environment_switches_tls_on(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_GRPC_SECURE", value)
    assert address(port=5).secure


@pytest.mark.parametrize("value", ["", "false", "0", "no"])
def test_the_environment_leaves_tls_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_GRPC_SECURE", value)
    assert not address(port=5).secure
    assert address(port=443).secure == (not value)
    assert address(target="h:443").secure == (not value)
    assert address(port=5, secure=True).secure and address(port=5, server_name="n").secure
    monkeypatch.setenv("VLLM_GRPC_SECURE", "maybe")
    with pytest.raises(VLLMGrpcValidationError, match="VLLM_GRPC_SECURE: must be true or false"):
        address(port=5)


def test_the_environment_gives_a_timeout_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_timeout(NOT_GIVEN) == (Timeout.of(60.0), False)
    assert default_timeout(None) == (Timeout(), True)
    assert default_timeout(5) == (Timeout.of(5), True)
    assert default_token(None) is None
    monkeypatch.setenv("VLLM_GRPC_TIMEOUT", "7.5")
    monkeypatch.setenv("VLLM_GRPC_TOKEN", "t")
    assert default_timeout(NOT_GIVEN) == (Timeout.of(7.5), True)
    assert default_timeout(5) == (Timeout.of(5), True)
    assert (default_token(None), default_token("u")) == ("t", "u")
    for wrong in ("0", "x", "nan", "1e10"):
        monkeypatch.setenv("VLLM_GRPC_TIMEOUT", wrong)
        with pytest.raises(VLLMGrpcValidationError) as caught:
            default_timeout(NOT_GIVEN)
        assert caught.value.message == (
            "VLLM_GRPC_TIMEOUT: must be seconds, above 0 and at most 1e+09"
        )


def test_a_timeout_is_one_number_or_several() -> None:
    assert Timeout() == Timeout(None, None, None, None)
    assert Timeout.of(5) == Timeout(call=5, first_message=5, idle=5, stream=None)
    whole_timeout = Timeout(stream=1)
    assert Timeout.of(whole_timeout) is whole_timeout
    assert isinstance(Timeout(call=5).call, float)
    for name in ("call", "first_message", "idle", "stream"):
        limits: dict[str, Any] = {name: 0}
        with pytest.raises(VLLMGrpcValidationError, match=rf"timeout\.{name}: must be above 0"):
            Timeout(**limits)
    with pytest.raises(VLLMGrpcValidationError, match="timeout: must be above 0"):
        Timeout.of(0)


def test_numbers_have_ends() -> None:
    assert (whole("x", 1, 1, 3), whole("x", 3, 1, 3)) == (1, 3)
    assert whole("x", array.array("b", [2])[0], 1, 3) == 2
    for wrong in (0, 4, True, 2.0, "2", None, [2]):
        with pytest.raises(VLLMGrpcValidationError, match="x: must be a whole number from 1 to 3"):
            whole("x", wrong, 1, 3)
    assert (duration("x", 0), duration("x", 1e9), duration("x", 2.5)) == (0.0, 1e9, 2.5)
    assert isinstance(duration("x", 1), float)
    for value in (-0.1, 1.1e9, math.nan, math.inf, True, "1", None):
        with pytest.raises(VLLMGrpcValidationError, match="x: must be seconds, from 0 to 1e"):
            duration("x", value)


def test_values_of_other_types_become_plain() -> None:
    class Index:
        def __index__(self) -> int:
            return 7

    own = object()
    for value, expected in (
        (None, None), ("a", "a"), (1, 1), (1.5, 1.5), ([1], [1]), ((1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}), (MappingProxyType({"a": 1}), {"a": 1}), (Index(), 7),
        (array.array("i", [1, 2]), [1, 2]), (range(2), [0, 1]), (own, own),
    ):  # fmt: skip
        found = plain(value)
        assert found == expected and type(found) is type(expected)
    assert plain(Fraction(1, 2)) == Fraction(1, 2)
    assert json_text("x", {"a": [1]}) == '{"a": [1]}'
    for wrong in (math.nan, {1, 2}, {"a": object()}):
        with pytest.raises(VLLMGrpcValidationError, match="x: cannot be encoded as JSON"):
            json_text("x", wrong)


def test_options_of_a_call_replace_those_of_the_client() -> None:
    base = Options(Timeout.of(60), metadata=(("a", "1"), ("b", "1")))
    assert base.changed({}) is base
    nothing = {"timeout": NOT_GIVEN, "max_retries": None, "metadata": NOT_GIVEN}
    assert base.changed(nothing) is base
    assert base.changed({"timeout": None}) == Options(Timeout(), True, metadata=base.metadata)
    changed = base.changed(
        {
            "timeout": 5,
            "max_retries": 999,
            "metadata": {"b": "2"},
            "extra_headers": {"C": "3"},
            "wait_for_ready": True,
            "traceparent": TRACE,
        }
    )
    headers = (("a", "1"), ("b", "2"), ("c", "3"), ("traceparent", TRACE))
    assert changed == Options(Timeout.of(5), True, 999, headers, True)
    assert split({"timeout": None, "n": 1, "stop": None, "seed": NOT_GIVEN}) == (
        {"timeout": None},
        {"n": 1},
    )


def test_added_metadata_replaces_the_same_name() -> None:
    one, two = (("a", "1"), ("b", "1")), (("b", "2"), ("b", "3"))
    assert merge_metadata(one, two) == (("a", "1"), ("b", "2"), ("b", "3"))
    assert merge_metadata((), two) == two == merge_metadata(two, ())


@pytest.mark.parametrize("wrong", ["", TRACE[:-1], TRACE + "0", TRACE.upper(), " " + TRACE, 7])
def test_a_traceparent_has_a_form(wrong: object) -> None:
    assert check_traceparent(TRACE) == TRACE
    with pytest.raises(VLLMGrpcValidationError, match="traceparent: must look like 00-<32 hex>"):
        check_traceparent(wrong)


def test_not_given_is_false_and_says_its_name() -> None:
    assert not NOT_GIVEN and repr(NOT_GIVEN) == "NOT_GIVEN" and list(NotGiven) == [NOT_GIVEN]
