"""AudioService, RealtimeService and DecisionService."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, contextmanager
from typing import Any
from urllib.parse import quote

import aiohttp

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading, truncated, unreadable
from smg_proto._http.fields import (
    Cursor,
    Table,
    object_of_text,
    read_reply,
    read_reply_with,
    write_request,
)
from smg_proto._http.mapping import media
from smg_proto._http.shapes import JsonObject, is_object, parse, to_text
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.frontdoor._calls import Call, read_response
from smg_proto.frontdoor._routes import Streaming, Unary, relay

_TRANSCRIPTIONS = "/v1/audio/transcriptions"

# --- Transcription ---


def transcription_form(request: smg.TranscribeRequest, *, stream: bool) -> aiohttp.FormData:
    fields = write_request(media.TRANSCRIBE_REQUEST, request)
    form = aiohttp.FormData()
    form.add_field(
        "file",
        request.audio,
        filename=request.file_name or "audio",
        content_type=request.media_type or "application/octet-stream",
    )
    granularities = fields.pop("timestamp_granularities", [])
    for name in granularities:
        form.add_field("timestamp_granularities[]", name)
    for name, value in fields.items():
        form.add_field(name, value if isinstance(value, str) else to_text(value))
    if granularities and "response_format" not in fields:
        form.add_field("response_format", "verbose_json")
    form.add_field("stream", to_text(stream))
    return form


async def transcribe(call: Call, request: smg.TranscribeRequest) -> smg.Transcription:
    form = transcription_form(request, stream=False)
    with _audio_at_fault():
        response = await call.fetch("POST", _TRANSCRIPTIONS, form)
    return read_response(media.TRANSCRIPTION, response, _TRANSCRIPTIONS)


@contextmanager
def _audio_at_fault() -> Generator[None, None, None]:
    """Names the audio if a request is too large: no other field can be."""
    try:
        yield
    except SmgError as error:
        if error.reason == "REQUEST_TOO_LARGE":
            why = "is larger than the gateway accepts"
            error.field_violations = (FieldViolation("audio", why),)
        raise


async def stream_transcribe(
    call: Call, request: smg.TranscribeRequest
) -> AsyncGenerator[smg.TranscriptionEvent, None]:
    form: Any = transcription_form(request, stream=True)
    with _audio_at_fault():
        reader = media.TranscriptionEvents()
        async with aclosing(relay(call, _TRANSCRIPTIONS, form, reader)) as events:
            async for event in events:
                yield event


# --- Realtime ---


def create_session(path: str, table: Table[Any]) -> Unary:
    async def run(call: Call, request: Any) -> smg.RealtimeSession:
        body = write_request(table, request)
        data = (await call.fetch("POST", path, body)).json(f"response to {path}")
        return read_reply_with(media.read_session, data, f"response to {path}")

    return run


async def converse(
    call: Call, requests: AsyncIterator[smg.RealtimeClientEvent]
) -> AsyncGenerator[smg.RealtimeServerEvent, None]:
    """Relay the events of both sides until one of them ends the session."""
    first = await anext(requests, None)
    if first is None or not first.HasField("connect"):
        raise invalid(FieldViolation("connect", "must be the first event"))
    if not first.connect.model:
        raise invalid(FieldViolation("connect.model", "is required"))
    path = f"/v1/realtime?model={quote(first.connect.model, safe='')}"
    async with call.websocket(path) as socket:
        sending = asyncio.create_task(_send(requests, socket))
        try:
            while (frame := await _receive(socket, sending)) is not None:
                call.got_token()
                yield reading("event", _server_event, frame)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send(requests: AsyncIterator[smg.RealtimeClientEvent], socket: Any) -> None:
    """Send the client's events, then close the session."""
    number = 1
    async for event in requests:
        await socket.send_str(to_text(_client_event(event, number)))
        number += 1
    await socket.close()


async def _receive(socket: Any, sending: "asyncio.Task[None]") -> str | None:
    """The gateway's next event; None at the normal end of the session."""
    receiving = asyncio.ensure_future(socket.receive())
    try:
        waiting = {receiving} if sending.done() else {receiving, sending}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and not sending.cancelled() and (error := sending.exception()):
            raise error
        frame = await receiving
    finally:
        receiving.cancel()
    match frame.type:
        case aiohttp.WSMsgType.TEXT:
            text: str = frame.data
            return text
        case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
            if socket.close_code in (1000, 1001, 1005, None):
                return None
            raise truncated(f"the gateway closed the session with code {socket.close_code}")
        case aiohttp.WSMsgType.BINARY:
            raise unreadable("event: it is binary")
        case _:
            raise truncated("the session ended unexpectedly")


def _client_event(event: smg.RealtimeClientEvent, number: int) -> JsonObject:
    where = f"event[{number}]"
    match event.WhichOneof("event"):
        case "audio":
            audio = base64.b64encode(event.audio).decode()
            return {"type": "input_audio_buffer.append", "audio": audio}
        case "event_json":
            cursor = Cursor([], f"{where}.event_json")
            data: JsonObject = object_of_text(event.event_json, cursor)
            if not cursor.violations and not isinstance(data.get("type"), str):
                cursor.reject("must have a type")
            if cursor.violations:
                raise invalid(*cursor.violations)
            return data
        case "connect":
            raise invalid(FieldViolation(f"{where}.connect", "can only be the first event"))
        case _:
            raise invalid(FieldViolation(where, "is empty"))


def _server_event(text: str) -> smg.RealtimeServerEvent:
    data = parse(text)
    if not (is_object(data) and isinstance(data.get("type"), str)):
        raise TypeError("not an event")
    event = smg.RealtimeServerEvent(type=data["type"])
    if data["type"].endswith("audio.delta") and isinstance(data.get("delta"), str):
        event.audio = base64.b64decode(data.pop("delta"), validate=True)
    event.event_json = to_text(data)
    return event


# --- Decisions ---


async def decide(call: Call, request: smg.DecideRequest) -> smg.DecideResponse:
    body = write_request(media.DECIDE_REQUEST, request)
    if request.parts:
        body["input"] = [{"type": "message", "role": "user", "content": body["input"]}]
    data = (await call.fetch("POST", "/v1/decisions", body)).json("response to /v1/decisions")
    return read_reply(media.DECIDE_REPLY, data, "response to /v1/decisions")


UNARY: dict[str, Unary] = {
    "AudioService.Transcribe": transcribe,
    "RealtimeService.CreateRealtimeSession": create_session(
        "/v1/realtime/sessions", media.REALTIME_SESSION
    ),
    "RealtimeService.CreateTranscriptionSession": create_session(
        "/v1/realtime/transcription_sessions", media.TRANSCRIPTION_SESSION
    ),
    "RealtimeService.CreateClientSecret": create_session(
        "/v1/realtime/client_secrets", media.CLIENT_SECRET
    ),
    "DecisionService.Decide": decide,
}
STREAMS: dict[str, Streaming] = {"AudioService.StreamTranscribe": stream_transcribe}
