"""smg.v1.CompletionService."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.errors import FieldViolation
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.core import Call, Context, Core, matched_stop, set_now
from smg_proto.testing._generation import Piece, Step, score


class CompletionService(smg_pb2_grpc.CompletionServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Complete(
        self, request: pb.CompletionRequest, context: Context
    ) -> pb.CompletionResponse:
        return await self._core.whole("Complete", request, context, self._events, _fold)

    async def StreamComplete(
        self, request: pb.CompletionRequest, context: Context
    ) -> AsyncIterator[pb.CompletionEvent]:
        async for event in self._core.stream("StreamComplete", request, context, self._events):
            yield event

    async def _events(
        self, request: pb.CompletionRequest, call: Call
    ) -> AsyncGenerator[pb.CompletionEvent, None]:
        prompt = self._prompt(request)
        whole = checks.formatted(request.output_format)
        if call.answer is not None:
            whole = call.answer.written()
        sampling = checks.sampling(request, whole=whole)
        with_ids = request.HasField("prompt_token_ids")
        start = pb.CompletionResponse(id=call.request_id, model=request.model)
        if not with_ids:
            set_now(start.create_time)
        yield pb.CompletionEvent(start=start)
        if request.echo:
            yield pb.CompletionEvent(delta=self._echo(request, prompt))
        count = 0
        last: Piece | None = None
        async for _, piece in self._core.generate(call, prompt, sampling):
            count, last = count + 1, piece
            delta = pb.CompletionDelta(text=piece.text)
            if request.HasField("logprobs"):
                delta.logprobs.extend(self._core.logprobs(piece.shown, with_bytes=False))
            if with_ids:
                delta.token_ids.append(piece.step.token)
            if delta.ByteSize():
                yield pb.CompletionEvent(delta=delta)
        assert last is not None
        yield pb.CompletionEvent(
            end=pb.CompletionResponse(
                id=call.request_id,
                model=request.model,
                create_time=start.create_time if not with_ids else None,
                finish_reason=(call.answer and call.answer.finish_reason) or last.finish_reason,
                prompt_tokens=len(prompt),
                completion_tokens=count,
                matched_stop=matched_stop(last.matched),
                pipeline=call.report(),
            )
        )

    def _prompt(self, request: pb.CompletionRequest) -> list[int]:
        with_ids = request.HasField("prompt_token_ids")
        field = "prompt_token_ids" if with_ids else "prompt"
        prompt = (
            list(request.prompt_token_ids.ids)
            if with_ids
            else self._core.model.tokenizer.encode(request.prompt)
        )
        known = all(token < self._core.model.tokenizer.vocab_size for token in prompt)
        refused = [
            FieldViolation(name, "cannot go with prompt_token_ids")
            for name, is_set in (
                ("logprobs", request.HasField("logprobs")),
                ("echo", request.echo),
                ("user", request.user),
            )
            if with_ids and is_set
        ]
        checks.check(
            request,
            self._core.model,
            checks.missing(field, prompt),
            None if known else FieldViolation(field, "has an id outside the vocabulary"),
            *refused,
        )
        self._core.check_length(prompt, field)
        return prompt

    def _echo(self, request: pb.CompletionRequest, prompt: list[int]) -> pb.CompletionDelta:
        delta = pb.CompletionDelta(text=request.prompt)
        if request.HasField("logprobs"):
            steps = [Step(prompt[0], 0.0), *score(self._core.model, prompt, request.logprobs)]
            delta.logprobs.extend(self._core.logprobs(steps, with_bytes=False))
            delta.logprobs[0].ClearField("logprob")
        return delta


def _fold(events: Sequence[pb.CompletionEvent]) -> pb.CompletionResponse:
    reply = pb.CompletionResponse()
    for event in events:
        match event.WhichOneof("event"):
            case "delta":
                reply.text += event.delta.text
                reply.logprobs.extend(event.delta.logprobs)
                reply.token_ids.extend(event.delta.token_ids)
            case "end":
                reply.MergeFrom(event.end)
            case _:
                pass
    reply.pipeline.ClearField("time_to_first_token")
    return reply
