"""An HTTP client for the gateway, at the level of bytes and events. The mapping interprets them.

It uses aiohttp, because a front door forwards many small chunks: over loopback, aiohttp takes 15 µs
of processor time per chunk of a stream and httpx takes 100 (benchmarks/front_door.py measures the
front door itself).
"""

import asyncio
import errno
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from smg_proto import __version__
from smg_proto._http.failures import (
    from_response,
    overloaded,
    reading,
    too_slow,
    truncated,
    unreachable,
    unreadable,
)
from smg_proto._http.shapes import parse
from smg_proto._http.sse import Decoder, ServerSentEvent
from smg_proto.errors import SmgError

MAX_RESPONSE_BYTES = 256 << 20
MAX_ERROR_BYTES = 1 << 20
MAX_FRAME_BYTES = 16 << 20
# How long to wait for the rest of a stream after its last event, to keep the connection.
_LEFTOVERS_SECONDS = 0.5
_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds. A client's deadline may end a request earlier."""

    # To connect.
    connect: float = 5.0
    # For a request that is not a stream.
    request: float = 600.0
    # Between two events of a stream.
    idle: float = 300.0


@dataclass(frozen=True)
class Response:
    """A successful response, fully read."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, what: str) -> Any:
        return reading(what, self._json)

    def _json(self) -> Any:
        return parse(self.body.decode("utf-8-sig"))


class Upstream:
    """A pool of connections to one gateway. Open it with `async with`.

    Every failure is an `SmgError`. A request that is cancelled or fails closes its connection, so
    that the gateway aborts the work. `on_error` is called with the kind of each failure: timeout,
    unreachable, cut, garbled, descriptors, or the HTTP status.
    """

    def __init__(
        self,
        url: str,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        max_response: int = MAX_RESPONSE_BYTES,
        on_error: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.url: str = url.rstrip("/")
        self.timeouts: Timeouts = timeouts or Timeouts()
        self._tls, self._max_response, self._on_error = tls, max_response, on_error
        self._session: aiohttp.ClientSession | None = None
        self._leftovers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Upstream":
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._tls if self._tls else True, keepalive_timeout=15
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            # Compression saves little here, and decompressed data could exceed any limit.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": f"smg-proto/{__version__}", "accept-encoding": "identity"},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session
        for task in self._leftovers:
            task.cancel()
        await asyncio.gather(*self._leftovers, return_exceptions=True)
        await self._session.close()

    async def fetch(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a request and read its response."""
        limit = self.timeouts.request if timeout is None else timeout
        limits = aiohttp.ClientTimeout(total=limit, sock_connect=self.timeouts.connect)
        response = await self._send(method, path, body, headers or {}, limits)
        try:
            content = await self._read(response, self._max_response)
        finally:
            response.close()
        if content is None:
            raise unreadable(f"response: more than {self._max_response} bytes")
        return Response(response.status, response.headers, content)

    @asynccontextmanager
    async def stream(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator["Stream", None]:
        """Send a request and stream its events. Nothing is read before it is asked for."""
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=self.timeouts.connect, sock_read=self.timeouts.idle
        )
        response = await self._send("POST", path, body, headers or {}, limits)
        stream = Stream(response, self._max_response, self._failure)
        try:
            if response.content_type != "text/event-stream":
                raise unreadable(f"response to POST {path}: not an event stream")
            yield stream
        finally:
            if stream.finished and not response.content.is_eof():
                self._read_leftovers(response)
            else:
                response.close()

    @asynccontextmanager
    async def websocket(self, path: str, headers: Mapping[str, str]) -> AsyncGenerator[Any, None]:
        """Open a WebSocket. If the gateway rejects it, the error is that of any other request."""
        assert self._session, "open the upstream first"
        limits: Any = aiohttp.ClientWSTimeout  # an attrs class, which pyright cannot check here
        try:
            socket = await self._session.ws_connect(
                URL(self.url + path, encoded=True),
                headers=headers,
                timeout=limits(ws_close=5.0),
                max_msg_size=MAX_FRAME_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            self._on_error(str(error.status))
            raise from_response(error.status, error.headers or {}, b"", path) from None
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._failure(error, responded=False) from None
        try:
            yield socket
        finally:
            await socket.close()

    # --- Internals ---

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send a request. Returns a successful response, whose body is still to be read."""
        assert self._session, "open the upstream first"
        form = body if isinstance(body, aiohttp.FormData) else None
        text = (
            None if body is None or form else json.dumps(body, ensure_ascii=False, allow_nan=False)
        )
        data = form if form else None if text is None else text.encode()
        try:
            response = await self._session.request(
                method,
                URL(self.url + path, encoded=True),
                data=data,
                headers=headers
                if text is None
                else {**headers, "content-type": "application/json"},
                timeout=limits,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._failure(error, responded=False) from None
        plain = response.headers.get("content-encoding", "identity") == "identity"
        if plain and 200 <= response.status < 300:
            return response
        try:
            if 200 <= response.status < 300:
                self._on_error("garbled")
                raise unreadable("response: it is compressed")
            self._on_error(str(response.status))
            content = await self._read(response, MAX_ERROR_BYTES) if plain else None
            raise from_response(response.status, response.headers, content or b"", path)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes | None:
        """The body; None if it is larger than the limit."""
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > limit:
                    return None
                chunks.append(chunk)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._failure(error, responded=True) from None
        return b"".join(chunks)

    def _failure(self, error: Exception, *, responded: bool) -> SmgError:
        """The error of a request that failed without an HTTP status."""
        match error:
            case OSError(errno=errno.EMFILE | errno.ENFILE):
                kind, status = "descriptors", overloaded("out of file descriptors", _RETRY_AFTER)
            case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
                kind, status = "unreachable", unreachable("the gateway cannot be reached")
            case asyncio.TimeoutError():
                kind, status = "timeout", too_slow("the gateway did not respond in time")
            case _ if responded:
                kind, status = "cut", truncated("the gateway's response ended early")
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                kind, status = "unreachable", unreachable("the gateway does not respond")
            case _:
                kind, status = "garbled", unreadable("response")
        self._on_error(kind)
        return status

    def _read_leftovers(self, response: aiohttp.ClientResponse) -> None:
        """Read what follows the last event, so that the connection can be reused."""
        task = asyncio.create_task(_leftovers(response))
        self._leftovers.add(task)
        task.add_done_callback(self._leftovers.discard)


class Stream:
    """The events of one response. Events that arrive together are read together."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        limit: int,
        failure: Callable[..., SmgError],
    ) -> None:
        self.headers: Mapping[str, str] = response.headers
        self.finished = False
        self._content, self._failure = response.content, failure
        self._decoder = Decoder(limit)
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._content.on_eof(self._end)

    async def read(self) -> list[ServerSentEvent] | None:
        """The next events, at least one; None at the end of the response."""
        events: list[ServerSentEvent] = []
        while not events:
            try:
                chunk = await self._content.readany()
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                raise self._failure(error, responded=True) from None
            if not chunk:
                return None
            events = reading("event", self._decoder.feed, chunk)
        return events

    async def wait(self, seconds: float) -> bool:
        """Wait for more events to arrive. Returns early, with False, if the response ends."""
        if not self._ended:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return not self._ended

    def finish(self) -> None:
        """Mark the last event as read: the rest of the response is ignored."""
        self.finished = True

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> None:
        self._ended = True
        self._wake()


async def _leftovers(response: aiohttp.ClientResponse) -> None:
    """Read the rest of a response. On any error, only close the connection: nobody waits."""

    async def read() -> None:
        while await response.content.readany():
            pass

    try:
        with suppress(Exception):
            await asyncio.wait_for(read(), _LEFTOVERS_SECONDS)
    finally:
        response.close()
