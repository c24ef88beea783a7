"""smg.v1.MessageService."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.errors import FieldViolation, invalid
from smg_proto.streams import collect
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway import conversation as conversations
from smg_proto.testing._gateway.core import PARSER, Call, Context, Core, matched_stop
from smg_proto.testing._gateway.output import Kind, Part, Splitter
from smg_proto.testing._scripting import Answer


class MessageService(smg_pb2_grpc.MessageServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = conversations.Reader(core.media & {"image"}, detail=False)

    async def CreateMessage(
        self, request: pb.CreateMessageRequest, context: Context
    ) -> pb.MessageResponse:
        return await self._core.unary(
            "CreateMessage", request, context, self._events, lambda e: collect(e)
        )

    async def StreamMessage(
        self, request: pb.CreateMessageRequest, context: Context
    ) -> AsyncIterator[pb.MessageEvent]:
        async for event in self._core.stream("StreamMessage", request, context, self._events):
            yield event

    async def CountMessageTokens(
        self, request: pb.CreateMessageRequest, context: Context
    ) -> pb.CountMessageTokensResponse:
        def count(request: pb.CreateMessageRequest) -> pb.CountMessageTokensResponse:
            prompt = self._conversation(request, counting=True).prompt(self._core)
            return pb.CountMessageTokensResponse(prompt_tokens=len(prompt))

        return await self._core.plain("CountMessageTokens", request, context, count)

    async def _events(
        self, request: pb.CreateMessageRequest, call: Call
    ) -> AsyncGenerator[pb.MessageEvent, None]:
        conversation = self._conversation(request)
        prompt = conversation.prompt(self._core)
        self._core.check_length(prompt, "turns")
        prefix, replacement = conversation.output(call.answer)
        sampling = checks.sampling(request, prefix=prefix, replacement=replacement)
        yield pb.MessageEvent(start=pb.MessageResponse(id=call.request_id, model=request.model))
        splitter = Splitter(reasoning=conversation.thinks, calls=conversation.may_call)
        blocks = _Blocks(prompt, only_one=not conversation.parallel)
        answer = call.answer or Answer()
        for found in answer.opaque:
            for event in blocks.complete(pb.MessageBlock(opaque=found)):
                yield event
        count = reasoning = 0
        reason, matched = "", None
        async for _, piece in self._core.generate(call, prompt, sampling):
            count += 1
            parts = splitter.feed(piece.text)
            if piece.finish_reason:
                parts += splitter.finish()
                reason, matched = piece.finish_reason, piece.matched
            for part in parts:
                if part.kind == "reasoning":
                    reasoning += len(self._core.model.tokenizer.encode(part.text))
                for event in blocks.take(part):
                    yield event
        for event in blocks.close():
            yield event
        if matched is None:
            reason = answer.finish_reason or ("refusal" if answer.refusal else reason)
            reason = "tool_calls" if blocks.calls else reason
        yield pb.MessageEvent(
            end=pb.MessageResponse(
                id=call.request_id,
                model=request.model,
                finish_reason=reason,
                usage=conversations.usage(len(prompt), count, reasoning),
                matched_stop=matched_stop(matched),
                pipeline=call.report(parser=PARSER),
            )
        )

    def _conversation(
        self, request: pb.CreateMessageRequest, *, counting: bool = False
    ) -> conversations.Conversation:
        checks.check(
            request,
            self._core.model,
            checks.missing("turns", request.turns),
            None if counting else checks.missing("max_tokens", request.HasField("max_tokens")),
            checks.no_mcp(list(request.tools)),
            FieldViolation("temperature", "must be from 0 to 1")
            if 1 < request.temperature <= 2
            else None,
            FieldViolation("top_k", "must be at least 1") if request.top_k == -1 else None,
        )
        messages = [
            item
            for index, turn in enumerate(request.turns)
            for item in self._messages(turn, f"turns[{index}]")
        ]
        if request.system:
            messages.insert(0, (pb.ROLE_SYSTEM, request.system))
        return conversations.Conversation(
            messages=messages,
            tools=conversations.functions(request.tools),
            choice=request.tool_choice,
            parallel=not request.HasField("parallel_tool_calls") or request.parallel_tool_calls,
            effort=request.reasoning_effort,
        )

    def _messages(self, turn: pb.Turn, at: str) -> Iterator[tuple[pb.Role.ValueType, str]]:
        """A turn as messages of the prompt. Tool results come before other content."""
        if turn.role not in (pb.ROLE_USER, pb.ROLE_ASSISTANT):
            raise invalid(FieldViolation(f"{at}.role", "must be ROLE_USER or ROLE_ASSISTANT"))
        from_assistant = turn.role == pb.ROLE_ASSISTANT
        text = ""
        for index, block in enumerate(turn.blocks):
            where = f"{at}.blocks[{index}]"
            match block.WhichOneof("block"):
                case "text":
                    text += block.text
                case "tool_call" if from_assistant:
                    text += conversations.text_of_call(block.tool_call, f"{where}.tool_call")
                case "reasoning" if from_assistant:
                    pass  # the prompt omits reasoning of earlier turns
                case "opaque":
                    pass  # the model ignores it
                case "tool_result" if not from_assistant:
                    result = block.tool_result
                    yield pb.ROLE_TOOL, self._reader.text_of_result(result, f"{where}.tool_result")
                case "image" if not from_assistant:
                    text += self._reader.text_of_media("image", block.image, f"{where}.image")
                case None:
                    raise invalid(FieldViolation(where, "is empty"))
                case kind:
                    raise invalid(FieldViolation(f"{where}.{kind}", "is not for this role"))
        if text or not turn.blocks:
            yield turn.role, text


class _Blocks:
    """Turns parts of the output into events of blocks."""

    def __init__(self, prompt: list[int], *, only_one: bool) -> None:
        self._prompt = prompt
        self._only_one = only_one
        self._index = -1
        self._kind: Kind | None = None
        self.calls = 0

    def take(self, part: Part) -> Iterator[pb.MessageEvent]:
        match part.kind:
            case "text" | "refusal":
                yield from self._open("text", pb.MessageBlock(text=""))
                yield self._delta(pb.MessageDelta(text=part.text))
            case "reasoning":
                yield from self._open("reasoning", pb.MessageBlock(reasoning=pb.Reasoning()))
                yield self._delta(pb.MessageDelta(reasoning=part.text))
            case "call":
                if self.calls and self._only_one:
                    return
                ident = conversations.call_id("toolu", self._prompt, 0, self.calls)
                self.calls += 1
                yield from self.close()  # each call has its own block
                call = pb.ToolCall(id=ident, name=part.name)
                yield from self._open("call", pb.MessageBlock(tool_call=call))
                for text in conversations.pieces(part.text):
                    yield self._delta(pb.MessageDelta(arguments=text))

    def _open(self, kind: Kind, block: pb.MessageBlock) -> Iterator[pb.MessageEvent]:
        if self._kind != kind:
            yield from self.close()
            self._kind, self._index = kind, self._index + 1
            yield pb.MessageEvent(block_start=pb.BlockStart(index=self._index, block=block))

    def complete(self, block: pb.MessageBlock) -> Iterator[pb.MessageEvent]:
        """A block without deltas."""
        self._index += 1
        yield pb.MessageEvent(block_start=pb.BlockStart(index=self._index, block=block))
        yield pb.MessageEvent(block_end=pb.BlockEnd(index=self._index))

    def close(self) -> Iterator[pb.MessageEvent]:
        """The end of the open block, if any."""
        if self._kind is not None:
            self._kind = None
            yield pb.MessageEvent(block_end=pb.BlockEnd(index=self._index))

    def _delta(self, delta: pb.MessageDelta) -> pb.MessageEvent:
        delta.index = self._index
        return pb.MessageEvent(delta=delta)
