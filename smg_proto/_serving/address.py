"""Addresses to listen on: HOST:PORT, [IPV6]:PORT or unix:PATH, and checks that they are free."""

import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Linux's sun_path holds 108 bytes including the final zero; macOS' holds 104.
MAX_UNIX_PATH_BYTES = 103


class AddressError(ValueError):
    """An invalid address. The message is one line that says why and what to use instead."""


@dataclass(frozen=True)
class Address:
    """A host (without brackets) and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, port: int) -> "Address":
        """The address with the port that a server got."""
        return self if self.path else replace(self, port=port)

    @classmethod
    def parse(cls, text: str) -> "Address":
        if text.startswith("unix:"):
            return cls._unix(text)
        host, colon, port = text.rpartition(":")
        if not colon or (text.startswith("[") and text.endswith("]")):
            raise _invalid(text, "missing port; use HOST:PORT")
        if not port.isascii() or not port.isdecimal() or int(port[:9]) > 65535:
            raise _invalid(text, "the port is not a number from 0 to 65535; use HOST:PORT")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise _invalid(text, "an IPv6 address needs brackets; use [HOST]:PORT")
        if not host:
            raise _invalid(text, "missing host; use 127.0.0.1:PORT, or 0.0.0.0:PORT for all")
        if not host.isprintable() or set(host) & set(" /[]@"):
            raise _invalid(text, "the host is not a name or an IP address; use HOST:PORT")
        return cls(host, int(port))

    @classmethod
    def _unix(cls, text: str) -> "Address":
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path[2:]
        if not path or "\0" in path:
            raise _invalid(text, "missing path; use unix:PATH")
        if not path.isprintable():  # such as bytes that are not UTF-8, which gRPC cannot encode
            raise _invalid(text, "the path has characters that cannot be shown; use another one")
        if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            raise _invalid(text, f"path longer than {MAX_UNIX_PATH_BYTES} bytes; use a shorter one")
        return cls(path=path)


def _invalid(text: str, why: str) -> AddressError:
    return AddressError(f'invalid address "{text}": {why}')


def unavailable(address: Address, why: str) -> OSError:
    """The error for an address that a server cannot listen on."""
    hint = "choose another path" if address.path else "choose another port, or 0 for a free one"
    return OSError(f"cannot listen on {address}: {why}; {hint}")


def check_free(address: Address) -> None:
    """Raise OSError with the system's reason if no server could listen on the address now.

    gRPC itself only reports that binding failed, and writes the reason to standard error.
    """
    try:
        if address.path:
            _check_path_free(address)
        else:
            for sock in _bound(address):
                sock.close()
    except OSError as error:
        raise unavailable(address, _reason(error)) from None


def reserve(address: Address) -> tuple[Address, list[socket.socket]]:
    """Reserve an address for several processes that share it with SO_REUSEPORT.

    The sockets are bound but do not listen, so they get no connections. Keep them open while the
    processes serve, so that no other program gets the port while they restart. Returns the address
    with its port.
    """
    check_free(address)
    try:
        sockets = _bound(address, share=True)
    except OSError as error:
        raise unavailable(address, _reason(error)) from None
    return address.at(sockets[0].getsockname()[1]), sockets


def _bound(address: Address, *, share: bool = False) -> list[socket.socket]:
    """A socket for each IP address of the host, all bound to the same port."""
    resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    sockets: list[socket.socket] = []
    failed: OSError | None = None
    port = address.port
    for family, where in dict.fromkeys((family, each) for family, *_, each in resolved):
        try:
            sock = _bound_socket(family, (where[0], port, *where[2:]), share)
        except OSError as error:
            if error.errno == errno.EADDRINUSE or family == socket.AF_INET:
                for other in sockets:
                    other.close()
                raise
            failed = error  # no IPv6 on this machine; localhost has another address
        else:
            port = sock.getsockname()[1]
            sockets.append(sock)
    if not sockets:
        raise failed or OSError("the host has no address")
    return sockets


def _bound_socket(family: int, where: tuple[Any, ...], share: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # on Windows it would let two servers bind the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # As in gRPC, "[::]" includes IPv4.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _check_path_free(address: Address) -> None:
    path = Path(address.path)
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets")
    if not path.parent.is_dir():
        raise OSError(f"no folder {path.parent}")
    if path.exists() and not path.is_socket():
        raise OSError("the path is not a socket")
    # gRPC replaces a socket that nobody listens on any more.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial, suppress(ConnectionError):
        trial.setblocking(False)
        try:
            trial.connect(address.path)
        except FileNotFoundError:
            return
        except BlockingIOError:  # many clients wait for its server
            pass
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: OSError) -> str:
    return error.strerror.lower() if error.strerror else str(error)
