"""The gateway's HTTP API, as bytes and events. What they mean is the mapping's business.

aiohttp, because a front door forwards many small pieces: measured over loopback it costs 15 µs of
processor time for each piece of a stream where httpx costs 100 (benchmarks/front_door.py has the
front door's own numbers).
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from smg_proto import __version__
from smg_proto._http import sse
from smg_proto._http.failures import from_answer, too_slow, truncated, unreachable, unreadable
from smg_proto.errors import SmgError


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
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise unreadable(what) from error


@dataclass(frozen=True)
class Stream:
    """A success, event by event: those that came together are given together."""

    headers: Mapping[str, str]
    events: AsyncIterator[list[sse.ServerSentEvent]]

    async def finish(self) -> None:
        """Read what follows the last event, so that the connection can serve again."""
        with suppress(asyncio.TimeoutError, SmgError, aiohttp.ClientError):
            await asyncio.wait_for(_exhaust(self.events), timeout=0.5)


class Upstream:
    """A pool of connections to one gateway. Open it with `async with`.

    Every failure is an `SmgError`. A request that is left, for whatever reason, is closed at once:
    its connection goes with it, which is how the gateway knows to abort the work. `on_error` is
    called with each failure's kind: timeout, unreachable, cut, or the HTTP status.
    """

    def __init__(
        self,
        url: str,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        max_answer: int = 256 << 20,
        on_error: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.url: str = url.rstrip("/")
        self.timeouts: Timeouts = timeouts or Timeouts()
        self._tls, self._max_answer, self._on_error = tls, max_answer, on_error
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Upstream":
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._tls if self._tls else True, keepalive_timeout=15
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": f"smg-proto/{__version__}"},
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
        async with self._open(method, path, body, headers or {}, total=limit) as response:
            content = await self._read(response)
            return Answer(response.status, _headers(response), content)

    @asynccontextmanager
    async def listen(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Stream, None]:
        """The events of a stream. Nothing is read ahead of the one who takes them."""
        idle = self.timeouts.idle
        async with self._open("POST", path, body, headers or {}, idle=idle) as response:
            if response.content_type != "text/event-stream":
                raise unreadable(f"the answer to POST {path}")
            yield Stream(_headers(response), self._events(response))

    async def _events(
        self, response: aiohttp.ClientResponse
    ) -> AsyncIterator[list[sse.ServerSentEvent]]:
        decoder = sse.Decoder(self._max_answer)
        try:
            async for piece in response.content.iter_any():
                yield list(decoder.feed(piece))
        except sse.TooLong as error:
            raise unreadable("an event") from error

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        body: Any,
        headers: Mapping[str, str],
        total: float | None = None,
        idle: float | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        assert self._session, "open the upstream first"
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        sent = {**headers, "content-type": "application/json"} if data is not None else headers
        limits = aiohttp.ClientTimeout(
            total=total, sock_connect=self.timeouts.connect, sock_read=idle
        )
        began = False
        try:
            response = await self._session.request(
                method,
                URL(self.url + path, encoded=True),
                data=data,
                headers=sent,
                timeout=limits,
                allow_redirects=False,
            )
            try:
                began = True
                if not 200 <= response.status < 300:
                    self._on_error(str(response.status))
                    body_said = await self._read(response)
                    raise from_answer(response.status, _headers(response), body_said, path)
                yield response
            finally:
                response.close()
        except aiohttp.ConnectionTimeoutError as error:
            self._on_error("unreachable")
            raise unreachable("the gateway cannot be reached") from error
        except asyncio.TimeoutError as error:
            self._on_error("timeout")
            raise too_slow("the gateway did not answer in time") from error
        except aiohttp.ClientError as error:
            if began:
                self._on_error("cut")
                raise truncated("the gateway's answer stopped before its end") from error
            self._on_error("unreachable")
            raise unreachable("the gateway does not answer") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > self._max_answer:
                raise unreadable(f"an answer of more than {self._max_answer} bytes")
            pieces.append(piece)
        response.release()
        return b"".join(pieces)


async def _exhaust(events: AsyncIterator[list[sse.ServerSentEvent]]) -> None:
    async for _ in events:
        pass


def _headers(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    return response.headers
