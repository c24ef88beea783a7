"""smg.v1.ChatService."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.errors import FieldViolation, invalid
from smg_proto.streams import collect
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway import conversation as conversations
from smg_proto.testing._gateway.core import PARSER, Call, Context, Core, matched_stop, set_now
from smg_proto.testing._gateway.output import Part, Splitter
from smg_proto.testing._scripting import Answer


class ChatService(smg_pb2_grpc.ChatServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = conversations.Reader(core.media)

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        return await self._core.unary("Chat", request, context, self._events, collect)

    async def StreamChat(
        self, request: pb.ChatRequest, context: Context
    ) -> AsyncIterator[pb.ChatEvent]:
        async for event in self._core.stream("StreamChat", request, context, self._events):
            yield event

    async def _events(
        self, request: pb.ChatRequest, call: Call
    ) -> AsyncGenerator[pb.ChatEvent, None]:
        conversation = self._conversation(request)
        prompt = conversation.prompt(self._core)
        self._core.check_length(prompt, "messages")
        prefix, replacement = conversation.output(call.answer)
        sampling = checks.sampling(request, prefix=prefix, replacement=replacement)
        start = pb.ChatResponse(id=call.request_id, model=request.model)
        set_now(start.create_time)
        yield pb.ChatEvent(start=start)
        answer = call.answer or Answer()
        choices = [
            _Choice(self._core, request, conversation, prompt, index, answer)
            for index in range(request.n or 1)
        ]
        async for index, piece in self._core.generate(call, prompt, sampling, len(choices)):
            choice = choices[index]
            for delta in choice.take(piece.text, last=bool(piece.finish_reason)):
                if request.HasField("logprobs") and delta is choice.first:
                    delta.logprobs.extend(self._core.logprobs(piece.shown, with_bytes=True))
                if request.return_token_ids and delta is choice.first:
                    delta.token_ids.append(piece.step.token)
                if len(delta.ListFields()) > (delta.index != 0):
                    yield pb.ChatEvent(delta=delta)
            if piece.finish_reason:
                reason = answer.finish_reason or piece.finish_reason
                choice.end.finish_reason = "tool_calls" if choice.calls else reason
                choice.end.matched_stop.CopyFrom(matched_stop(piece.matched) or pb.MatchedStop())
                if piece.matched is None:
                    choice.end.ClearField("matched_stop")
                yield pb.ChatEvent(choice_end=choice.end)
        end = pb.ChatResponse(
            choices=[choice.end for choice in choices], pipeline=call.report(parser=PARSER)
        )
        end.MergeFrom(start)
        if request.return_token_ids:
            end.prompt_token_ids.extend(prompt)
        end.usage.CopyFrom(
            conversations.usage(
                len(prompt),
                sum(choice.tokens for choice in choices),
                sum(choice.reasoning for choice in choices),
            )
        )
        yield pb.ChatEvent(end=end)

    def _conversation(self, request: pb.ChatRequest) -> conversations.Conversation:
        continues = request.continue_final_message
        last_is_not_assistant = (
            not request.messages or request.messages[-1].role != pb.ROLE_ASSISTANT
        )
        checks.check(
            request,
            self._core.model,
            checks.missing("messages", request.messages),
            checks.no_mcp(list(request.tools)),
            FieldViolation("continue_final_message", "needs a last message of ROLE_ASSISTANT")
            if continues and last_is_not_assistant
            else None,
            FieldViolation("chat_template_kwargs_json", "must be a JSON object")
            if request.chat_template_kwargs_json
            and not checks.is_json_object(request.chat_template_kwargs_json)
            else None,
        )
        return conversations.Conversation(
            messages=[
                (message.role, self._prompt_text(message, f"messages[{index}]"))
                for index, message in enumerate(request.messages)
            ],
            tools=conversations.functions(request.tools),
            choice=request.tool_choice,
            parallel=not request.HasField("parallel_tool_calls") or request.parallel_tool_calls,
            effort=request.reasoning_effort,
            output_format=request.output_format,
            open_turn=continues,
        )

    def _prompt_text(self, message: pb.ChatMessage, at: str) -> str:
        """A message as text of the prompt, without the reasoning of earlier turns."""
        if message.role not in pb.Role.values() or message.role == pb.ROLE_UNSPECIFIED:
            raise invalid(FieldViolation(f"{at}.role", "is required"))
        if message.role == pb.ROLE_TOOL and not message.tool_call_id:
            raise invalid(FieldViolation(f"{at}.tool_call_id", "is required"))
        if message.role != pb.ROLE_TOOL and message.tool_call_id:
            raise invalid(FieldViolation(f"{at}.tool_call_id", "is for ROLE_TOOL only"))
        for n, part in enumerate(message.parts):
            if part.HasField("image") and message.role == pb.ROLE_ASSISTANT:
                raise invalid(FieldViolation(f"{at}.parts[{n}].image", "is not for this role"))
        text = self._reader.text_of(message.content, message.parts, at)
        calls = (
            conversations.text_of_call(call, f"{at}.tool_calls[{n}]")
            for n, call in enumerate(message.tool_calls)
        )
        return text + "".join(calls)


class _Choice:
    """One choice: the deltas of each piece, and the end of the choice."""

    def __init__(
        self,
        core: Core,
        request: pb.ChatRequest,
        conversation: conversations.Conversation,
        prompt: list[int],
        index: int,
        answer: Answer,
    ) -> None:
        separate = not request.HasField("separate_reasoning") or request.separate_reasoning
        refuses = bool(answer.refusal)
        self._splitter = Splitter(reasoning=separate, calls=conversation.may_call, refuses=refuses)
        self._opaque = answer.opaque
        self._text = ""  # sent at the end with the opaque parts, which deltas cannot carry
        self._only_one = not conversation.parallel
        self._prompt = prompt
        self._core = core
        self.end = pb.ChatChoice(index=index)
        self.first: pb.ChatDelta | None = None
        self.calls = 0
        self.tokens = 0
        self.reasoning = 0

    def take(self, text: str, *, last: bool) -> Iterator[pb.ChatDelta]:
        """The deltas of one token. The first of them takes its log probabilities."""
        self.tokens += 1
        parts = self._splitter.feed(text)
        if last:
            parts += self._splitter.finish()
        self.first = pb.ChatDelta(index=self.end.index)
        calls: list[pb.ToolCallDelta] = []
        for part in parts:
            match part.kind:
                case "text" if self._opaque:
                    self._text += part.text
                case "text":
                    self.first.content += part.text
                case "refusal":
                    self.first.refusal += part.text
                case "reasoning":
                    self.first.reasoning_content += part.text
                    self.reasoning += len(self._core.model.tokenizer.encode(part.text))
                case "call":
                    calls += self._call(part)
        if last and self._opaque:
            self.end.message.role = pb.ROLE_ASSISTANT
            texts = [pb.ContentPart(text=self._text)] if self._text else []
            self.end.message.parts.extend(texts)
            self.end.message.parts.extend(
                pb.ContentPart(opaque=content) for content in self._opaque
            )
        yield self.first
        for call in calls:
            yield pb.ChatDelta(index=self.end.index, tool_calls=[call])

    def _call(self, part: Part) -> list[pb.ToolCallDelta]:
        if self.calls and self._only_one:
            return []
        number, self.calls = self.calls, self.calls + 1
        ident = conversations.call_id("call", self._prompt, self.end.index, number)
        pieces = [
            pb.ToolCallDelta(index=number, id=ident, name=part.name),
            *(
                pb.ToolCallDelta(index=number, arguments=text)
                for text in conversations.pieces(part.text)
            ),
        ]
        pieces[-1].complete = True
        return pieces
