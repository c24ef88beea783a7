"""`smg-proto serve`: what it says, how it ends, what it refuses."""

import asyncio
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2
from support import async_eventually

from frontdoor.calls import STREAMS, call, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from frontdoor.replay import upstream as run_upstream
from smg_proto.cli import main
from smg_proto.frontdoor import FrontDoor, Options, OptionsError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MODELS = {"object": "list", "data": []}


@asynccontextmanager
async def serve(upstream: str, *flags: str) -> AsyncIterator[tuple[Process, str]]:
    """The command, and the line that it starts with."""
    command = [sys.executable, "-m", "smg_proto", "serve", "--upstream", upstream, *flags]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert process.stdout
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Refused:
    """Runs the command, which cannot serve: its one line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, upstream: str, *flags: str) -> str:
        words = ["serve", "--upstream", upstream, "--listen", "127.0.0.1:0", *flags]
        assert await asyncio.to_thread(main, words) == 2
        output = self._capsys.readouterr().err
        assert output.startswith("smg-proto serve: ") and output.count("\n") == 1, output
        return output


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(capsys)


def port_of(line: str) -> int:
    return int(line.partition(" on 127.0.0.1:")[2].partition(",")[0])


async def health(channel: grpc.aio.Channel, service: str) -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return int((await check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_it_prints_what_it_serves_and_ends_on_a_signal(upstream: Upstream) -> None:
    upstream.answer(200, MODELS)
    flags = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    async with serve(upstream.url, *flags) as (process, line):
        assert re.fullmatch(
            r"smg\.v1 \(15 services, health, reflection\) on 127\.0\.0\.1:\d+, plaintext, "
            rf"in front of {upstream.url}; metrics on port \d+",
            line,
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}") as channel:
            for name in ("", "readiness", "liveness", "smg.v1.ChatService"):
                assert await health(channel, name) == SERVING
            upstream.forget()
            upstream.replay("chat")
            await call(channel, "ChatService.Chat")
            url = f"http://127.0.0.1:{line.rpartition(' ')[2]}/metrics"
            async with aiohttp.ClientSession() as session, session.get(url) as reply:
                result = await reply.text()
            counted = 'smg_proto_requests_total{method="ChatService.Chat",code="OK"} 1'
            assert counted in result.splitlines()
            bucket = 'request_duration_seconds_bucket{method="ChatService.Chat",le="+Inf"} 1'
            assert bucket in result
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_calls_in_flight_may_finish_after_sigterm(upstream: Upstream) -> None:
    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    upstream.answer(200, MODELS)
    async with (
        serve(upstream.url, "--listen", "127.0.0.1:0") as (process, line),
        grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}") as channel,
    ):
        upstream.forget()
        upstream.stream(events[0], 0.7, *events[1:])
        ask = stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
        await ask.read()
        process.send_signal(signal.SIGTERM)
        last: Any = None
        while (event := await ask.read()) is not grpc.aio.EOF:
            last = event
        assert last.HasField("end")
        assert await ask.code() is grpc.StatusCode.OK
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_calls_that_do_not_end_are_cancelled_after_the_drain(upstream: Upstream) -> None:
    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    upstream.answer(200, MODELS)
    async with (
        serve(upstream.url, "--listen", "127.0.0.1:0", "--drain", "0.2") as (process, line),
        grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}") as channel,
    ):
        upstream.forget()
        upstream.stream(events[0], 60.0)
        ask = stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
        await ask.read()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert await ask.code() is not grpc.StatusCode.OK
        await async_eventually(lambda: upstream.dropped == 1, "the request upstream is closed")


async def test_a_second_signal_ends_the_drain(upstream: Upstream) -> None:
    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    upstream.answer(200, MODELS)
    async with (
        serve(upstream.url, "--listen", "127.0.0.1:0", "--drain", "600") as (process, line),
        grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}") as channel,
    ):
        upstream.forget()
        upstream.stream(events[0], 600.0)
        ask = stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
        await ask.read()
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        while b"stopping drain=600s" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_a_signal_while_it_waits_for_the_upstream_ends_it(upstream: Upstream) -> None:
    upstream.answer(404, "not yet")
    command = [sys.executable, "-m", "smg_proto", "serve", "--upstream", upstream.url]
    command += ["--listen", "127.0.0.1:0", "--wait", "600"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    await async_eventually(lambda: upstream.sent, "it looks at the upstream")
    process.send_signal(signal.SIGTERM)
    printed, output = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, printed, output) == (0, b"", b"")


async def test_a_start_that_fails_holds_no_port(upstream: Upstream) -> None:
    upstream.answer(404, "no")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = Options(upstream=upstream.url, listen=f"127.0.0.1:{port}", metrics="127.0.0.1:0")
    door = FrontDoor(options)
    with pytest.raises(OptionsError):
        await door.start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    "listen", ["127.0.0.1", "127.0.0.1:99999", ":1", "[::1]", "127.0.0.1:x", "unix:", ""]
)
@pytest.mark.parametrize("flag", ["--listen", "--metrics"])
async def test_an_invalid_address_is_one_line(
    flag: str, listen: str, upstream: Upstream, refused: Refused
) -> None:
    if (flag, listen) == ("--metrics", ""):
        return  # none
    upstream.answer(200, MODELS)
    assert f'invalid address "{listen}": ' in await refused(upstream.url, flag, listen)


async def test_it_serves_on_a_unix_socket(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(200, MODELS)
    address = f"unix:{tmp_path}/door.sock"
    async with serve(upstream.url, "--listen", address) as (_, line):
        assert f" on {address}, plaintext" in line
        async with grpc.aio.insecure_channel(address) as channel:
            assert await health(channel, "") == SERVING
        assert "already in use" in (await _says(upstream.url, "--listen", address))


async def test_too_few_open_files_are_a_warning_with_the_number(upstream: Upstream) -> None:
    upstream.answer(200, MODELS)
    program = (
        "import resource, sys; from smg_proto.cli import main; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD)); "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["serve", "--upstream", upstream.url, "--listen", "127.0.0.1:0", "--max-active", "300"]
    for soft, hard, warned in ((64, 200, True), (64, 2048, False)):
        code = program.replace("SOFT", str(soft)).replace("HARD", str(hard))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *words, stdout=PIPE, stderr=PIPE
        )
        assert process.stdout
        assert b"smg.v1" in await process.stdout.readline()
        limits = Path(f"/proc/{process.pid}/limits")
        if limits.exists():
            (line,) = (
                line
                for line in limits.read_text(encoding="utf-8").splitlines()
                if "open files" in line
            )
            assert line.split()[3] == ("200" if warned else "856")
        process.terminate()
        output = (await process.communicate())[1].decode()
        assert ("limit of open files too low: 200, but up to 856 may be needed" in output) == warned


async def _says(upstream: str, *flags: str) -> str:
    """What the command says on standard error, in a process of its own."""
    async with serve(upstream, *flags) as (process, _):
        assert process.stderr
        return (await process.stderr.read()).decode()


async def test_a_port_in_use_is_one_line(upstream: Upstream, refused: Refused) -> None:
    upstream.answer(200, MODELS)
    async with serve(upstream.url, "--listen", "127.0.0.1:0") as (_, line):
        address = f"127.0.0.1:{port_of(line)}"
        async with serve(upstream.url, "--listen", address) as (process, line):
            assert line == ""
            assert process.stderr
            output = (await process.stderr.read()).decode()
            assert await process.wait() == 2
        assert output.startswith(f"smg-proto serve: cannot listen on {address}: ")
        assert output.count("\n") == 1
        assert "cannot listen on" in await refused(upstream.url, "--metrics", address)


async def test_an_upstream_that_cannot_be_used_is_one_line(
    upstream: Upstream, refused: Refused
) -> None:
    assert "does not respond" in await refused("http://127.0.0.1:1")
    for status, body, output in (
        (404, "no", "is not OpenAI-compatible"),
        (200, "<html>", "is not OpenAI-compatible"),
        (200, {"models": []}, "is not OpenAI-compatible"),
        (401, {"error": {"message": "key"}}, "rejected the key for /v1/models"),
    ):
        upstream.forget()
        upstream.answer(status, body)
        assert output in await refused(upstream.url)
    for url in ("localhost:1", "ftp://127.0.0.1", "http://", "http://:1"):
        assert "not http:// or https://" in await refused(url)
    for url in (
        "http://[::1",
        "http://a:99999",
        "http://a:b",
        "http://a:0",
        "http://a b",
        "http://\n",
    ):
        assert "use http://HOST:PORT" in await refused(url)
    assert "more than a host and a path" in await refused("http://127.0.0.1/?a=1")
    for url in ("http://me:secret@127.0.0.1:1", "http://me:secret@[::1"):
        output = await refused(url)
        assert "password" in output or "credentials" in output
        assert "secret" not in output


async def test_an_upstream_may_start_later(upstream: Upstream) -> None:
    upstream.answer(502, "not yet")
    upstream.answer(404, "not yet")
    upstream.answer(200, MODELS)
    flags = ("--listen", "127.0.0.1:0", "--wait", "20")
    async with serve(upstream.url, *flags) as (_, line):
        assert " on 127.0.0.1:" in line


async def test_its_own_key_is_used_only_for_its_own_requests(
    upstream: Upstream, tmp_path: Path, refused: Refused
) -> None:
    key = tmp_path / "key"
    key.write_text("own-key\n", encoding="utf-8")
    upstream.answer(200, MODELS)
    flags = ("--listen", "127.0.0.1:0", "--upstream-key-file", str(key))
    async with (
        serve(upstream.url, *flags) as (_, line),
        grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}") as channel,
    ):
        assert upstream.sent[0].headers["Authorization"] == "Bearer own-key"
        upstream.forget()
        upstream.replay("chat")
        await call(channel, "ChatService.Chat")
        assert not any(name.lower() == "authorization" for name in upstream.sent[0].headers)
    (tmp_path / "empty").touch()
    assert "could not read the key" in await refused(
        upstream.url, "--upstream-key-file", str(tmp_path / "none")
    )
    assert "invalid key in" in await refused(
        upstream.url, "--upstream-key-file", str(tmp_path / "empty")
    )


async def test_tls_and_clients_with_certificates(upstream: Upstream, tmp_path: Path) -> None:
    authority = Authority()
    server, client = authority.issue("localhost"), authority.issue("client")
    files = {"cert": server.certificate, "key": server.key, "ca": authority.certificate}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    upstream.answer(200, MODELS)
    flags = ["--listen", "127.0.0.1:0", "--tls-cert", str(tmp_path / "cert")]
    flags += ["--tls-key", str(tmp_path / "key"), "--client-ca", str(tmp_path / "ca")]
    async with serve(upstream.url, *flags) as (_, line):
        assert "mutual TLS" in line
        target = f"127.0.0.1:{port_of(line)}"
        known = grpc.ssl_channel_credentials(authority.certificate, client.key, client.certificate)
        upstream.forget()
        upstream.replay("chat")
        async with grpc.aio.secure_channel(target, known) as channel:
            assert (await call(channel, "ChatService.Chat")).id
        stranger = grpc.ssl_channel_credentials(authority.certificate)
        async with grpc.aio.secure_channel(target, stranger) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "ChatService.Chat")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_probes_need_no_certificate_and_reach_only_health(
    processes: str, upstream: Upstream, tmp_path: Path
) -> None:
    issued = Authority().issue("localhost")
    (tmp_path / "cert").write_bytes(issued.certificate)
    (tmp_path / "key").write_bytes(issued.key)
    upstream.answer(200, MODELS)
    flags = ["--listen", "127.0.0.1:0", "--tls-cert", str(tmp_path / "cert")]
    flags += ["--tls-key", str(tmp_path / "key"), "--probes", "127.0.0.1:0"]
    async with serve(upstream.url, *flags, "--processes", processes) as (process, line):
        found = re.search(r"; probes on port (\d+)", line)
        assert found
        async with grpc.aio.insecure_channel(f"127.0.0.1:{found[1]}") as channel:
            assert await health(channel, "readiness") == SERVING
            upstream.ready = False
            await becomes_ready_as(channel, NOT_SERVING)
            assert await health(channel, "liveness") == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "ChatService.Chat")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def becomes_ready_as(channel: grpc.aio.Channel, status: int) -> None:
    async def becomes() -> None:
        while await health(channel, "readiness") != status:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(becomes(), 60)


async def test_invalid_tls_files_are_one_line(
    upstream: Upstream, tmp_path: Path, refused: Refused
) -> None:
    authority, other = Authority(), Authority()
    (tmp_path / "cert").write_bytes(authority.issue("localhost").certificate)
    (tmp_path / "key").write_bytes(other.issue("localhost").key)
    (tmp_path / "junk").write_text("junk", encoding="utf-8")
    locked = authority.issue("localhost", password=b"sesame")
    (tmp_path / "locked cert").write_bytes(locked.certificate)
    (tmp_path / "locked key").write_bytes(locked.key)
    cert, key, junk = (str(tmp_path / name) for name in ("cert", "key", "junk"))
    locked_cert, locked_key = str(tmp_path / "locked cert"), str(tmp_path / "locked key")
    for flags, output in (
        (("--tls-cert", cert), "give both --tls-cert and --tls-key"),
        (("--client-ca", cert), "--client-ca needs --tls-cert"),
        (("--tls-cert", cert, "--tls-key", key), "are not a matching certificate and key"),
        (("--tls-cert", str(tmp_path / "none"), "--tls-key", key), "no such file"),
        (("--tls-cert", junk, "--tls-key", junk), "are not a matching certificate and key"),
        (("--upstream-ca", junk), "no CA certificates in"),
        (("--upstream-ca", str(tmp_path)), "no CA certificates in"),
        (("--tls-cert", locked_cert, "--tls-key", locked_key), "the key is encrypted"),
    ):
        assert output in await refused(upstream.url, *flags)


def test_an_unknown_setting_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--lisen", "x"], ["--max-active", "0"], ["--idle-timeout", "soon"]):
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--upstream", "http://127.0.0.1:1", *flags])
        assert ended.value.code == 2
        assert flags[0] in capsys.readouterr().err


async def test_health_follows_the_upstream() -> None:
    async with run_upstream() as output:
        output.answer(200, MODELS)
        async with (
            serve(output.url, "--listen", "127.0.0.1:0") as (_, line),
            grpc.aio.insecure_channel(f"127.0.0.1:{port_of(line)}") as channel,
        ):
            assert await health(channel, "smg.v1.ChatService") == SERVING
            output.ready = False
            while await health(channel, "smg.v1.ChatService") != NOT_SERVING:
                await asyncio.sleep(0.05)
            assert await health(channel, "") == NOT_SERVING
            assert await health(channel, "liveness") == SERVING
