"""smg.v1.AudioService, RealtimeService, DecisionService and EngineService, with fixed replies.

The built-in model has no audio and makes no decisions. A script sets the text of a transcription or
a session: `script.add(Answer("so"), rpc="Transcribe")`.
"""

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from smg_proto import __version__, smg_pb2_grpc
from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.conversation import usage
from smg_proto.testing._gateway.core import AbortOnError, Call, Context, Core, set_now

_TRANSCRIPT = "hello world"


class AudioService(smg_pb2_grpc.AudioServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Transcribe(self, request: pb.TranscribeRequest, context: Context) -> pb.Transcription:
        return await self._core.unary("Transcribe", request, context, self._events, _fold)

    async def StreamTranscribe(
        self, request: pb.TranscribeRequest, context: Context
    ) -> AsyncIterator[pb.TranscriptionEvent]:
        async for event in self._core.stream("StreamTranscribe", request, context, self._events):
            yield event

    async def _events(
        self, request: pb.TranscribeRequest, call: Call
    ) -> AsyncGenerator[pb.TranscriptionEvent, None]:
        checks.check(request, self._core.model, checks.missing("audio", request.audio))
        text = call.answer.text if call.answer else _TRANSCRIPT
        yield pb.TranscriptionEvent(start=pb.Transcription())
        for number, word in enumerate(text.split(" ")):
            piece = word if number == 0 else f" {word}"
            yield pb.TranscriptionEvent(delta=pb.TranscriptionDelta(text=piece))
        tokens = len(self._core.model.tokenizer.encode(text))
        end = pb.Transcription(usage=usage(len(request.audio), tokens), language=request.language)
        end.pipeline.CopyFrom(call.report())
        yield pb.TranscriptionEvent(end=end)


def _fold(events: Sequence[pb.TranscriptionEvent]) -> pb.Transcription:
    reply = pb.Transcription()
    for event in events:
        reply.text += event.delta.text
        reply.MergeFrom(event.end)
    return reply


class RealtimeService(smg_pb2_grpc.RealtimeServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Converse(
        self, request_iterator: AsyncIterator[pb.RealtimeClientEvent], context: Context
    ) -> AsyncIterator[pb.RealtimeServerEvent]:
        first = await anext(request_iterator, pb.RealtimeClientEvent())
        call = await self._core.begin("Converse", first, context)
        async with AbortOnError(context):
            if not first.connect.model:
                raise invalid(FieldViolation("connect.model", "is required"))
            checks.check_model(first.connect.model, self._core.model)
            yield _server_event(
                {"type": "session.created", "session": {"model": first.connect.model}}
            )
            async for event in request_iterator:
                if event.WhichOneof("event") != "event_json":
                    continue
                if not checks.is_json_object(event.event_json):
                    raise invalid(FieldViolation("event_json", "must be a JSON object"))
                if json.loads(event.event_json).get("type") == "response.create":
                    text = call.answer.text if call.answer else _TRANSCRIPT
                    yield _server_event({"type": "response.output_text.delta", "delta": text})
                    yield _server_event({"type": "response.done"})

    async def CreateRealtimeSession(
        self, request: pb.CreateRealtimeSessionRequest, context: Context
    ) -> pb.RealtimeSession:
        def answer(request: pb.CreateRealtimeSessionRequest) -> pb.RealtimeSession:
            return self._session(request.model, request.session_json)

        return await self._core.plain("CreateRealtimeSession", request, context, answer)

    async def CreateTranscriptionSession(
        self, request: pb.CreateTranscriptionSessionRequest, context: Context
    ) -> pb.RealtimeSession:
        def answer(request: pb.CreateTranscriptionSessionRequest) -> pb.RealtimeSession:
            return self._session(request.model, request.session_json)

        return await self._core.plain("CreateTranscriptionSession", request, context, answer)

    async def CreateClientSecret(
        self, request: pb.CreateClientSecretRequest, context: Context
    ) -> pb.RealtimeSession:
        def answer(request: pb.CreateClientSecretRequest) -> pb.RealtimeSession:
            return self._session(request.model, request.session_json)

        return await self._core.plain("CreateClientSecret", request, context, answer)

    def _session(self, model: str, session_json: str) -> pb.RealtimeSession:
        if not model:
            raise invalid(FieldViolation("model", "is required"))
        if session_json and not checks.is_json_object(session_json):
            raise invalid(FieldViolation("session_json", "must be a JSON object"))
        checks.check_model(model, self._core.model)
        settings: dict[str, Any] = json.loads(session_json) if session_json else {}
        session = pb.RealtimeSession(
            id=f"sess_{uuid.uuid4().hex}",
            client_secret=f"ek_{uuid.uuid4().hex}",
            session_json=json.dumps({"model": model, **settings}),
        )
        set_now(session.expire_time)
        session.expire_time.seconds += 60
        return session


def _server_event(event: dict[str, object]) -> pb.RealtimeServerEvent:
    return pb.RealtimeServerEvent(type=str(event["type"]), event_json=json.dumps(event))


class DecisionService(smg_pb2_grpc.DecisionServiceServicer):
    """Chooses the first answer to each question, with certainty."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def Decide(self, request: pb.DecideRequest, context: Context) -> pb.DecideResponse:
        return await self._core.plain("Decide", request, context, self._decide)

    def _decide(self, request: pb.DecideRequest) -> pb.DecideResponse:
        checks.check(
            request,
            self._core.model,
            checks.missing("input", request.input or request.parts),
            FieldViolation("parts", "cannot be combined with input")
            if request.input and request.parts
            else None,
            checks.missing("questions", request.questions),
        )
        reply = pb.DecideResponse(model=request.model, usage=usage(len(request.input.split()), 0))
        for index, question in enumerate(request.questions):
            reply.answers.append(_answer(question, f"questions[{index}]"))
        return reply


def _answer(question: pb.DecisionQuestion, at: str) -> pb.DecisionAnswer:
    answer = pb.DecisionAnswer(name=question.name)
    match question.WhichOneof("kind"):
        case "predicate":
            answer.probability = 1.0
        case "choice":
            _require(question.choice.options, f"{at}.choice.options")
            answer.choice, answer.confidence = question.choice.options[0].value, 1.0
            for number, option in enumerate(question.choice.options):
                answer.probabilities.add(value=option.value, probability=float(number == 0))
        case "score":
            _require(question.score.levels, f"{at}.score.levels")
            answer.score = 0.0
            for number, level in enumerate(question.score.levels):
                likely = float(number == 0)
                answer.probabilities.add(value=level.value, probability=likely, level=number)
        case None:
            raise invalid(FieldViolation(f"{at}.kind", "is required"))
    return answer


def _require(options: Sequence[pb.DecisionOption], at: str) -> None:
    if not options:
        raise invalid(FieldViolation(at, "is required"))


class EngineService(smg_pb2_grpc.EngineServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.ServerInfo:
        name = self._core.model.name
        info = json.dumps({"served_model_name": name, "version": __version__})
        reply = pb.ServerInfo(model=name, version=__version__, json=info)
        return await self._core.plain("GetServerInfo", request, context, lambda _: reply)

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.ModelInfo:
        name = self._core.model.name
        info = json.dumps({"model_path": name, "is_generation": True})
        reply = pb.ModelInfo(model_path=name, is_generation=True, json=info)
        return await self._core.plain("GetModelInfo", request, context, lambda _: reply)

    async def CheckGeneration(
        self, request: pb.CheckGenerationRequest, context: Context
    ) -> pb.CheckGenerationResponse:
        reply = pb.CheckGenerationResponse(message="OK")
        return await self._core.plain("CheckGeneration", request, context, lambda _: reply)

    async def GetEngineMetrics(
        self, request: pb.GetEngineMetricsRequest, context: Context
    ) -> pb.EngineMetrics:
        def answer(_: pb.GetEngineMetricsRequest) -> pb.EngineMetrics:
            counters = self._core.record.counters
            text = f"# TYPE requests_running gauge\nrequests_running {counters.running}\n"
            return pb.EngineMetrics(text=text)

        return await self._core.plain("GetEngineMetrics", request, context, answer)

    async def StartProfile(
        self, request: pb.StartProfileRequest, context: Context
    ) -> pb.ProfileResponse:
        reply = pb.ProfileResponse(message="profiling")
        return await self._core.plain("StartProfile", request, context, lambda _: reply)

    async def StopProfile(
        self, request: pb.StopProfileRequest, context: Context
    ) -> pb.ProfileResponse:
        reply = pb.ProfileResponse(message="stopped")
        return await self._core.plain("StopProfile", request, context, lambda _: reply)
