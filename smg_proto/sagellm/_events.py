"""Stream events: three kinds in one message, and a fourth for kinds of newer peers."""

from typing import Annotated, Any, Literal

from google.protobuf.message import Message
from pydantic import AliasChoices, Field

from smg_proto import sagellm_pb2 as pb
from smg_proto.sagellm._models import Error, FinishReason, Metrics
from smg_proto.sagellm._unknown import Unknown
from smg_proto.sagellm._wire import Wire, WireError, decode, encode, rest, unknown_numbers

# Packages of the protocol before 0.4.1.0 use other names for three fields.
_CONTENT = Field(validation_alias=AliasChoices("content", "chunk"))
_CONTENT_TOKENS = Field(validation_alias=AliasChoices("content_tokens", "chunk_tokens"))
_WHOLE_CONTENT = Field(validation_alias=AliasChoices("content", "output_text"))


class _Event(Wire[pb.StreamEvent]):
    """The ids are in StreamEvent itself, and the other fields in the member named by `event`."""

    def _encode(self, message: Any) -> None:
        encode(self, message)
        inner = getattr(message, self._kind())
        inner.SetInParent()
        encode(self, inner)

    @classmethod
    def _decode(cls, message: Any) -> dict[str, Any]:
        kind = message.WhichOneof("event")
        if kind != cls._kind():
            problem = f"has {kind}" if kind else "has no event that this release knows"
            raise WireError(f"{cls.__name__}.from_proto: the StreamEvent {problem}")
        values = decode(message)
        inner: dict[str, Any] = values.pop(kind)
        return values | inner

    def _keep_unknown(self, message: Any) -> None:
        inner = getattr(message, self._kind())
        if below := rest(inner):
            envelope = pb.StreamEvent()
            getattr(envelope, self._kind()).MergeFromString(below)
            below = envelope.SerializeToString()
        self._unknown = rest(message) + below
        self._keep_unknown_inside(inner)

    def _unknown_messages(self) -> list[Message]:
        if not self._unknown:
            return []
        envelope = pb.StreamEvent.FromString(self._unknown)
        return [envelope, getattr(envelope, self._kind())]

    @classmethod
    def _kind(cls) -> str:
        kind: str = cls.model_fields["event"].default
        return kind


class StreamEventStart(_Event):
    """First event: the engine has accepted the request."""

    event: Literal["start"] = "start"
    request_id: str
    trace_id: str
    engine_id: str
    prompt_tokens: int | None = None


class StreamEventDelta(_Event):
    """The next part of the output. `chunk` and `chunk_tokens` are accepted on input."""

    event: Literal["delta"] = "delta"
    request_id: str
    trace_id: str
    engine_id: str
    content: Annotated[str, _CONTENT]
    content_tokens: Annotated[list[int], _CONTENT_TOKENS]


class StreamEventEnd(_Event):
    """Last event: the complete output. `output_text` is accepted on input for `content`."""

    event: Literal["end"] = "end"
    request_id: str
    trace_id: str
    engine_id: str
    prompt_tokens: int | None = None
    content: Annotated[str, _WHOLE_CONTENT]
    output_tokens: list[int]
    finish_reason: FinishReason
    metrics: Metrics
    error: Error | None = None


class StreamEventUnknown(Wire[pb.StreamEvent]):
    """An event of a kind that only a newer peer knows. It is kept and written unchanged.

    `event` is unknown_N, where N is the field number of the kind in StreamEvent.
    """

    event: Unknown
    request_id: str
    trace_id: str
    engine_id: str

    @classmethod
    def _decode(cls, message: Any) -> dict[str, Any]:
        kinds = unknown_numbers(message, _MESSAGE)
        if not kinds:
            raise WireError("the StreamEvent has no event")
        return decode(message) | {"event": Unknown(kinds[-1])}


StreamEvent = Annotated[
    StreamEventStart | StreamEventDelta | StreamEventEnd, Field(discriminator="event")
]
AnyStreamEvent = StreamEventStart | StreamEventDelta | StreamEventEnd | StreamEventUnknown
StartEvent = StreamEventStart
DeltaEvent = StreamEventDelta
EndEvent = StreamEventEnd

_MESSAGE = 2  # the wire type of messages


def stream_event_from_proto(
    message: pb.StreamEvent, *, strict: bool = False, warn: bool = True
) -> AnyStreamEvent:
    """The model of the event; StreamEventUnknown for an unknown kind."""
    match message.WhichOneof("event"):
        case "start":
            return StreamEventStart.from_proto(message, strict=strict, warn=warn)
        case "delta":
            return StreamEventDelta.from_proto(message, strict=strict, warn=warn)
        case "end":
            return StreamEventEnd.from_proto(message, strict=strict, warn=warn)
        case _:
            return StreamEventUnknown.from_proto(message, strict=strict, warn=warn)
