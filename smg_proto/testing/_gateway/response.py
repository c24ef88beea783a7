"""smg.v1.ResponseService. Responses are stored in memory until they are deleted."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import grpc

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.streams import collect
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway import conversation as conversations
from smg_proto.testing._gateway.conversation_service import find, keep
from smg_proto.testing._gateway.core import (
    AbortOnError,
    Call,
    Context,
    Core,
    StoredConversation,
    combine,
    injected,
    not_found,
    set_now,
)
from smg_proto.testing._gateway.items import OutputItems, is_of_mcp, prompt_messages, user_message
from smg_proto.testing._gateway.output import Splitter
from smg_proto.testing._scripting import Answer, Injected, interrupted

_Job = asyncio.Task[None]
_FINAL = (
    pb.RESPONSE_STATUS_COMPLETED,
    pb.RESPONSE_STATUS_INCOMPLETE,
    pb.RESPONSE_STATUS_FAILED,
    pb.RESPONSE_STATUS_CANCELLED,
)


@dataclass
class _Stored:
    """A response and its input."""

    response: pb.Response
    input: list[pb.ResponseItem]
    history: list[pb.ResponseItem]  # of the conversation or the responses that it continues
    conversation: StoredConversation | None = None
    job: _Job | None = None
    events: list[pb.ResponseEvent] = field(default_factory=list[pb.ResponseEvent])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    error: SmgError | None = None

    def notify(self) -> None:
        """Wake up WatchResponse calls."""
        self.changed.set()
        self.changed = asyncio.Event()

    def fail(self, error: SmgError) -> None:
        self.response.status = pb.RESPONSE_STATUS_FAILED
        self.response.error.CopyFrom(pb.Failure(reason=error.reason, message=error.message))
        self.error = error


class ResponseService(smg_pb2_grpc.ResponseServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = conversations.Reader(core.media & {"image"})
        self._stored: dict[tuple[str, str], _Stored] = {}
        self._keys: dict[tuple[str, str], _Stored] = {}

    async def CreateResponse(
        self, request: pb.CreateResponseRequest, context: Context
    ) -> pb.Response:
        call = await self._core.begin("CreateResponse", request, context)
        async with AbortOnError(context):
            if first := self._first(request, call):
                return _copy(first)
            stored = self._new(request, call)
            if request.background:
                self._start(request, call, stored)
                return _copy(stored)
            with self._core.counted():
                return combine([event async for event in self._run(request, call, stored)], collect)

    async def StreamResponse(
        self, request: pb.CreateResponseRequest, context: Context
    ) -> AsyncIterator[pb.ResponseEvent]:
        call = await self._core.begin("StreamResponse", request, context)
        async with AbortOnError(context):
            stored = self._new(request, call)
            if request.background:
                queue = self._start(request, call, stored)
                while (event := await queue.get()) is not None:
                    if isinstance(event, SmgError):
                        raise event
                    yield event
            else:
                with self._core.counted():
                    async for event in self._run(request, call, stored):
                        yield event

    async def GetResponse(self, request: pb.GetResponseRequest, context: Context) -> pb.Response:
        def answer(call: Call) -> pb.Response:
            return _copy(self._find(call.tenant, request.id))

        return await self._core.plain_with_call("GetResponse", request, context, answer)

    async def WatchResponse(
        self, request: pb.WatchResponseRequest, context: Context
    ) -> AsyncIterator[pb.ResponseEvent]:
        call = await self._core.begin("WatchResponse", request, context)
        async with AbortOnError(context):
            stored = self._find(call.tenant, request.id)
            sent = request.starting_after + 1 if request.HasField("starting_after") else 0
            while True:
                changed = stored.changed
                for event in stored.events[sent:]:
                    yield event
                sent = max(sent, len(stored.events))
                if stored.error is not None:
                    raise stored.error
                if stored.response.status in _FINAL:
                    break
                await changed.wait()
            if stored.response.status == pb.RESPONSE_STATUS_CANCELLED:
                yield pb.ResponseEvent(end=_without_output(stored.response))

    async def CancelResponse(
        self, request: pb.CancelResponseRequest, context: Context
    ) -> pb.Response:
        def answer(call: Call) -> pb.Response:
            stored = self._find(call.tenant, request.id)
            if stored.job is None or stored.job.done():
                raise SmgError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "the response is not running in the background",
                    reason="RESPONSE_NOT_CANCELLABLE",
                )
            stored.response.status = pb.RESPONSE_STATUS_CANCELLED
            stored.job.cancel()
            stored.notify()
            return _copy(stored)

        return await self._core.plain_with_call("CancelResponse", request, context, answer)

    async def DeleteResponse(
        self, request: pb.DeleteResponseRequest, context: Context
    ) -> pb.DeleteResponseResponse:
        def answer(call: Call) -> pb.DeleteResponseResponse:
            stored = self._find(call.tenant, request.id)
            if stored.job is not None:
                stored.job.cancel()
            del self._stored[call.tenant, request.id]
            return pb.DeleteResponseResponse()

        return await self._core.plain_with_call("DeleteResponse", request, context, answer)

    async def ListResponseInputItems(
        self, request: pb.ListResponseInputItemsRequest, context: Context
    ) -> pb.ListResponseInputItemsResponse:
        def answer(call: Call) -> pb.ListResponseInputItemsResponse:
            items = self._find(call.tenant, request.id).input
            entries, following = page(items, request.page_size, request.page_token)
            return pb.ListResponseInputItemsResponse(items=entries, next_page_token=following)

        return await self._core.plain_with_call("ListResponseInputItems", request, context, answer)

    def _first(self, request: pb.CreateResponseRequest, call: Call) -> _Stored | None:
        """The response to the tenant's first request with this key."""
        key = request.idempotency_key
        return self._keys.get((call.tenant, key)) if key else None

    def _find(self, tenant: str, ident: str) -> _Stored:
        if not ident:
            raise invalid(FieldViolation("id", "is required"))
        if (tenant, ident) not in self._stored:
            raise not_found("RESPONSE_NOT_FOUND", "no stored response has this id")
        return self._stored[tenant, ident]

    def _new(self, request: pb.CreateResponseRequest, call: Call) -> _Stored:
        """Check a request and create its response, without starting it."""
        items = request.items or [user_message(request.input)]
        name = "items" if request.items else "input"
        form = request.output_format.WhichOneof("format")
        checks.check(
            request,
            self._core.model,
            checks.missing(name, request.items or request.input),
            FieldViolation("items", "cannot be combined with input")
            if request.items and request.input
            else None,
            FieldViolation(f"output_format.{form}", "is not supported by this route")
            if form in ("regex", "grammar")
            else None,
        )
        history: list[pb.ResponseItem] = []
        if request.previous_response_id:
            before = self._find(call.tenant, request.previous_response_id)
            history = [*before.history, *before.input, *before.response.output]
            if any(map(is_of_mcp, history)):
                what = "has MCP items and cannot be continued"
                raise invalid(FieldViolation("previous_response_id", what))
        conversation: StoredConversation | None = None
        if request.conversation_id:
            conversation = find(self._core, call.tenant, request.conversation_id, "conversation_id")
            history = list(conversation.items)
        response = pb.Response(
            id=f"resp_{uuid.uuid4().hex}",
            model=request.model,
            status=pb.RESPONSE_STATUS_QUEUED,
            previous_response_id=request.previous_response_id,
            conversation_id=request.conversation_id,
            metadata=request.metadata,
            background=request.background,
        )
        set_now(response.create_time)
        stored = _Stored(response, list(items), history, conversation)
        self._conversation(request, stored)  # raises if an item is invalid
        if not request.HasField("store") or request.store:
            self._stored[call.tenant, response.id] = stored
        if request.idempotency_key:
            self._keys[call.tenant, request.idempotency_key] = stored
        return stored

    def _conversation(
        self, request: pb.CreateResponseRequest, stored: _Stored
    ) -> conversations.Conversation:
        reader = self._reader
        known = [item for item in stored.history if not is_of_mcp(item)]
        messages = [pair for item in known for pair in prompt_messages(item, "history", reader)]
        for index, item in enumerate(stored.input):
            messages += prompt_messages(item, f"items[{index}]", reader)
        if request.instructions:
            messages.insert(0, (pb.ROLE_SYSTEM, request.instructions))
        return conversations.Conversation(
            messages=messages,
            tools=conversations.functions(request.tools),
            mcp=[tool.mcp for tool in request.tools if tool.HasField("mcp")],
            choice=request.tool_choice,
            parallel=not request.HasField("parallel_tool_calls") or request.parallel_tool_calls,
            effort=request.reasoning_effort,
            output_format=request.output_format,
        )

    def _start(
        self, request: pb.CreateResponseRequest, call: Call, stored: _Stored
    ) -> "asyncio.Queue[pb.ResponseEvent | SmgError | None]":
        """Run in the background. The queue has the events, and None at the end."""
        queue: asyncio.Queue[pb.ResponseEvent | SmgError | None] = asyncio.Queue()

        async def work() -> None:
            try:
                with self._core.counted():
                    async for event in self._run(request, call, stored):
                        queue.put_nowait(event)
            except SmgError as error:
                queue.put_nowait(error)
            finally:
                if stored.response.status == pb.RESPONSE_STATUS_CANCELLED:
                    queue.put_nowait(pb.ResponseEvent(end=_without_output(stored.response)))
                queue.put_nowait(None)

        stored.job = asyncio.create_task(work())
        return queue

    async def _run(
        self, request: pb.CreateResponseRequest, call: Call, stored: _Stored
    ) -> AsyncGenerator[pb.ResponseEvent, None]:
        """The events, numbered. The stored response records the outcome."""
        try:
            async for event in interrupted(self._events(request, call, stored), call.fault):
                event.sequence_number = len(stored.events)
                stored.events.append(event)
                stored.notify()
                yield event
        except Injected as error:
            failure = injected(error.fault)
            stored.fail(failure)
            failure.metadata = {"response_id": stored.response.id}
            raise failure from None
        except SmgError as error:
            stored.fail(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if stored.response.status not in _FINAL:
                stored.response.status = pb.RESPONSE_STATUS_CANCELLED
            raise
        finally:
            stored.notify()

    async def _events(
        self, request: pb.CreateResponseRequest, call: Call, stored: _Stored
    ) -> AsyncGenerator[pb.ResponseEvent, None]:
        conversation = self._conversation(request, stored)
        prompt = conversation.prompt(self._core)
        self._core.check_length(prompt, "items" if request.items else "input")
        prefix, replacement = conversation.output(call.answer)
        sampling = checks.sampling(request, prefix=prefix, replacement=replacement)
        response = stored.response
        response.status = pb.RESPONSE_STATUS_IN_PROGRESS
        yield pb.ResponseEvent(start=_without_output(response))
        answer = call.answer or Answer()
        refuses = bool(answer.refusal)
        splitter = Splitter(reasoning=True, calls=conversation.may_call, refuses=refuses)
        items = OutputItems(
            response,
            prompt,
            only_one=not conversation.parallel,
            runs=conversation.runs(call.answer),
            max_runs=request.max_tool_calls if request.HasField("max_tool_calls") else None,
        )
        for server in conversation.mcp:
            for event in items.tools_of(server):
                yield event
        for found in answer.opaque:
            for event in items.opaque(found):
                yield event
        count = reasoning = 0
        cut = False
        async for _, piece in self._core.generate(call, prompt, sampling):
            count += 1
            parts = splitter.feed(piece.text)
            if piece.finish_reason:
                parts += splitter.finish()
                cut = piece.finish_reason == "length"
            for part in parts:
                if part.kind == "reasoning":
                    reasoning += len(self._core.model.tokenizer.encode(part.text))
                for event in items.take(part):
                    yield event
        for event in items.close(cut=cut):
            yield event
        response.status = pb.RESPONSE_STATUS_INCOMPLETE if cut else pb.RESPONSE_STATUS_COMPLETED
        called = any(item.HasField("tool_call") and not is_of_mcp(item) for item in response.output)
        response.finish_reason = "length" if cut else "tool_calls" if called else "stop"
        response.usage.CopyFrom(conversations.usage(len(prompt), count, reasoning))
        set_now(response.complete_time)
        if stored.conversation is not None:
            keep(stored.conversation, [*stored.input, *response.output])
        end = _without_output(response)
        end.pipeline.CopyFrom(call.report())
        end.pipeline.ClearField("worker_url")
        yield pb.ResponseEvent(end=end)


def _copy(stored: _Stored) -> pb.Response:
    """A copy of the response, which may change while the reply is sent."""
    copy = pb.Response()
    copy.CopyFrom(stored.response)
    return copy


def _without_output(response: pb.Response) -> pb.Response:
    copy = pb.Response()
    copy.CopyFrom(response)
    copy.ClearField("output")
    return copy
