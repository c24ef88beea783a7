"""ResponseService and ConversationService: what the gateway stores."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading, truncated
from smg_proto._http.fields import read_whole, write_request
from smg_proto._http.mapping import conversation, response
from smg_proto._http.shapes import as_object
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.frontdoor._calls import Call, inner_path, path_of, read_answer
from smg_proto.frontdoor._routes import Streaming, Unary, relay

_FINAL = (
    smg.RESPONSE_STATUS_COMPLETED,
    smg.RESPONSE_STATUS_INCOMPLETE,
    smg.RESPONSE_STATUS_FAILED,
    smg.RESPONSE_STATUS_CANCELLED,
)
# Seconds between two looks at a response that is watched: short at first, longer for a long one.
_FIRST_LOOK, _LONGEST_LOOK = 0.1, 2.0

# --- Responses ---


async def create_response(call: Call, request: smg.CreateResponseRequest) -> smg.Response:
    body = write_request(response.REQUEST, request)

    async def create() -> smg.Response:
        return read_answer(
            response.REPLY, await call.ask("POST", "/v1/responses", body), "/v1/responses"
        )

    found: smg.Response = await call.once(request.idempotency_key, create)
    return found


async def stream_response(
    call: Call, request: smg.CreateResponseRequest
) -> AsyncGenerator[smg.ResponseEvent, None]:
    """A stream that stops may have been cancelled: the stored response tells."""
    if request.idempotency_key:
        why = "is not supported by streams; use CreateResponse with background"
        raise invalid(FieldViolation("idempotency_key", why))
    body = write_request(response.REQUEST, request) | {"stream": True}
    reader = response.ResponseEvents()
    try:
        async with aclosing(relay(call, "/v1/responses", body, reader)) as events:
            async for event in events:
                yield event
    except SmgError as error:
        if error.reason != "STREAM_TRUNCATED" or not reader.id:
            raise
        end = await _end_if_cancelled(call, reader)
        if end is None:
            raise truncated(error.message, response_id=reader.id) from None
        yield end


async def _end_if_cancelled(
    call: Call, reader: response.ResponseEvents
) -> smg.ResponseEvent | None:
    """The end of a stream whose response somebody has cancelled."""
    try:
        answer = await call.ask("GET", path_of("/v1/responses", reader.id))
        data = as_object(answer.json("the stored response"))
        if data.get("status") != "cancelled":
            return None
        end = reading("the stored response", reader.end_of, data)
    except SmgError:
        return None
    end.end.pipeline.CopyFrom(call.report())
    return end


async def get_response(call: Call, request: smg.GetResponseRequest) -> smg.Response:
    path = path_of("/v1/responses", request.id)
    return read_answer(response.REPLY, await call.ask("GET", path), path)


async def watch_response(
    call: Call, request: smg.WatchResponseRequest
) -> AsyncGenerator[smg.ResponseEvent, None]:
    """The items of a stored response as they become complete: the gateway replays no events."""
    get = smg.GetResponseRequest(id=request.id)
    found = await get_response(call, get)
    start = smg.Response(id=found.id, model=found.model, status=found.status)
    start.create_time.CopyFrom(found.create_time)
    yield smg.ResponseEvent(start=start)
    sent, pause = 0, _FIRST_LOOK
    while True:
        ended = found.status in _FINAL
        for item in found.output[sent:]:
            if not ended and item.status == smg.ITEM_STATUS_IN_PROGRESS:
                break
            begun = smg.ResponseItem(id=item.id, status=smg.ITEM_STATUS_IN_PROGRESS)
            yield smg.ResponseEvent(item_start=smg.ItemEvent(output_index=sent, item=begun))
            yield smg.ResponseEvent(item_end=smg.ItemEvent(output_index=sent, item=item))
            sent += 1
        if ended:
            break
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_LOOK)
        found = await get_response(call, get)
    end = smg.Response()
    end.CopyFrom(found)
    end.ClearField("output")
    end.pipeline.CopyFrom(call.report())
    yield smg.ResponseEvent(end=end)


async def cancel_response(call: Call, request: smg.CancelResponseRequest) -> smg.Response:
    path = path_of("/v1/responses", request.id, "/cancel")
    return read_answer(response.REPLY, await call.ask("POST", path), path)


async def delete_response(
    call: Call, request: smg.DeleteResponseRequest
) -> smg.DeleteResponseResponse:
    await call.ask("DELETE", path_of("/v1/responses", request.id))
    return smg.DeleteResponseResponse()


async def list_input_items(
    call: Call, request: smg.ListResponseInputItemsRequest
) -> smg.ListResponseInputItemsResponse:
    path = path_of("/v1/responses", request.id, "/input_items")
    found = read_answer(response.STORED_ITEMS, await call.ask("GET", f"{path}?order=asc"), path)
    items, following = page(found.items, request.page_size, request.page_token)
    return smg.ListResponseInputItemsResponse(items=items, next_page_token=following)


# --- Conversations ---

_CONVERSATIONS = "/v1/conversations"


async def create_conversation(
    call: Call, request: smg.CreateConversationRequest
) -> smg.Conversation:
    body = write_request(conversation.CREATE, request)
    answer = await call.ask("POST", _CONVERSATIONS, body)
    return read_answer(conversation.REPLY, answer, _CONVERSATIONS)


async def get_conversation(call: Call, request: smg.GetConversationRequest) -> smg.Conversation:
    path = path_of(_CONVERSATIONS, request.id)
    return read_answer(conversation.REPLY, await call.ask("GET", path), path)


async def update_conversation(
    call: Call, request: smg.UpdateConversationRequest
) -> smg.Conversation:
    path = path_of(_CONVERSATIONS, request.id)
    body = {"metadata": dict(request.metadata)}
    return read_answer(conversation.REPLY, await call.ask("POST", path, body), path)


async def delete_conversation(
    call: Call, request: smg.DeleteConversationRequest
) -> smg.DeleteConversationResponse:
    await call.ask("DELETE", path_of(_CONVERSATIONS, request.id))
    return smg.DeleteConversationResponse()


async def list_items(
    call: Call, request: smg.ListConversationItemsRequest
) -> smg.ListConversationItemsResponse:
    """All pages of the gateway's own, as one list: its cursors are ids that may have gone."""
    path = path_of(_CONVERSATIONS, request.id, "/items")
    order = "desc" if request.newest_first else "asc"
    found: list[smg.ResponseItem] = []
    after = ""
    while True:
        answer = await call.ask("GET", f"{path}?order={order}&limit=100{after}")
        reply = read_answer(conversation.ITEMS, answer, path)
        found.extend(reply.items)
        more = as_object(answer.json(f"the answer to {path}")).get("has_more") is True
        last = reply.items[-1].id if reply.items else ""
        if not (more and last):
            break
        after = f"&after={last}"
    items, following = page(found, request.page_size, request.page_token)
    return smg.ListConversationItemsResponse(items=items, next_page_token=following)


async def create_items(
    call: Call, request: smg.CreateConversationItemsRequest
) -> smg.CreateConversationItemsResponse:
    path = path_of(_CONVERSATIONS, request.id, "/items")
    answer = await call.ask("POST", path, write_request(conversation.CREATE_ITEMS, request))
    return read_answer(conversation.CREATED_ITEMS, answer, path)


async def get_item(call: Call, request: smg.GetConversationItemRequest) -> smg.ResponseItem:
    path = path_of(_CONVERSATIONS, request.id, "/items")
    path = inner_path(path, "item_id", request.item_id)
    answer = await call.ask("GET", path)
    return read_whole(conversation.read_item, answer.json("the item"), "the item")


async def delete_item(call: Call, request: smg.DeleteConversationItemRequest) -> smg.Conversation:
    path = path_of(_CONVERSATIONS, request.id, "/items")
    path = inner_path(path, "item_id", request.item_id)
    return read_answer(conversation.REPLY, await call.ask("DELETE", path), path)


UNARY: dict[str, Unary] = {
    "ResponseService.CreateResponse": create_response,
    "ResponseService.GetResponse": get_response,
    "ResponseService.CancelResponse": cancel_response,
    "ResponseService.DeleteResponse": delete_response,
    "ResponseService.ListResponseInputItems": list_input_items,
    "ConversationService.CreateConversation": create_conversation,
    "ConversationService.GetConversation": get_conversation,
    "ConversationService.UpdateConversation": update_conversation,
    "ConversationService.DeleteConversation": delete_conversation,
    "ConversationService.ListConversationItems": list_items,
    "ConversationService.CreateConversationItems": create_items,
    "ConversationService.GetConversationItem": get_item,
    "ConversationService.DeleteConversationItem": delete_item,
}
STREAMS: dict[str, Streaming] = {
    "ResponseService.StreamResponse": stream_response,
    "ResponseService.WatchResponse": watch_response,
}
