"""Channels to a server of smg.v1 with recommended settings, and waiting for long operations."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto._channel import Address, Checks, address
from smg_proto.errors import CODES, SmgError, from_rpc_error

__all__ = [
    "connect",
    "connect_aio",
    "wait_ready",
    "wait_ready_aio",
    "wait_response",
    "wait_response_aio",
]

Metadata = Iterable[tuple[str, str | bytes]]
Tls = bool | bytes | Path | grpc.ChannelCredentials
T = TypeVar("T")

# gRPC servers close connections of clients that ping more often than every five minutes.
_KEEPALIVE_MS = 330_000
_CHECKS = Checks(lambda param, problem: ValueError(f"{param}: {problem}"))
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def connect(
    target: str,
    *,
    key: str | Callable[[], str] | None = None,
    tls: Tls | None = None,
    metadata: Metadata | Callable[[], Metadata] = (),
    clear_text: bool = False,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """A channel for the stubs of `smg_pb2_grpc`.

    It accepts messages of any size, retries calls that are safe to retry, distributes calls over
    the servers behind a name, and keeps its connection open.

    key: the bearer token in the authorization header, or a function called before each call. It is
        not sent in clear text to another machine, unless `clear_text` allows it.
    tls: True for the system's certificate authorities, a PEM file or its content for others, or
        gRPC's credentials. Unset: TLS for port 443, clear text for any other.
    metadata: sent with each call, or a function called before each call. The trace context is
        added if OpenTelemetry is in use.
    clear_text: send a key without TLS, for example within a cluster.
    options: gRPC's channel options, which win over those set here.
    """
    channel = _address(target, key, tls, clear_text, options).channel()
    return _adding(channel, key, metadata)


def connect_aio(
    target: str,
    *,
    key: str | Callable[[], str] | None = None,
    tls: Tls | None = None,
    metadata: Metadata | Callable[[], Metadata] = (),
    clear_text: bool = False,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """The same as connect for asyncio: a channel of grpc.aio."""
    channel = _address(target, key, tls, clear_text, options).async_channel()
    return _adding(channel, key, metadata)


def _address(
    target: str,
    key: str | Callable[[], str] | None,
    tls: Tls | None,
    clear_text: bool,
    options: Sequence[tuple[str, Any]],
) -> Address:
    if not target or not target.isprintable() or "://" in target.replace(":///", ""):
        raise ValueError(f"target: {target!r} is not a gRPC target; use HOST:PORT")
    credentials = _credentials(target.endswith(":443") if tls is None else tls)
    defaults: dict[str, object] = {
        "grpc.max_receive_message_length": -1,
        "grpc.keepalive_time_ms": _KEEPALIVE_MS,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.service_config": Path(__file__)
        .with_name("service_config.json")
        .read_text(encoding="utf-8"),
    }
    given = _CHECKS.channel_options(options, "options")
    found = address(target, credentials, defaults, given)
    if isinstance(key, str):
        _CHECKS.secret("key", key)
    if key is not None and not clear_text and not found.is_private:
        raise ValueError(
            "key: would be sent in clear text; use tls=True, or clear_text=True to allow it"
        )
    return found


def _credentials(tls: Tls) -> grpc.ChannelCredentials | None:
    if isinstance(tls, grpc.ChannelCredentials):
        return tls
    if isinstance(tls, Path):
        tls = tls.read_bytes()
    if isinstance(tls, bytes):
        if b"-----BEGIN CERTIFICATE-----" not in tls:
            raise ValueError("tls: is not a certificate in PEM format")
        return grpc.ssl_channel_credentials(tls)
    return grpc.ssl_channel_credentials() if tls else None


# --- Metadata of each call ---


C = TypeVar("C")


def _adding(
    channel: C, key: str | Callable[[], str] | None, metadata: Metadata | Callable[[], Metadata]
) -> C:
    """Adds metadata to the channel's calls. Interceptors of grpc.aio would slow down streams."""

    def more() -> list[tuple[str, str | bytes]]:
        found = [*(metadata() if callable(metadata) else metadata)]
        if key is not None:
            bearer = _CHECKS.secret("key", key() if callable(key) else key)
            found.append(("authorization", f"Bearer {bearer}"))
        if trace := sys.modules.get("opentelemetry.propagate"):
            carrier: dict[str, str] = {}
            trace.inject(carrier)
            found += carrier.items()
        return found

    if not callable(metadata):
        metadata = [*metadata]
    for kind in _KINDS:
        setattr(channel, kind, _stub_maker(getattr(channel, kind), more))
    return channel


def _stub_maker(make: Callable[..., Any], more: Callable[[], Metadata]) -> Callable[..., Any]:
    def made(*args: Any, **kwargs: Any) -> Any:
        call = make(*args, **kwargs)
        stub = _with_metadata(call, more)
        for name in ("with_call", "future"):
            if hasattr(call, name):
                setattr(stub, name, _with_metadata(getattr(call, name), more))
        return stub

    return made


def _with_metadata(call: Callable[..., Any], more: Callable[[], Metadata]) -> Callable[..., Any]:
    def made(
        request: Any = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **rest: Any,
    ) -> Any:
        return call(request, timeout=timeout, metadata=(*(metadata or ()), *more()), **rest)

    return made


# --- Waiting ---

_FINAL = {
    pb.RESPONSE_STATUS_COMPLETED,
    pb.RESPONSE_STATUS_INCOMPLETE,
    pb.RESPONSE_STATUS_FAILED,
    pb.RESPONSE_STATUS_CANCELLED,
}


def wait_ready(
    stub: rpc.WorkerServiceStub, worker: pb.Worker | str, *, timeout: float = 600
) -> pb.Worker:
    """Wait until a worker is ready, and return it.

    Raises SmgError if it failed or was removed, and TimeoutError after `timeout` seconds.
    """
    steps = _until(pb.GetWorkerRequest(id=_id(worker)), _is_ready, timeout)
    return _waited(steps, stub.GetWorker)


def wait_response(
    stub: rpc.ResponseServiceStub, response: pb.Response | str, *, timeout: float = 600
) -> pb.Response:
    """Wait until a response has ended, successfully or not, and return it.

    Raises SmgError if it was deleted, and TimeoutError after `timeout` seconds.
    """
    steps = _until(pb.GetResponseRequest(id=_id(response)), _has_ended, timeout)
    return _waited(steps, stub.GetResponse)


async def wait_ready_aio(
    stub: "rpc.WorkerServiceAsyncStub", worker: pb.Worker | str, *, timeout: float = 600
) -> pb.Worker:
    """The same as wait_ready for asyncio."""
    steps = _until(pb.GetWorkerRequest(id=_id(worker)), _is_ready, timeout)
    return await _waited_aio(steps, stub.GetWorker)


async def wait_response_aio(
    stub: "rpc.ResponseServiceAsyncStub", response: pb.Response | str, *, timeout: float = 600
) -> pb.Response:
    """The same as wait_response for asyncio."""
    steps = _until(pb.GetResponseRequest(id=_id(response)), _has_ended, timeout)
    return await _waited_aio(steps, stub.GetResponse)


def _id(found: pb.Worker | pb.Response | str) -> str:
    return found if isinstance(found, str) else found.id


def _has_ended(response: pb.Response) -> bool:
    return response.status in _FINAL


def _is_ready(worker: pb.Worker) -> bool:
    if worker.state == pb.WORKER_STATE_FAILED:
        reason = worker.error.reason or "WORKER_ERROR"
        raise SmgError(
            CODES.get(reason, grpc.StatusCode.UNKNOWN),
            f"worker {worker.id} failed: {worker.error.message or 'it reports no reason'}",
            reason,
        )
    return worker.state == pb.WORKER_STATE_READY


_Steps = Generator[tuple[Any, float, float], Any, T]


def _until(request: Any, done: Callable[[T], bool], seconds: float) -> _Steps[T]:
    """Yields each request, the pause before it and its time limit. Its caller sends the reply."""
    ends = time.monotonic() + seconds
    pause = 0.0
    while True:
        left = ends - time.monotonic() - pause
        if left <= 0:
            raise TimeoutError(f"{request.id} is not ready after {seconds:g} s")
        found: T = yield request, pause, left
        if done(found):
            return found
        pause = min(pause * 1.5 + 0.1, 2.0)


def _waited(steps: _Steps[T], call: Callable[..., T]) -> T:
    found: T | None = None
    try:
        while True:
            request, pause, left = steps.send(found)
            time.sleep(pause)
            found = call(request, timeout=left)
    except StopIteration as end:
        ready: T = end.value
        return ready
    except grpc.RpcError as error:
        raise _error(error) from error


async def _waited_aio(steps: _Steps[T], call: Callable[..., Awaitable[T]]) -> T:
    found: T | None = None
    try:
        while True:
            request, pause, left = steps.send(found)
            await asyncio.sleep(pause)
            found = await call(request, timeout=left)
    except StopIteration as end:
        ready: T = end.value
        return ready
    except grpc.RpcError as error:
        raise _error(error) from error


def _error(error: grpc.RpcError) -> Exception:
    found = from_rpc_error(error)
    if found.code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(str(found))
    return found
