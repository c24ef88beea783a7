"""How the client finds and reaches a server: addresses, TLS, tokens, metadata, channels."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority, Identity
from support import free_port
from targets import ELSEWHERE, LOOPBACK
from vllm_kit import Both, metadata_of

from smg_proto.testing import Address, FakeVllmEngine, run_vllm_engine
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    Timeout,
    VLLMGrpcClient,
    VLLMGrpcClosedError,
    VLLMGrpcConnectionError,
    VLLMGrpcError,
    VLLMGrpcUnauthenticatedError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._config import address as find
from smg_proto.vllm._wait import connected


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({}, {}, ("localhost:9000", False)),
        ({}, {"VLLM_GRPC_HOST": "h", "VLLM_GRPC_PORT": "7"}, ("h:7", False)),
        ({"host": "g", "port": 8}, {"VLLM_GRPC_HOST": "h"}, ("g:8", False)),
        ({"host": "::1", "port": 8}, {}, ("[::1]:8", False)),
        ({"host": "g", "port": 443}, {}, ("g:443", True)),
        ({"host": "g", "port": 443, "secure": False}, {}, ("g:443", False)),
        ({}, {"VLLM_GRPC_SECURE": "yes"}, ("localhost:9000", True)),
        ({"port": 443}, {"VLLM_GRPC_SECURE": "0"}, ("localhost:443", False)),
        ({"target": "dns:///x:1"}, {"VLLM_GRPC_HOST": "h"}, ("dns:///x:1", False)),
        ({"target": "unix:/tmp/s"}, {}, ("unix:/tmp/s", False)),
        ({"server_name": "x"}, {}, ("localhost:9000", True)),
    ],
    ids=str,
)
def test_arguments_come_before_the_environment_and_that_before_defaults(
    given: dict[str, Any],
    environment: dict[str, str],
    expected: tuple[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOST", "PORT", "SECURE", "TIMEOUT", "TOKEN"):
        monkeypatch.delenv(f"VLLM_GRPC_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    where = find(**given)
    assert (where.target, where.secure) == expected


@pytest.mark.parametrize(
    ("given", "environment", "name"),
    [
        ({"host": "h:1"}, {}, "host"),
        ({"host": "h", "target": "t"}, {}, "target"),
        ({"port": 0}, {}, "port"),
        ({"port": "80"}, {}, "port"),
        ({}, {"VLLM_GRPC_PORT": "many"}, "VLLM_GRPC_PORT"),
        ({}, {"VLLM_GRPC_TIMEOUT": "0"}, "VLLM_GRPC_TIMEOUT"),
        ({}, {"VLLM_GRPC_TIMEOUT": "soon"}, "VLLM_GRPC_TIMEOUT"),
        ({}, {"VLLM_GRPC_SECURE": "maybe"}, "VLLM_GRPC_SECURE"),
        ({"timeout": 0}, {}, "timeout"),
        ({"max_retries": True}, {}, "max_retries"),
        ({"initial_backoff": 0}, {}, "initial_backoff"),
        ({"initial_backoff": 10**400}, {}, "initial_backoff"),
        ({"max_retries": 10**9}, {}, "max_retries"),
        ({"timeout": "1"}, {}, "timeout"),
        ({"host": 7}, {}, "host"),
        ({"target": 7}, {}, "target"),
        ({"target": ""}, {}, "target"),
        ({"secure": "yes"}, {}, "secure"),
        ({"wait_for_ready": 1}, {}, "wait_for_ready"),
        ({"telemetry": "on"}, {}, "telemetry"),
        ({"decoder": "gpt2"}, {}, "decoder"),
        ({"channel": "localhost:1"}, {}, "channel"),
        ({"channel_options": [1]}, {}, "channel_options"),
        ({"channel_options": "x"}, {}, "channel_options"),
        ({"channel_options": {"grpc.x": 1.5}}, {}, "channel_options.grpc.x"),
        ({"channel_options": {"grpc.x": [1]}}, {}, "channel_options.grpc.x"),
        ({"channel_options": {"grpc.x": None}}, {}, "channel_options.grpc.x"),
        ({"channel_options": {"grpc.x": 2**31}}, {}, "channel_options.grpc.x"),
        ({"channel_options": {"grpc.x": -(2**31) - 1}}, {}, "channel_options.grpc.x"),
        ({"channel_options": {"grpc.x": "\ud800"}}, {}, "channel_options.grpc.x"),
        ({"max_receive_message_length": "big"}, {}, "max_receive_message_length"),
        ({"server_name": 7}, {}, "server_name"),
        ({"client_key": 7, "client_certificate": 7}, {}, "client_key"),
        ({}, {"VLLM_GRPC_PORT": "9" * 5000}, "port"),
        ({"secure": False, "ca_certificate": b"x"}, {}, "ca_certificate"),
        ({"ca_certificate": "/no/such/file"}, {}, "ca_certificate"),
        ({"ca_certificate": b"no certificate"}, {}, "ca_certificate"),
        ({"client_key": b"-----BEGIN X"}, {}, "client_certificate"),
        ({"host": "far.example", "token": "secret"}, {}, "token"),
        ({"token": ""}, {}, "token"),
        ({"token": "two\nlines"}, {}, "token"),
        ({"token": 7}, {}, "token"),
        ({"metadata": {"x": 1}}, {}, "metadata"),
        ({"traceparent": "x"}, {}, "traceparent"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [VLLMGrpcClient, AsyncVLLMGrpcClient])
def test_settings_that_cannot_be_are_named(
    kind: Callable[..., object],
    given: dict[str, Any],
    environment: dict[str, str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(VLLMGrpcValidationError) as caught:
        kind(**given)
    assert caught.value.param == name
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("target", [*LOOPBACK, "127.8.9.1", "::1"])
def test_a_token_may_go_to_this_machine_in_clear_text(target: str) -> None:
    VLLMGrpcClient(target=target, token="secret")


@pytest.mark.parametrize(
    "target", [*ELSEWHERE, "localhost@evil:1", "[::1].evil:1", "http://localhost:1"]
)
@pytest.mark.parametrize("kind", [VLLMGrpcClient, AsyncVLLMGrpcClient])
def test_a_token_goes_nowhere_else_in_clear_text(kind: Callable[..., Any], target: str) -> None:
    for token in ("secret", lambda: "secret"):
        with pytest.raises(VLLMGrpcValidationError, match="in clear text") as caught:
            kind(target=target, token=token)
        assert "secret" not in str(caught.value)
    kind(target=target, token="secret", secure=True)
    with pytest.raises(VLLMGrpcValidationError, match="in clear text"):
        kind(target=target).with_options(token="secret")


def test_what_stays_on_this_machine_passes_no_proxy() -> None:
    assert dict(find("localhost", 1).options)["grpc.enable_http_proxy"] == 0
    assert "grpc.enable_http_proxy" not in dict(find("example.com", 1).options)


@pytest.mark.parametrize("value", ["", "x", b"x", 0, True, 2**31 - 1, -(2**31)])
def test_values_that_grpc_takes_are_channel_options(value: object) -> None:
    assert ("a", value) in find(port=1, channel_options={"a": value}).options


def test_a_channel_of_the_other_kind_is_refused() -> None:
    wrong: Any = object()
    with pytest.raises(VLLMGrpcValidationError, match=r"channel: must be a grpc\.Channel"):
        VLLMGrpcClient(channel=wrong)
    with pytest.raises(VLLMGrpcValidationError, match=r"channel: must be a grpc\.aio\.Channel"):
        AsyncVLLMGrpcClient(channel=wrong)


def test_channel_options_are_merged_by_name() -> None:
    where = find(port=1, channel_options={"grpc.keepalive_time_ms": 400_000})
    assert dict(where.options)["grpc.max_receive_message_length"] == -1
    assert dict(where.options)["grpc.keepalive_time_ms"] == 400_000
    less = find(port=1, channel_options=[("grpc.max_receive_message_length", 9)])
    assert dict(less.options)["grpc.max_receive_message_length"] == 9
    names = [name for name, _ in less.options]
    assert len(names) == len(set(names))


def test_no_keepalive_is_sent_unless_asked_for() -> None:
    assert not [name for name, _ in find(port=1).options if "keepalive" in name]


def test_the_environment_gives_timeout_and_token(
    both: Both, address: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_GRPC_TIMEOUT", "7.5")
    monkeypatch.setenv("VLLM_GRPC_TOKEN", "from-outside")
    client = both.make(address)
    assert client._caller.options.timeout == Timeout.of(7.5)
    both.run(client.health.check())
    assert metadata_of(address.servicer, "HealthCheck")["authorization"] == "Bearer from-outside"
    assert "from-outside" not in repr(client)


def test_metadata_of_client_and_call_are_merged(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client = both.make(address, metadata={"x-team": "a", "x-keep": "k"}, traceparent=trace)
    both.create(client, prompt="x", max_tokens=1, metadata=[("X-Team", "b"), ("x-raw-bin", b"\0")])
    got = metadata_of(address.servicer, "Generate")
    assert (got["x-team"], got["x-keep"], got["x-raw-bin"]) == ("b", "k", b"\0")
    assert got["traceparent"] == trace
    other = trace.replace("01", "00")
    both.create(client, prompt="x", max_tokens=1, traceparent=other)
    assert metadata_of(address.servicer, "Generate")["traceparent"] == other


def test_a_token_function_is_asked_for_each_call(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    tokens = iter(["one", "two", "three", "four"])
    client = both.make(address, token=lambda: next(tokens))
    for expected in ("one", "two"):
        both.run(client.health.check())
        got = metadata_of(address.servicer, "HealthCheck")
        assert got["authorization"] == f"Bearer {expected}"
    by_hand = client.with_options(metadata={"authorization": "Basic x"})
    both.run(by_hand.health.check())
    assert metadata_of(address.servicer, "HealthCheck")["authorization"] == "Basic x"


def test_a_coroutine_function_gives_tokens_to_the_async_client_only(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    async def token() -> str:
        return "later"

    if not both.asynchronous:
        with pytest.raises(VLLMGrpcValidationError, match="requires the async client"):
            both.make(address, token=token)
        return
    both.run(both.make(address, token=token).health.check())
    assert metadata_of(address.servicer, "HealthCheck")["authorization"] == "Bearer later"


def test_a_copy_with_other_options_shares_the_channel(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    client = both.make(address)
    copy = client.with_options(timeout=3, metadata={"x-a": "b"}, token="t", wait_for_ready=True)
    both.run(copy.health.check())
    got = metadata_of(address.servicer, "HealthCheck")
    assert got["x-a"] == "b" and got["authorization"] == "Bearer t"
    both.run(copy.close())
    assert not client.is_closed
    both.run(client.health.check())
    assert "x-a" not in metadata_of(address.servicer, "HealthCheck")
    both.run(client.close())
    with pytest.raises(VLLMGrpcClosedError):
        both.run(copy.health.check())
    with pytest.raises(VLLMGrpcValidationError, match="retries"):
        client.with_options(retries=1)


def test_a_channel_of_the_callers_is_used_and_left_open(address: Address[FakeVllmEngine]) -> None:
    with grpc.insecure_channel(address) as channel:
        with VLLMGrpcClient(channel=channel, token="t") as client:
            assert client.health.check().healthy
        with VLLMGrpcClient(channel=channel) as client:
            assert client.health.check().healthy


async def test_an_async_channel_of_the_callers_is_used_and_left_open(
    address: Address[FakeVllmEngine],
) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        for _ in range(2):
            async with AsyncVLLMGrpcClient(channel=channel) as client:
                assert (await client.health.check()).healthy


def test_an_async_client_is_made_anywhere_and_used_in_one_loop(
    address: Address[FakeVllmEngine],
) -> None:
    import asyncio

    client = AsyncVLLMGrpcClient(target=address)

    async def use() -> bool:
        return (await client.health.check()).healthy

    async def use_and_close() -> None:
        assert await use()

    asyncio.run(use_and_close())
    with pytest.raises(VLLMGrpcError, match="another event loop"):
        asyncio.run(use())


def test_an_unknown_host_is_a_connection_error(both: Both) -> None:
    client = both.make("no-such-host.invalid:1", max_retries=0)
    with pytest.raises(VLLMGrpcConnectionError, match="check host, port and secure=") as caught:
        both.run(client.health.check(timeout=10))
    assert caught.value.code == "UNAVAILABLE"


def test_wait_for_ready_waits_for_a_server_that_comes_later(both: Both) -> None:
    import threading

    port = free_port()
    client = both.make(f"127.0.0.1:{port}", max_retries=0)
    done = threading.Event()

    class There(FakeVllmEngine):
        def add_to_server(self, server: grpc.aio.Server) -> None:
            super().add_to_server(server)
            server.add_insecure_port(f"127.0.0.1:{port}")

    def serve() -> None:
        done.wait(0.3)
        with run_vllm_engine(There()):
            done.wait(20)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with pytest.raises(VLLMGrpcConnectionError):
            both.run(client.health.check())
        result = both.create(client, prompt="x", max_tokens=1, wait_for_ready=True, timeout=15)
        assert result.choices[0].token_ids
    finally:
        done.set()
        thread.join()


# TLS.


class Guarded(FakeVllmEngine):
    """An engine on a port with TLS, and behind a proxy that wants a token."""

    def __init__(self, credentials: grpc.ServerCredentials) -> None:
        super().__init__()
        self._credentials = credentials
        self.port = 0

    def add_to_server(self, server: grpc.aio.Server) -> None:
        super().add_to_server(server)
        self.port = server.add_secure_port("127.0.0.1:0", self._credentials)

    async def HealthCheck(self, request: Any, context: Any) -> Any:
        if dict(context.invocation_metadata()).get("authorization") != "Bearer right":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return await super().HealthCheck(request, context)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextmanager
def secured(identity: Identity, clients: bytes | None = None) -> Iterator[int]:
    """A server with this certificate; with `clients`, it wants one of theirs."""
    credentials = grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)], clients, clients is not None
    )
    engine = Guarded(credentials)
    with run_vllm_engine(engine):
        yield engine.port


@pytest.fixture(scope="module")
def tls(authority: Authority) -> Iterator[int]:
    with secured(authority.issue("engine")) as port:
        yield port


def test_tls_with_a_custom_authority_and_a_token(
    both: Both, tls: int, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.certificate)
    for ca in (authority.certificate, file, str(file)):
        client = both.make(f"127.0.0.1:{tls}", ca_certificate=ca, token="right")
        assert both.run(client.health.check()).healthy
    wrong = client.with_options(token="wrong-secret")
    with pytest.raises(VLLMGrpcUnauthenticatedError, match="check token=") as caught:
        both.run(wrong.health.check())
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize("case", ["untrusted", "expired", "other name", "no tls"])
def test_a_handshake_that_fails_is_explained_and_not_repeated(
    case: str, both: Both, tls: int, authority: Authority
) -> None:
    settings: dict[str, Any] = {"ca_certificate": authority.certificate, "max_retries": 5}
    expected = "TLS handshake .* failed: certificate expired, not trusted or for another name"
    with secured(authority.issue("old", days=-1)) as expired:
        port = expired if case == "expired" else tls
        if case == "untrusted":
            settings["ca_certificate"] = Authority().certificate
        if case == "other name":
            settings["server_name"] = "elsewhere.test"
        if case == "no tls":
            settings = {"max_retries": 0}
            expected = "check host, port and secure="
        client = both.make(f"127.0.0.1:{port}", **settings)
        with pytest.raises(VLLMGrpcConnectionError, match=expected) as caught:
            both.run(client.health.check(timeout=10))
        assert caught.value.retryable == (case == "no tls")


def test_the_servers_name_can_be_set(both: Both, tls: int, authority: Authority) -> None:
    client = both.make(
        f"127.0.0.1:{tls}",
        ca_certificate=authority.certificate,
        server_name="engine.test",
        token="right",
    )
    assert both.run(client.health.check()).healthy


def test_mutual_tls(both: Both, authority: Authority) -> None:
    me = authority.issue("client")
    with secured(authority.issue("engine"), authority.certificate) as port:
        settings = {"ca_certificate": authority.certificate, "token": "right"}
        client = both.make(
            f"127.0.0.1:{port}",
            client_certificate=me.certificate,
            client_key=me.key,
            **settings,
        )
        assert both.run(client.health.check()).healthy
        stranger = both.make(f"127.0.0.1:{port}", max_retries=0, **settings)
        with pytest.raises(VLLMGrpcConnectionError):
            both.run(stranger.health.check(timeout=10))


class Passing(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(client_call_details, request)


def test_the_state_of_a_channel_is_found_without_a_thread(
    address: Address[FakeVllmEngine],
) -> None:
    """One of gRPC's would print an error if the channel was closed at that moment."""
    with grpc.insecure_channel(address) as channel, VLLMGrpcClient(channel=channel) as client:
        for _ in range(20):  # asking does not connect it
            assert connected(channel) is False
            time.sleep(0.01)
        assert client.is_healthy()
        before = {*threading.enumerate()}
        assert connected(channel) is connected(grpc.intercept_channel(channel, Passing())) is True
        assert {*threading.enumerate()} <= before
    assert connected(channel) is None
    assert connected(object()) is None
