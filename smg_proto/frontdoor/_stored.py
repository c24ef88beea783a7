"""ResponseService and ConversationService, whose data the gateway stores."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading, truncated
from smg_proto._http.fields import read_reply_with, write_request
from smg_proto._http.mapping import conversation, response
from smg_proto._http.shapes import as_object
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, SmgError, invalid
from smg_proto.frontdoor._calls import Call, inner_path, path_of, read_response
from smg_proto.frontdoor._routes import Streaming, Unary, relay

_FINAL = (
    smg.RESPONSE_STATUS_COMPLETED,
    smg.RESPONSE_STATUS_INCOMPLETE,
    smg.RESPONSE_STATUS_FAILED,
    smg.RESPONSE_STATUS_CANCELLED,
)
# Seconds between two reads of a response that is watched: short at first, then longer.
_MIN_WATCH_SECONDS, _MAX_WATCH_SECONDS = 0.1, 2.0

# --- Responses ---


async def create_response(call: Call, request: smg.CreateResponseRequest) -> smg.Response:
    body = write_request(response.REQUEST, request)

    async def create() -> smg.Response:
        return read_response(
            response.REPLY, await call.fetch("POST", "/v1/responses", body), "/v1/responses"
        )

    reply: smg.Response = await call.once(request.idempotency_key, create)
    return reply


async def stream_response(
    call: Call, request: smg.CreateResponseRequest
) -> AsyncGenerator[smg.ResponseEvent, None]:
    """Stream a response. If the stream ends early, look up whether the response was cancelled."""
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
    """The end event of a stream whose response was cancelled; None if it was not."""
    try:
        received = await call.fetch("GET", path_of("/v1/responses", reader.id))
        data = as_object(received.json("stored response"))
        if data.get("status") != "cancelled":
            return None
        end = reading("stored response", reader.end_of, data)
    except SmgError:
        return None
    end.end.pipeline.CopyFrom(call.report())
    return end


async def get_response(call: Call, request: smg.GetResponseRequest) -> smg.Response:
    path = path_of("/v1/responses", request.id)
    return read_response(response.REPLY, await call.fetch("GET", path), path)


async def watch_response(
    call: Call, request: smg.WatchResponseRequest
) -> AsyncGenerator[smg.ResponseEvent, None]:
    """The items of a stored response as they complete. The gateway does not replay events."""
    get = smg.GetResponseRequest(id=request.id)
    stored = await get_response(call, get)
    start = smg.Response(id=stored.id, model=stored.model, status=stored.status)
    start.create_time.CopyFrom(stored.create_time)
    yield smg.ResponseEvent(start=start)
    sent, pause = 0, _MIN_WATCH_SECONDS
    while True:
        ended = stored.status in _FINAL
        for item in stored.output[sent:]:
            if not ended and item.status == smg.ITEM_STATUS_IN_PROGRESS:
                break
            started = smg.ResponseItem(id=item.id, status=smg.ITEM_STATUS_IN_PROGRESS)
            yield smg.ResponseEvent(item_start=smg.ItemEvent(output_index=sent, item=started))
            yield smg.ResponseEvent(item_end=smg.ItemEvent(output_index=sent, item=item))
            sent += 1
        if ended:
            break
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _MAX_WATCH_SECONDS)
        stored = await get_response(call, get)
    end = smg.Response()
    end.CopyFrom(stored)
    end.ClearField("output")
    end.pipeline.CopyFrom(call.report())
    yield smg.ResponseEvent(end=end)


async def cancel_response(call: Call, request: smg.CancelResponseRequest) -> smg.Response:
    path = path_of("/v1/responses", request.id, "/cancel")
    return read_response(response.REPLY, await call.fetch("POST", path), path)


async def delete_response(
    call: Call, request: smg.DeleteResponseRequest
) -> smg.DeleteResponseResponse:
    await call.fetch("DELETE", path_of("/v1/responses", request.id))
    return smg.DeleteResponseResponse()


async def list_input_items(
    call: Call, request: smg.ListResponseInputItemsRequest
) -> smg.ListResponseInputItemsResponse:
    path = path_of("/v1/responses", request.id, "/input_items")
    listed = read_response(
        response.STORED_ITEMS, await call.fetch("GET", f"{path}?order=asc"), path
    )
    items, next_token = page(listed.items, request.page_size, request.page_token)
    return smg.ListResponseInputItemsResponse(items=items, next_page_token=next_token)


# --- Conversations ---

_CONVERSATIONS = "/v1/conversations"


async def create_conversation(
    call: Call, request: smg.CreateConversationRequest
) -> smg.Conversation:
    body = write_request(conversation.CREATE, request)
    received = await call.fetch("POST", _CONVERSATIONS, body)
    return read_response(conversation.REPLY, received, _CONVERSATIONS)


async def get_conversation(call: Call, request: smg.GetConversationRequest) -> smg.Conversation:
    path = path_of(_CONVERSATIONS, request.id)
    return read_response(conversation.REPLY, await call.fetch("GET", path), path)


async def update_conversation(
    call: Call, request: smg.UpdateConversationRequest
) -> smg.Conversation:
    path = path_of(_CONVERSATIONS, request.id)
    body = {"metadata": dict(request.metadata)}
    return read_response(conversation.REPLY, await call.fetch("POST", path, body), path)


async def delete_conversation(
    call: Call, request: smg.DeleteConversationRequest
) -> smg.DeleteConversationResponse:
    await call.fetch("DELETE", path_of(_CONVERSATIONS, request.id))
    return smg.DeleteConversationResponse()


async def list_items(
    call: Call, request: smg.ListConversationItemsRequest
) -> smg.ListConversationItemsResponse:
    """Read all of the gateway's pages first: its cursors are item ids, which may be deleted."""
    path = path_of(_CONVERSATIONS, request.id, "/items")
    order = "desc" if request.newest_first else "asc"
    every: list[smg.ResponseItem] = []
    after = ""
    while True:
        received = await call.fetch("GET", f"{path}?order={order}&limit=100{after}")
        reply = read_response(conversation.ITEMS, received, path)
        every.extend(reply.items)
        more = as_object(received.json(f"response to {path}")).get("has_more") is True
        last = reply.items[-1].id if reply.items else ""
        if not (more and last):
            break
        after = f"&after={last}"
    items, next_token = page(every, request.page_size, request.page_token)
    return smg.ListConversationItemsResponse(items=items, next_page_token=next_token)


async def create_items(
    call: Call, request: smg.CreateConversationItemsRequest
) -> smg.CreateConversationItemsResponse:
    path = path_of(_CONVERSATIONS, request.id, "/items")
    received = await call.fetch("POST", path, write_request(conversation.CREATE_ITEMS, request))
    return read_response(conversation.CREATED_ITEMS, received, path)


async def get_item(call: Call, request: smg.GetConversationItemRequest) -> smg.ResponseItem:
    path = path_of(_CONVERSATIONS, request.id, "/items")
    path = inner_path(path, "item_id", request.item_id)
    received = await call.fetch("GET", path)
    return read_reply_with(conversation.read_item, received.json("item"), "item")


async def delete_item(call: Call, request: smg.DeleteConversationItemRequest) -> smg.Conversation:
    path = path_of(_CONVERSATIONS, request.id, "/items")
    path = inner_path(path, "item_id", request.item_id)
    return read_response(conversation.REPLY, await call.fetch("DELETE", path), path)


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
