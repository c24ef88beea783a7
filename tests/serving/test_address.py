"""Addresses: which are read, which are refused, and whether they are free."""

import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import free_port

from smg_proto._serving.address import Address, AddressError, check_free, reserve


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("localhost:65535", Address("localhost", 65535)),
        ("[::1]:50051", Address("::1", 50051)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
        ("unix:/run/x.sock", Address("", 0, "/run/x.sock")),
        ("unix:///run/x.sock", Address(path="/run/x.sock")),
        ("unix:x.sock", Address(path="x.sock")),
        ("unix:/" + "x" * 102, Address(path="/" + "x" * 102)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "missing port; use HOST:PORT"),
        ("localhost", "missing port; use HOST:PORT"),
        ("127.0.0.1", "missing port"),
        ("[::1]", "missing port"),
        ("::1", "needs brackets"),
        ("::1:50051", "needs brackets; use [HOST]:PORT"),
        ("[::1:50051", "needs brackets; use [HOST]:PORT"),
        (":50051", "missing host"),
        ("127.0.0.1:", "the port is not a number from 0 to 65535"),
        ("127.0.0.1:65536", "the port is not"),
        ("127.0.0.1:99999999999999999999", "the port is not"),
        ("127.0.0.1:-1", "the port is not"),
        ("127.0.0.1:http", "the port is not"),
        ("127.0.0.1:\u0662", "the port is not"),
        ("http://127.0.0.1:80", "needs brackets"),
        ("//127.0.0.1:80", "the host is not a name or an IP address"),
        ("a b:80", "the host is not"),
        ("a\nb:80", "the host is not"),
        ("unix:", "missing path"),
        ("unix:/" + "x" * 103, "path longer than 103 bytes"),
        ("unix:/run/\udcff.sock", "characters that cannot be shown"),
    ],
)
def test_an_invalid_address_is_named_in_one_line(text: str, why: str) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    assert why in str(caught.value)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on this machine")


def family(host: str) -> int:
    return 99 if not host else socket.AF_INET6 if ":" in host else socket.AF_INET


def resolve(patch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        places = [(each, port, 0, 1) if ":" in each else (each, port) for each in hosts]
        return [(family(each[0]), socket.SOCK_STREAM, 0, "", each) for each in places]

    patch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("used", "hosts"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        pytest.param("::1", ["::1", "127.0.0.1"], marks=needs_ipv6),
        pytest.param("0.0.0.0", ["::"], marks=needs_ipv6),
    ],
)
def test_a_port_in_use_is_not_free(
    used: str, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(monkeypatch, hosts)
    with (
        socket.create_server((used, free_port()), family=family(used)) as taken,
        socket.socket(family(used)) as client,
    ):
        address = Address("host", taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use; choose another port"):
            check_free(address)
        client.connect(taken.getsockname())
        taken.accept()[0].close()  # first, so that the system keeps this end for a while
    check_free(address)  # its owner has gone


@pytest.mark.parametrize(
    ("hosts", "problem"),
    [
        (["127.0.0.1", "::1"], ""),
        (["2001:db8::1", "127.0.0.1"], ""),
        (["", "127.0.0.1"], ""),  # a kernel without IPv6
        pytest.param(["2001:db8::1"], "cannot assign requested address", marks=needs_ipv6),
        pytest.param(["fe80::1"], "cannot assign requested address", marks=needs_ipv6),
        (["127.0.0.1", "192.0.2.1"], "cannot assign requested address"),
        ([], "the host has no address"),
    ],
)
def test_a_host_may_have_addresses_of_a_protocol_that_the_machine_lacks(
    hosts: list[str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    resolve(monkeypatch, hosts)
    try:
        check_free(Address("host", 0))
    except OSError as error:
        assert problem and f"cannot listen on host:0: {problem}; " in str(error)
    else:
        assert not problem
    assert not recwarn.list  # of a socket that stays open


def test_a_remote_or_unknown_host_is_reported() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: cannot assign"):
        check_free(Address("192.0.2.1", 0))
    with pytest.raises(OSError, match=r"cannot listen on no-such-host\.invalid:0: "):
        check_free(Address("no-such-host.invalid", 0))


def test_a_unix_socket_is_free_if_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    address = Address(path=str(path))
    check_free(address)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        with pytest.raises(OSError, match="address already in use; choose another path"):
            check_free(address)
    check_free(address)  # left behind by its owner
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="the path is not a socket"):
        check_free(Address(path=str(file)))
    with pytest.raises(OSError, match=r"no folder .*/None; choose another path"):
        check_free(Address(path=str(tmp_path / "None" / "x.sock")))
    assert file.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse more connections")
def test_a_unix_socket_is_not_free_if_its_server_accepts_no_more(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    with ExitStack() as opened:
        server = opened.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(path)
        server.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                client = opened.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        with pytest.raises(OSError, match="address already in use"):
            check_free(Address(path=path))


def test_a_system_without_unix_sockets_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="this system has no Unix sockets;"):
        check_free(Address(path="x.sock"))


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_a_reserved_port_is_shared_only_with_so_reuseport() -> None:
    address, held = reserve(Address("127.0.0.1", 0))
    try:
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind((address.host, address.port))
            worker.listen()
            with socket.create_connection((address.host, address.port), timeout=20):
                worker.accept()[0].close()  # nothing comes to the sockets that hold the port
            for other in (check_free, reserve):
                with pytest.raises(OSError, match="address already in use"):
                    other(address)
    finally:
        for each in held:
            each.close()


def test_a_system_that_cannot_share_ports_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "SO_REUSEPORT", 9999, raising=False)  # no option of any system
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:0: "):
        reserve(Address("127.0.0.1", 0))
