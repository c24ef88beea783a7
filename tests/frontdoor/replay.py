"""An upstream that says what it is told to: whole answers, or pieces of a stream, at a pace."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from aiohttp import WSMsgType, web

from smg_proto.frontdoor import FrontDoor, Options

EXCHANGES = {
    exchange["name"]: exchange
    for exchange in map(
        json.loads,
        Path(__file__).with_name("exchanges.jsonl").read_text(encoding="utf-8").splitlines(),
    )
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Sent:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Upstream:
    url: str = ""
    sent: list[Sent] = field(default_factory=list)
    # Whether a front door is about to ask for the version, which is nothing to note.
    probe: bool = False
    # Requests whose connection the front door closed before the answer was over.
    dropped: int = 0
    # What /readiness says: `readiness`, or 200 or 503 by `ready`.
    ready: bool = True
    readiness: Handler | None = None
    _handlers: list[Handler] = field(default_factory=list)

    def say(self, handler: Handler) -> None:
        """Use this for the next request; several wait in line, the last one stays."""
        self._handlers.append(handler)

    def answer(self, status: int = 200, body: object = None, **headers: str) -> None:
        async def handler(_: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if isinstance(body, str | bytes):
                raw = body.encode() if isinstance(body, str) else body
                return web.Response(status=status, body=raw, headers=named)
            return web.json_response(body, status=status, headers=named)

        self.say(handler)

    def stream(
        self, *pieces: bytes | float | asyncio.Event, cut: bool = False, **headers: str
    ) -> None:
        """Send pieces as they are; a number is a pause, an event is waited for.

        `cut` breaks the connection at the end.
        """

        async def handler(request: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            response = web.StreamResponse(headers={"content-type": "text/event-stream"} | named)
            await response.prepare(request)
            for piece in pieces:
                if isinstance(piece, bytes):
                    await response.write(piece)
                elif isinstance(piece, asyncio.Event):
                    await piece.wait()
                else:
                    await asyncio.sleep(piece)
            if cut:
                assert request.transport
                request.transport.abort()
            return response

        self.say(handler)

    def converse(self, *frames: object) -> None:
        """Open a WebSocket, hear the client out, then send these and close it."""

        async def handler(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            sent = self.sent[-1]
            sent.body = []
            while True:
                frame = await socket.receive()
                if frame.type is not WSMsgType.TEXT:
                    break
                sent.body.append(json.loads(frame.data))
                if sent.body[-1]["type"] == "response.create":
                    for output in frames:
                        await socket.send_json(output)
                    break
            await socket.close()
            return socket

        self.say(handler)

    def replay(self, name: str) -> None:
        """One of the recorded exchanges."""
        response = EXCHANGES[name]["response"]
        headers = {
            key.replace("-", "_"): value
            for key, value in response.get("headers", {}).items()
            if key not in ("content-type", "content-length")
        }
        if "events" in response:
            self.stream(*map(sse, response["events"]), **headers)
        else:
            self.answer(response["status"], response["body"], **headers)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await _body_of(request)
        path = request.path_qs
        if path == "/readiness":
            if self.readiness:
                return await self.readiness(request)
            return web.json_response({}, status=200 if self.ready else 503)
        if self.probe and path == "/loads":
            self.probe = False
            return web.json_response({})
        self.sent.append(Sent(request.method, path, dict(request.headers), body))
        if not self._handlers:
            return web.json_response({"error": {"message": "nothing to say"}}, status=404)
        handler = self._handlers.pop(0) if len(self._handlers) > 1 else self._handlers[0]
        try:
            return await handler(request)
        except (ConnectionError, asyncio.CancelledError):
            self.dropped += 1
            raise

    def forget(self) -> None:
        self.sent.clear()
        self._handlers.clear()


async def _body_of(request: web.Request) -> Any:
    """The JSON, or the fields of a form; of a file what it is."""
    if request.content_type != "multipart/form-data":
        raw = await request.read()
        return json.loads(raw) if raw else None
    form: dict[str, Any] = {}
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            content = value.file.read().decode()
            form[name] = [value.filename, value.content_type, content]
        else:
            form[name] = value
    return form


def sse(event: list[Any]) -> bytes:
    """An event as bytes: [name or None, data]."""
    name, data = event
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    output = Upstream()
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", r"/{path:[\s\S]*}", output._serve)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    output.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield output
    finally:
        await runner.cleanup()


@asynccontextmanager
async def front_door(output: Upstream, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a front door before it."""
    settings = Options(upstream=output.url, listen="127.0.0.1:0", wait=None, **options)
    async with (
        FrontDoor(settings) as door,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{door.port}", options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        output.forget()  # the look at the start
        yield channel
