"""smg.v1.CompletionService."""

from collections.abc import AsyncGenerator, AsyncIterator

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.errors import FieldViolation
from smg_proto.streams import collect
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.conversation import usage
from smg_proto.testing._gateway.core import Call, Context, Core, matched_stop, set_now
from smg_proto.testing._generation import Step, score


class CompletionService(smg_pb2_grpc.CompletionServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core

    async def Complete(
        self, request: pb.CompletionRequest, context: Context
    ) -> pb.CompletionResponse:
        return await self._core.unary(
            "Complete", request, context, self._events, lambda e: collect(e)
        )

    async def StreamComplete(
        self, request: pb.CompletionRequest, context: Context
    ) -> AsyncIterator[pb.CompletionEvent]:
        async for event in self._core.stream("StreamComplete", request, context, self._events):
            yield event

    async def _events(
        self, request: pb.CompletionRequest, call: Call
    ) -> AsyncGenerator[pb.CompletionEvent, None]:
        prompts = self._prompts(request)
        replacement = checks.formatted(request.output_format)
        if call.answer is not None:
            replacement = call.answer.written()
        sampling = checks.sampling(request, replacement=replacement)
        by_ids = request.HasField("prompt_token_ids")
        start = pb.CompletionResponse(id=call.request_id, model=request.model)
        if not by_ids:
            set_now(start.create_time)
        yield pb.CompletionEvent(start=start)
        n = request.n or 1
        choices: list[pb.CompletionChoice] = []
        several = n > 1 or bool(request.prompts)
        count = 0
        for number, prompt in enumerate(prompts):
            if request.echo:
                for index in range(number * n, number * n + n):
                    yield pb.CompletionEvent(delta=self._echo(request, prompt, index))
            async for choice, piece in self._core.generate(call, prompt, sampling, n):
                count += 1
                index = number * n + choice
                delta = pb.CompletionDelta(text=piece.text)
                if request.HasField("logprobs"):
                    delta.logprobs.extend(self._core.logprobs(piece.shown, with_bytes=False))
                if by_ids or request.return_token_ids:
                    delta.token_ids.append(piece.step.token)
                if delta.ByteSize():
                    delta.index = index
                    yield pb.CompletionEvent(delta=delta)
                if piece.finish_reason:
                    ended = pb.CompletionChoice(
                        index=index,
                        finish_reason=(call.answer and call.answer.finish_reason)
                        or piece.finish_reason,
                        matched_stop=matched_stop(piece.matched),
                    )
                    choices.append(ended)
                    if several:
                        yield pb.CompletionEvent(choice_end=ended)
        choices.sort(key=lambda choice: choice.index)
        tokens = sum(map(len, prompts))
        end = pb.CompletionResponse(
            id=call.request_id,
            model=request.model,
            create_time=start.create_time if not by_ids else None,
            finish_reason=choices[0].finish_reason,
            matched_stop=choices[0].matched_stop if choices[0].HasField("matched_stop") else None,
            prompt_tokens=tokens,
            completion_tokens=count,
            usage=usage(tokens, count),
            choices=choices if several else (),
            pipeline=call.report(),
        )
        yield pb.CompletionEvent(end=end)

    def _prompts(self, request: pb.CompletionRequest) -> list[list[int]]:
        """The prompts as token ids, checked."""
        given = {
            "prompt": bool(request.prompt),
            "prompt_token_ids": request.HasField("prompt_token_ids"),
            "prompts": bool(request.prompts),
        }
        named = [name for name, is_set in given.items() if is_set] or ["prompt"]
        encode = self._core.model.tokenizer.encode
        found: dict[str, list[int]] = {}
        if given["prompts"]:
            for index, prompt in enumerate(request.prompts):
                ids = prompt.HasField("token_ids")
                found[f"prompts[{index}]"] = (
                    list(prompt.token_ids.ids) if ids else encode(prompt.text)
                )
        elif given["prompt_token_ids"]:
            found["prompt_token_ids"] = list(request.prompt_token_ids.ids)
        else:
            found["prompt"] = encode(request.prompt)
        size = self._core.model.tokenizer.vocab_size
        conflicts = [
            FieldViolation(name, "cannot be combined with prompt_token_ids")
            for name, is_set in (
                ("logprobs", request.HasField("logprobs")),
                ("echo", request.echo),
                ("user", request.user),
            )
            if given["prompt_token_ids"] and is_set
        ]
        checks.check(
            request,
            self._core.model,
            *(FieldViolation(name, f"cannot be combined with {named[0]}") for name in named[1:]),
            *(checks.missing(field, prompt) for field, prompt in found.items()),
            *(
                FieldViolation(field, "has an id outside the vocabulary")
                for field, prompt in found.items()
                if any(token >= size for token in prompt)
            ),
            *conflicts,
            limits={"n": 128},
        )
        for field, tokens in found.items():
            self._core.check_length(tokens, field)
        return list(found.values())

    def _echo(
        self, request: pb.CompletionRequest, prompt: list[int], index: int
    ) -> pb.CompletionDelta:
        delta = pb.CompletionDelta(text=self._core.model.tokenizer.decode(prompt), index=index)
        if request.HasField("logprobs"):
            steps = [Step(prompt[0], 0.0), *score(self._core.model, prompt, request.logprobs)]
            delta.logprobs.extend(self._core.logprobs(steps, with_bytes=False))
            delta.logprobs[0].ClearField("logprob")
        return delta
