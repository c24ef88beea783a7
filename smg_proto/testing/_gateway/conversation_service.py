"""smg.v1.ConversationService. Conversations are stored in memory until they are deleted."""

import uuid
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import Message

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway.conversation import Reader
from smg_proto.testing._gateway.core import (
    Call,
    Context,
    Core,
    StoredConversation,
    not_found,
    set_now,
)
from smg_proto.testing._gateway.items import prompt_messages

_Reply = TypeVar("_Reply", bound=Message)
_PREFIXES = {"message": "msg", "reasoning": "rs", "tool_call": "fc", "tool_result": "fco"}


class ConversationService(smg_pb2_grpc.ConversationServiceServicer):
    def __init__(self, core: Core) -> None:
        self._core = core
        self._reader = Reader(core.media & {"image"})

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.Conversation:
        def answer(call: Call) -> pb.Conversation:
            conversation = pb.Conversation(id=f"conv_{uuid.uuid4().hex}", metadata=request.metadata)
            set_now(conversation.create_time)
            stored = StoredConversation(conversation)
            self._add(stored, request.items)
            self._core.conversations[call.tenant, conversation.id] = stored
            return conversation

        return await self._core.plain_with_call("CreateConversation", request, context, answer)

    async def GetConversation(
        self, request: pb.GetConversationRequest, context: Context
    ) -> pb.Conversation:
        return await self._of(
            "GetConversation", request, context, lambda stored: stored.conversation
        )

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.Conversation:
        def answer(stored: StoredConversation) -> pb.Conversation:
            stored.conversation.metadata.clear()
            stored.conversation.metadata.update(request.metadata)
            return stored.conversation

        return await self._of("UpdateConversation", request, context, answer)

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        def answer(call: Call) -> pb.DeleteConversationResponse:
            find(self._core, call.tenant, request.id)
            del self._core.conversations[call.tenant, request.id]
            return pb.DeleteConversationResponse()

        return await self._core.plain_with_call("DeleteConversation", request, context, answer)

    async def ListConversationItems(
        self, request: pb.ListConversationItemsRequest, context: Context
    ) -> pb.ListConversationItemsResponse:
        def answer(stored: StoredConversation) -> pb.ListConversationItemsResponse:
            items = stored.items[::-1] if request.newest_first else stored.items
            entries, following = page(items, request.page_size, request.page_token)
            return pb.ListConversationItemsResponse(items=entries, next_page_token=following)

        return await self._of("ListConversationItems", request, context, answer)

    async def CreateConversationItems(
        self, request: pb.CreateConversationItemsRequest, context: Context
    ) -> pb.CreateConversationItemsResponse:
        def answer(stored: StoredConversation) -> pb.CreateConversationItemsResponse:
            if not request.items:
                raise invalid(FieldViolation("items", "is required"))
            return pb.CreateConversationItemsResponse(items=self._add(stored, request.items))

        return await self._of("CreateConversationItems", request, context, answer)

    async def GetConversationItem(
        self, request: pb.GetConversationItemRequest, context: Context
    ) -> pb.ResponseItem:
        def answer(stored: StoredConversation) -> pb.ResponseItem:
            return _item(stored, request.item_id)

        return await self._of("GetConversationItem", request, context, answer)

    async def DeleteConversationItem(
        self, request: pb.DeleteConversationItemRequest, context: Context
    ) -> pb.Conversation:
        def answer(stored: StoredConversation) -> pb.Conversation:
            stored.items.remove(_item(stored, request.item_id))
            return stored.conversation

        return await self._of("DeleteConversationItem", request, context, answer)

    def _add(
        self, stored: StoredConversation, items: Iterable[pb.ResponseItem]
    ) -> list[pb.ResponseItem]:
        for index, item in enumerate(items):
            prompt_messages(item, f"items[{index}]", self._reader)  # raises if it is invalid
        return keep(stored, items)

    async def _of(
        self,
        rpc: str,
        request: Message,
        context: Context,
        answer: Callable[[StoredConversation], _Reply],
    ) -> _Reply:
        """An RPC on an existing conversation."""

        def found(call: Call) -> _Reply:
            ident: str = getattr(request, "id")  # noqa: B009
            return answer(find(self._core, call.tenant, ident))

        return await self._core.plain_with_call(rpc, request, context, found)


def find(core: Core, tenant: str, ident: str, field: str = "id") -> StoredConversation:
    if not ident:
        raise invalid(FieldViolation(field, "is required"))
    if (tenant, ident) not in core.conversations:
        raise not_found("CONVERSATION_NOT_FOUND", "no conversation has this id")
    return core.conversations[tenant, ident]


def keep(stored: StoredConversation, items: Iterable[pb.ResponseItem]) -> list[pb.ResponseItem]:
    """Append copies of items, with ids, to a conversation."""
    added: list[pb.ResponseItem] = []
    for item in items:
        copy = pb.ResponseItem(status=pb.ITEM_STATUS_COMPLETED)
        copy.MergeFrom(item)
        prefix = _PREFIXES.get(item.WhichOneof("item") or "", "item")
        copy.id = copy.id or f"{prefix}_{uuid.uuid4().hex}"
        added.append(copy)
    stored.items.extend(added)
    return added


def _item(stored: StoredConversation, ident: str) -> pb.ResponseItem:
    if not ident:
        raise invalid(FieldViolation("item_id", "is required"))
    for item in stored.items:
        if item.id == ident:
            return item
    raise not_found("CONVERSATION_NOT_FOUND", "no item of the conversation has this id")
