"""Wrong arguments: the error is one line that names the argument, and nothing is sent."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from targets import ELSEWHERE, LOOPBACK

from engine.kit import Client, serving
from smg_proto.engine import (
    BusyError,
    EngineError,
    NoContractError,
    ParameterError,
    Tried,
    UnsupportedError,
    connect,
)
from smg_proto.engine._request import check
from smg_proto.vllm import VLLMGrpcClient, VLLMGrpcValidationError


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("", "missing host or port; use HOST:PORT"),
        ("localhost", "missing host or port"),
        (":50051", "missing host or port"),
        ("[::1]", "missing host or port"),
        ("localhost:", "the port must be a number from 1 to 65535"),
        ("localhost:http", "the port must be a number"),
        ("localhost:0", "the port must be a number"),
        ("localhost:65536", "the port must be a number"),
        ("localhost:٥", "the port must be a number"),  # noqa: RUF001
        ("::1:50051", "an IPv6 address needs brackets"),
        ("http://localhost:50051", "not an address"),
        ("grpc://localhost:50051", "not an address"),
        ("user@host:50051", "not an address"),
        ("local host:50051", "not an address"),
        ("localhost:50051\n", "not an address"),
        (50051, "must be a string"),
        (None, "must be a string"),
        (b"localhost:50051", "must be a string"),
    ],
)
def test_targets(target: Any, problem: str) -> None:
    with pytest.raises(ParameterError, match=r"^invalid target: ") as caught:
        connect(target)
    assert problem in str(caught.value)
    assert caught.value.parameter == "target"


@pytest.mark.parametrize(
    "target", ["h:1", "h:65535", "[::1]:50051", "unix:/run/x", "dns:///h:1", "10.1.1.1:1"]
)
def test_valid_targets(target: str) -> None:
    connect(target)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": 1.1e9}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"token": ""}, "token"),
        ({"token": "two words"}, "token"),
        ({"token": "line\nbreak"}, "token"),
        ({"token": 7}, "token"),
        ({"metadata": "a=b"}, "metadata"),
        ({"metadata": ""}, "metadata"),
        ({"metadata": 0}, "metadata"),
        ({"metadata": {"a": 7}}, "metadata"),
        ({"metadata": {"a-bin": 7}}, "metadata"),
        ({"metadata": ["ab"]}, "metadata"),
        ({"metadata": [("a", "b", "c")]}, "metadata"),
        ({"metadata": {1: "b"}}, "metadata"),
        ({"metadata": {"a b": "c"}}, "metadata"),
        ({"metadata": {"grpc-timeout": "c"}}, "metadata"),
        ({"metadata": {"a": b"c"}}, "metadata"),
        ({"metadata": {"a-bin": "c"}}, "metadata"),
        ({"metadata": {"a": "sesame\n"}}, "metadata"),
        ({"secure": False, "ca_certificate": b"x"}, "ca_certificate"),
        ({"client_key": b"x"}, "client_certificate"),
        ({"client_certificate": b"x"}, "client_certificate"),
        ({"secure": False, "client_key": b"x"}, "client_key"),
        ({"secure": False, "server_name": "x"}, "server_name"),
        ({"ca_certificate": "/no/such/file"}, "ca_certificate"),
        ({"ca_certificate": "\0"}, "ca_certificate"),
        ({"max_message_bytes": -2}, "max_message_bytes"),
        ({"max_message_bytes": 1.5}, "max_message_bytes"),
        ({"max_message_bytes": True}, "max_message_bytes"),
        ({"contract": "nothing"}, "contract"),
        ({"secure": "yes"}, "secure"),
        ({"server_name": ""}, "server_name"),
        ({"ca_certificate": b"no certificate"}, "ca_certificate"),
        ({"channel_options": "x"}, "channel_options"),
        ({"channel_options": {1: 2}}, "channel_options"),
        ({"decoder": "gpt2"}, "decoder"),
    ],
)
def test_settings(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ParameterError) as caught:
        connect("localhost:1", **options)
    assert caught.value.parameter == parameter
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 1e9},
        {"timeout": None},
        {"token": "!~"},
        {"metadata": ()},
        {"metadata": {}},
        {"metadata": {"a_b.c-1": " ~", "empty": ""}},
        {"metadata": [["a", "b"], ("c-bin", b"\n")]},
        {"max_message_bytes": 0},
        {"channel_options": [("grpc.lb_policy_name", "round_robin")]},
        {"secure": False},
    ],
)
def test_valid_settings(options: dict[str, Any]) -> None:
    connect("localhost:1", **options)


@pytest.mark.parametrize("target", LOOPBACK)
def test_a_token_may_be_sent_in_clear_text_to_this_machine(target: str) -> None:
    connect(target, token="sesame")


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_token_is_never_sent_in_clear_text_elsewhere(target: str) -> None:
    with pytest.raises(ParameterError) as caught:
        connect(target, token="sesame")
    with pytest.raises(VLLMGrpcValidationError) as of_vllm:
        VLLMGrpcClient(target=target, token="sesame")
    assert caught.value.parameter == "token"
    assert str(caught.value) == f"invalid {of_vllm.value.message}"
    assert "sesame" not in str(caught.value)
    connect(target, token="sesame", secure=True)
    connect(target, metadata={"authorization": "sesame"})
    both = connect("127.0.0.1:1", token="sesame", metadata={"Authorization": "Basic x", "a": "1"})
    assert both._settings.metadata == (("a", "1"), ("authorization", "Bearer sesame"))


def test_connections_to_this_machine_use_no_proxy() -> None:
    def proxy(target: str) -> object:
        return dict(vars(connect(target))["_settings"].address.options).get(
            "grpc.enable_http_proxy"
        )

    assert proxy("dns:localhost:1") == proxy("ipv4:127.0.0.1:1") == 0
    assert proxy("example.com:1") is None


IDS: dict[str, Any] = {"token_ids": [1]}


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "token_ids": [1]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"token_ids": []}, "token_ids"),
        ({"token_ids": "12"}, "token_ids"),
        ({"token_ids": b"12"}, "token_ids"),
        ({"token_ids": bytearray(b"12")}, "token_ids"),
        ({"token_ids": 12}, "token_ids"),
        ({"token_ids": [1.0]}, "token_ids"),
        ({"token_ids": [True]}, "token_ids"),
        ({"token_ids": [-1]}, "token_ids"),
        ({"token_ids": [2**31]}, "token_ids"),
        (IDS | {"max_tokens": 0}, "max_tokens"),
        (IDS | {"max_tokens": 2.0}, "max_tokens"),
        (IDS | {"max_tokens": "2"}, "max_tokens"),
        (IDS | {"max_tokens": True}, "max_tokens"),
        (IDS | {"max_tokens": 2**31}, "max_tokens"),
        (IDS | {"min_tokens": -1}, "min_tokens"),
        (IDS | {"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        (IDS | {"temperature": -0.1}, "temperature"),
        (IDS | {"temperature": math.nan}, "temperature"),
        (IDS | {"temperature": math.inf}, "temperature"),
        (IDS | {"temperature": 3e38}, "temperature"),
        (IDS | {"temperature": 1e300}, "temperature"),
        (IDS | {"temperature": 10**400}, "temperature"),
        (IDS | {"temperature": "1"}, "temperature"),
        (IDS | {"top_p": 0}, "top_p"),
        (IDS | {"top_p": 1.1}, "top_p"),
        (IDS | {"top_k": -1}, "top_k"),
        (IDS | {"min_p": 2}, "min_p"),
        (IDS | {"presence_penalty": 2.5}, "presence_penalty"),
        (IDS | {"frequency_penalty": -2.5}, "frequency_penalty"),
        (IDS | {"repetition_penalty": 0}, "repetition_penalty"),
        (IDS | {"logit_bias": [1]}, "logit_bias"),
        (IDS | {"logit_bias": {"1": 2}}, "logit_bias"),
        (IDS | {"logit_bias": {1: math.nan}}, "logit_bias"),
        (IDS | {"seed": -1}, "seed"),
        (IDS | {"seed": 2**63}, "seed"),
        (IDS | {"n": 0}, "n"),
        (IDS | {"n": 10**9}, "n"),
        (IDS | {"stop": [""]}, "stop"),
        (IDS | {"stop": [7]}, "stop"),
        (IDS | {"stop": 7}, "stop"),
        (IDS | {"stop": ["a"] * 1001}, "stop"),
        (IDS | {"stop_token_ids": ["a"]}, "stop_token_ids"),
        (IDS | {"ignore_eos": 1}, "ignore_eos"),
        (IDS | {"logprobs": -1}, "logprobs"),
        (IDS | {"logprobs": True}, "logprobs"),
        (IDS | {"prompt_logprobs": -1}, "prompt_logprobs"),
        (IDS | {"json_schema": []}, "json_schema"),
        (IDS | {"json_schema": {"a": math.nan}}, "json_schema"),
        (IDS | {"json_schema": {"a": object()}}, "json_schema"),
        (IDS | {"json_object": "yes"}, "json_object"),
        (IDS | {"choice": []}, "choice"),
        (IDS | {"choice": "yes"}, "choice"),
        (IDS | {"regex": ""}, "regex"),
        (IDS | {"regex": "a", "choice": ["a"]}, "choice"),
        (IDS | {"lora": ""}, "lora"),
        (IDS | {"model": 7}, "model"),
        (IDS | {"request_id": ""}, "request_id"),
        (IDS | {"request_id": "a b"}, "request_id"),
        (IDS | {"request_id": "a" * 257}, "request_id"),
        (IDS | {"timeout": 0}, "timeout"),
        (IDS | {"metadata": "a"}, "metadata"),
        (IDS | {"best_of": 2}, "best_of"),
        (IDS | {"x" * 81: 2}, "x" * 80),
    ],
)
def test_parameters(params: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check(params)
    assert caught.value.parameter == parameter
    assert str(caught.value).startswith(f"invalid {parameter}: ")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "params",
    [
        {"token_ids": [0, 2**31 - 1]},
        {"max_tokens": 1, "min_tokens": 1},
        {"max_tokens": 2**31 - 1, "min_tokens": 0},
        {"min_tokens": 2**31 - 1},
        {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "logprobs": 0},
        {"temperature": 2.9e38, "top_p": 1e-9, "min_p": 1.0, "repetition_penalty": 1e-9},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0, "prompt_logprobs": 0},
        {"presence_penalty": 2.0, "frequency_penalty": -2.0, "top_k": 2**31 - 1},
        {"logprobs": 2**31 - 1, "prompt_logprobs": 2**31 - 1},
        {"logit_bias": {0: -2.9e38, 2**31 - 1: 2.9e38}},
        {"seed": 0, "n": 1, "stop": [], "stop_token_ids": []},
        {"seed": 2**63 - 1, "n": 1000, "stop": ["a"] * 1000},
        {"request_id": "!" + "a" * 254 + "~"},
        {"ignore_eos": False, "json_object": True},
    ],
)
def test_the_limits_of_parameters_are_valid(params: dict[str, Any]) -> None:
    assert check(IDS | params).items() >= params.items()


def test_a_schema_that_contains_itself_is_rejected() -> None:
    schema: dict[str, Any] = {}
    schema["a"] = schema
    with pytest.raises(ParameterError):
        check(IDS | {"json_schema": schema})


def test_none_is_the_same_as_unset() -> None:
    checked = check(IDS | {"temperature": None, "stop": None, "prompt": None, "request_id": "r"})
    assert checked == IDS | {"request_id": "r"}
    assert check(IDS | {"json_object": False, "request_id": "r"}) == checked


def test_arrays_and_numbers_of_other_libraries() -> None:
    class Array:
        def tolist(self) -> list[int]:
            return [1, 2]

    class Number:
        def __index__(self) -> int:
            return 3

        def __float__(self) -> float:
            return 0.5

    checked = check({"token_ids": Array(), "max_tokens": Number(), "temperature": Number()})
    assert (checked["token_ids"], checked["max_tokens"], checked["temperature"]) == ([1, 2], 3, 0.5)


def test_nothing_is_sent_for_a_wrong_parameter(client: Client) -> None:
    with serving() as server:
        for ask in (client.pieces, client.complete):
            with pytest.raises(ParameterError):
                ask(server.target, IDS | {"n": 0}, contract="vllm")
        with pytest.raises(ParameterError):
            client.call(server.target, "abort", "", contract="vllm")
        assert server.called == []


def test_reprs_contain_no_secrets(tmp_path: Path) -> None:
    identity = (authority := Authority()).issue("client")
    key = tmp_path / "key.pem"
    key.write_bytes(identity.key)
    connection = connect(
        "localhost:1",
        token="sesame",
        metadata={"secret": "sesame"},
        ca_certificate=authority.certificate,
        client_certificate=identity.certificate,
        client_key=key,
        server_name="engine.test",
    )
    for shown in (repr(connection), repr(vars(connection))):
        assert "sesame" not in shown and "KEY" not in shown


@pytest.mark.parametrize(
    "error",
    [
        EngineError("all wrong", code="UNKNOWN", details="words"),
        BusyError("full", code="RESOURCE_EXHAUSTED", details="words"),
        ParameterError("seed", "is odd"),
        UnsupportedError("trtllm", "seed", "it has none"),
        NoContractError("h:1", "none", (Tried("vllm", "/a/b", "UNIMPLEMENTED"),)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled_and_copied(error: EngineError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert (str(other), vars(other)) == (str(error), vars(error))
