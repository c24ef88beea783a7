"""AudioService, RealtimeService and DecisionService."""

from typing import Any, ClassVar

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_error_body
from smg_proto._http.fields import (
    Cursor,
    Known,
    Row,
    Table,
    count,
    json_text,
    leftover,
    nested,
    same,
    timestamp,
)
from smg_proto._http.mapping.common import RESPONSE_USAGE, unsent
from smg_proto._http.mapping.response import INPUT_PART
from smg_proto._http.mapping.streams import FAILED, Extras, Place, StreamReader, object_of
from smg_proto._http.shapes import JsonObject, as_object, to_text
from smg_proto._http.sse import ServerSentEvent

# --- Transcription: a form, not JSON ---


TRANSCRIBE_REQUEST = Table(
    smg.TranscribeRequest,
    same("model", "language", "prompt", "temperature")
    | {
        # These are in the form's file, not in its fields.
        "audio": Row("", unsent, members=("file",)),
        "media_type": Row("", unsent),
        "file_name": Row("", unsent),
        "timestamp_granularities": Row("timestamp_granularities"),
    },
    required=["model", "audio"],
)


def usage(data: Any) -> Any:
    """The tokens used; None if the worker counts seconds instead."""
    return RESPONSE_USAGE.read(data) if data.get("type") != "duration" else None


_SEGMENT = Table(
    smg.TranscriptionSegment,
    {"text": "text", "start_seconds": "start", "end_seconds": "end"},
)
_WORD = Table(
    smg.TranscriptionSegment,
    {"text": "word", "start_seconds": "start", "end_seconds": "end"},
)
_REST = {
    "language": Row("language"),
    "duration_seconds": Row("duration", read=float),
    "segments": nested("segments", _SEGMENT),
    "words": nested("words", _WORD),
    "usage": Row("usage", read=usage),
}
_KNOWN: Known = dict.fromkeys(["text", *_REST, "duration", "task", "type"])
TRANSCRIPTION = Table(smg.Transcription, same("text") | _REST, expected=["text"], known=_KNOWN)
_END = Table(smg.Transcription, _REST)


class TranscriptionEvents(StreamReader[smg.TranscriptionEvent]):
    """Reads the stream of a transcription."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = self._has_text = False
        self._extras = Extras()

    def _text_delta(self, place: Place, field: str, text: str) -> smg.TranscriptionEvent:
        return smg.TranscriptionEvent(delta=smg.TranscriptionDelta(text=text))

    KNOWN: ClassVar[Known] = {**_KNOWN, "delta": None}

    def _event(self, event: ServerSentEvent) -> None:
        if event.data.startswith(b"[DONE]"):
            return
        data = object_of(event)
        if data.get("error"):
            raise from_error_body(data, FAILED)
        if not self._begun:
            self._begun = True
            self._emit(smg.TranscriptionEvent(start=smg.Transcription()))
        self._extras.add(leftover(data, self.KNOWN))
        match data.get("type"):
            case "transcript.text.delta":
                self._emit_text(0, "text", data["delta"])
                self._has_text = True
            case "transcript.text.done":
                if not self._has_text:  # a worker that sends the text at once
                    self._emit_text(0, "text", data.get("text") or "")
                end = _END.read(data)
                end.extra_json = self._extras.text()
                self._emit(smg.TranscriptionEvent(end=end))
                self.done = True
            case _:
                pass


# --- Realtime ---


def session_settings(*, inner: str) -> dict[str, Row]:
    """The model and the settings of a session: at the top level, or in an object `inner`."""
    return {
        "model": Row(f"{inner}model"),
        "session_json": json_text(inner.removesuffix(".")),
    }


REALTIME_SESSION = Table(
    smg.CreateRealtimeSessionRequest,
    session_settings(inner=""),
    required=["model"],
    always={"type": "realtime"},
)
TRANSCRIPTION_SESSION = Table(
    smg.CreateTranscriptionSessionRequest,
    session_settings(inner=""),
    required=["model"],
    always={"type": "transcription"},
)
CLIENT_SECRET = Table(
    smg.CreateClientSecretRequest,
    session_settings(inner="session."),
    required=["model"],
    always={"session": {"type": "realtime"}},
)


def read_session(data: Any) -> smg.RealtimeSession:
    """A session and its key, which is in one of two places."""
    secret = as_object(data.get("client_secret")) or data
    session = as_object(data.get("session")) or data
    settings = {
        name: value
        for name, value in session.items()
        if name not in ("client_secret", "value", "expires_at")
    }
    return smg.RealtimeSession(
        id=session.get("id") or "",
        client_secret=secret["value"],
        expire_time=timestamp(secret.get("expires_at")),
        session_json=to_text(settings),
    )


# --- Decisions ---


def decision_part(value: Any, cursor: Cursor) -> Any:
    kind = value.WhichOneof("part")
    if kind not in ("text", "image", None):
        cursor.field(kind).reject()
        return None
    return INPUT_PART.write(value, cursor)


def option(value: Any, cursor: Cursor, label: str) -> JsonObject:
    if not value.value:
        cursor.field("value").reject("is required")
    described = {"description": value.description} if value.description else {}
    return {label: value.value} | described


def question(value: Any, cursor: Cursor) -> JsonObject:
    """One question, with the choices or levels of its kind."""
    out: JsonObject = {"instructions": value.instructions}
    if value.name:
        out["name"] = value.name
    if not value.instructions:
        cursor.field("instructions").reject("is required")
    match value.WhichOneof("kind"):
        case "predicate":
            return out | {"type": "predicate"}
        case "choice":
            here = cursor.field("choice").field("options")
            choices = [
                option(each, here.item(number), "value")
                for number, each in enumerate(value.choice.options)
            ]
            return out | {"type": "choice", "choices": choices}
        case "score":
            here = cursor.field("score").field("levels")
            levels = [
                option(each, here.item(number), "label")
                for number, each in enumerate(value.score.levels)
            ]
            return out | {"type": "score", "levels": levels}
        case _:
            cursor.field("kind").reject("is required")
            return out


DECIDE_REQUEST = Table(
    smg.DecideRequest,
    same("model", "input")
    | {
        "parts": Row("input", decision_part),
        "questions": Row("questions", question),
        "user": Row("safety_identifier"),
    },
    required=["model", "input|parts", "questions"],
    either=[("input", "parts")],
)


def value_text(data: Any) -> str:
    """A value as text: it is a text, true or false."""
    return data if isinstance(data, str) else to_text(data)


def is_refusal(data: Any) -> bool:
    return bool(data == "refusal")


_PROBABILITY = Table(
    smg.DecisionProbability,
    {
        "value": Row("", read=lambda data: value_text(data.get("label", data.get("value")))),
        "probability": Row("probability"),
        "level": Row("", read=lambda data: count(data["value"]) if "label" in data else None),
    },
)
DECIDE_REPLY = Table(
    smg.DecideResponse,
    {
        "model": Row("model"),
        "answers": nested(
            "answers",
            Table(
                smg.DecisionAnswer,
                same("name", "probability", "score", "confidence")
                | {
                    "choice": Row("choice", read=value_text),
                    "probabilities": nested("probabilities", _PROBABILITY),
                    "refused": Row("type", read=is_refusal),
                },
            ),
        ),
        "usage": nested("usage", RESPONSE_USAGE),
    },
    expected=["answers"],
    known=dict.fromkeys(["model", "answers", "usage", "id", "object"]),
)
