"""The gateway's HTTP API, as bytes and events. What they mean is the mapping's business.

aiohttp, because a front door forwards many small pieces: measured over loopback it costs 15 µs of
processor time for each piece of a stream where httpx costs 100 (benchmarks/front_door.py has the
front door's own numbers).
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
    from_answer,
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

MAX_ANSWER_BYTES = 256 << 20
MAX_ERROR_BYTES = 1 << 20
MAX_FRAME_BYTES = 16 << 20
# How long what follows the last event of a stream is waited for, to keep the connection.
_LEFTOVERS_SECONDS = 0.5
_RETRY_AFTER = timedelta(seconds=1)


@dataclass(frozen=True)
class Timeouts:
    """In seconds. A client's own deadline ends a request earlier, whatever they say."""

    connect: float = 5.0
    # The whole of a request that is not a stream.
    request: float = 600.0
    # Between two pieces of a stream.
    idle: float = 300.0


@dataclass(frozen=True)
class Answer:
    """A success, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, what: str) -> Any:
        return reading(what, self._json)

    def _json(self) -> Any:
        return parse(self.body.decode("utf-8-sig"))


class Upstream:
    """A pool of connections to one gateway. Open it with `async with`.

    Every failure is an `SmgError`. A request that is left, for whatever reason, is closed at once:
    its connection goes with it, which is how the gateway knows to abort the work. `on_error` is
    called with each failure's kind: timeout, unreachable, cut, garbled, descriptors, or the HTTP
    status.
    """

    def __init__(
        self,
        url: str,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        max_answer: int = MAX_ANSWER_BYTES,
        on_error: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.url: str = url.rstrip("/")
        self.timeouts: Timeouts = timeouts or Timeouts()
        self._tls, self._max_answer, self._on_error = tls, max_answer, on_error
        self._session: aiohttp.ClientSession | None = None
        self._leftovers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Upstream":
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._tls if self._tls else True, keepalive_timeout=15
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            # The hop is short, and what is inflated here could be larger than any limit.
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

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """The answer to one request."""
        limit = self.timeouts.request if timeout is None else timeout
        limits = aiohttp.ClientTimeout(total=limit, sock_connect=self.timeouts.connect)
        response = await self._send(method, path, body, headers or {}, limits)
        try:
            content = await self._read(response, self._max_answer)
        finally:
            response.close()
        if content is None:
            raise unreadable(f"an answer of more than {self._max_answer} bytes")
        return Answer(response.status, response.headers, content)

    @asynccontextmanager
    async def listen(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator["Stream", None]:
        """The events of a stream. Nothing is read ahead of the one who takes them."""
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=self.timeouts.connect, sock_read=self.timeouts.idle
        )
        response = await self._send("POST", path, body, headers or {}, limits)
        stream = Stream(response, self._max_answer, self._failure)
        try:
            if response.content_type != "text/event-stream":
                raise unreadable(f"the answer to POST {path}")
            yield stream
        finally:
            if stream.finished and not response.content.is_eof():
                self._read_leftovers(response)
            else:
                response.close()

    @asynccontextmanager
    async def converse(self, path: str, headers: Mapping[str, str]) -> AsyncGenerator[Any, None]:
        """A WebSocket of aiohttp. A gateway that refuses it answers as it does to any request."""
        assert self._session, "open the upstream first"
        limits: Any = aiohttp.ClientWSTimeout  # a class of attrs, which pyright does not know here
        try:
            socket = await self._session.ws_connect(
                URL(self.url + path, encoded=True),
                headers=headers,
                timeout=limits(ws_close=5.0),
                max_msg_size=MAX_FRAME_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            self._on_error(str(error.status))
            raise from_answer(error.status, error.headers or {}, b"", path) from None
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._failure(error, answered=False) from None
        try:
            yield socket
        finally:
            await socket.close()

    # --- Inside ---

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """A response that is a success, whose body has not been read."""
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
            raise self._failure(error, answered=False) from None
        plain = response.headers.get("content-encoding", "identity") == "identity"
        if plain and 200 <= response.status < 300:
            return response
        try:
            if 200 <= response.status < 300:
                self._on_error("garbled")
                raise unreadable("an encoded answer")
            self._on_error(str(response.status))
            report = await self._read(response, MAX_ERROR_BYTES) if plain else None
            raise from_answer(response.status, response.headers, report or b"", path)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse, most: int) -> bytes | None:
        """The whole body; None if it is larger."""
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > most:
                    return None
                pieces.append(piece)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._failure(error, answered=True) from None
        return b"".join(pieces)

    def _failure(self, error: Exception, *, answered: bool) -> SmgError:
        """The status of a request that failed on the way."""
        match error:
            case OSError(errno=errno.EMFILE | errno.ENFILE):
                kind, status = "descriptors", overloaded("out of file descriptors", _RETRY_AFTER)
            case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
                kind, status = "unreachable", unreachable("the gateway cannot be reached")
            case asyncio.TimeoutError():
                kind, status = "timeout", too_slow("the gateway did not answer in time")
            case _ if answered:
                kind, status = "cut", truncated("the gateway's answer stopped before its end")
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                kind, status = "unreachable", unreachable("the gateway does not answer")
            case _:
                kind, status = "garbled", unreadable("the answer")
        self._on_error(kind)
        return status

    def _read_leftovers(self, response: aiohttp.ClientResponse) -> None:
        """Read what follows the last event, so that the connection can serve again."""
        task = asyncio.create_task(_leftovers(response))
        self._leftovers.add(task)
        task.add_done_callback(self._leftovers.discard)


class Stream:
    """The events of one answer: those that came together are read together."""

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
        self._resting: asyncio.Future[None] | None = None
        self._content.on_eof(self._end)

    async def read(self) -> list[ServerSentEvent] | None:
        """The next events, at least one; None at the end of the answer."""
        events: list[ServerSentEvent] = []
        while not events:
            try:
                piece = await self._content.readany()
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                raise self._failure(error, answered=True) from None
            if not piece:
                return None
            events = reading("an event", self._decoder.feed, piece)
        return events

    async def rest(self, seconds: float) -> bool:
        """Let more events arrive, for some time. False: it ended earlier, with the last of them."""
        if not self._ended:
            loop = asyncio.get_running_loop()
            self._resting = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._resting
            finally:
                timer.cancel()
                self._resting = None
        return not self._ended

    def finish(self) -> None:
        """The last event has been read. What follows it is of no interest, and holds nobody up."""
        self.finished = True

    def _wake(self) -> None:
        if self._resting and not self._resting.done():
            self._resting.set_result(None)

    def _end(self) -> None:
        self._ended = True
        self._wake()


async def _leftovers(response: aiohttp.ClientResponse) -> None:
    """Nobody waits for it, so it fails in silence; then the connection is closed."""

    async def read() -> None:
        while await response.content.readany():
            pass

    try:
        with suppress(Exception):
            await asyncio.wait_for(read(), _LEFTOVERS_SECONDS)
    finally:
        response.close()
