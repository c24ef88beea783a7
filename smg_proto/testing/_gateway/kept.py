"""smg.v1.ConversationService: conversations are kept in memory until they are deleted."""

import uuid
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import Message

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto._serving.paging import page
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway.conversation import Reader
from smg_proto.testing._gateway.core import Call, Context, Core, Kept, not_found, set_now
from smg_proto.testing._gateway.items import said_in

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
            made = pb.Conversation(id=f"conv_{uuid.uuid4().hex}", metadata=request.metadata)
            set_now(made.create_time)
            kept = Kept(made)
            self._add(kept, request.items)
            self._core.conversations[call.tenant, made.id] = kept
            return made

        return await self._core.plain_of("CreateConversation", request, context, answer)

    async def GetConversation(
        self, request: pb.GetConversationRequest, context: Context
    ) -> pb.Conversation:
        return await self._of("GetConversation", request, context, lambda kept: kept.conversation)

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.Conversation:
        def answer(kept: Kept) -> pb.Conversation:
            kept.conversation.metadata.clear()
            kept.conversation.metadata.update(request.metadata)
            return kept.conversation

        return await self._of("UpdateConversation", request, context, answer)

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        def answer(call: Call) -> pb.DeleteConversationResponse:
            find(self._core, call.tenant, request.id)
            del self._core.conversations[call.tenant, request.id]
            return pb.DeleteConversationResponse()

        return await self._core.plain_of("DeleteConversation", request, context, answer)

    async def ListConversationItems(
        self, request: pb.ListConversationItemsRequest, context: Context
    ) -> pb.ListConversationItemsResponse:
        def answer(kept: Kept) -> pb.ListConversationItemsResponse:
            items = kept.items[::-1] if request.newest_first else kept.items
            entries, following = page(items, request.page_size, request.page_token)
            return pb.ListConversationItemsResponse(items=entries, next_page_token=following)

        return await self._of("ListConversationItems", request, context, answer)

    async def CreateConversationItems(
        self, request: pb.CreateConversationItemsRequest, context: Context
    ) -> pb.CreateConversationItemsResponse:
        def answer(kept: Kept) -> pb.CreateConversationItemsResponse:
            if not request.items:
                raise invalid(FieldViolation("items", "is required"))
            return pb.CreateConversationItemsResponse(items=self._add(kept, request.items))

        return await self._of("CreateConversationItems", request, context, answer)

    async def GetConversationItem(
        self, request: pb.GetConversationItemRequest, context: Context
    ) -> pb.ResponseItem:
        def answer(kept: Kept) -> pb.ResponseItem:
            return _item(kept, request.item_id)

        return await self._of("GetConversationItem", request, context, answer)

    async def DeleteConversationItem(
        self, request: pb.DeleteConversationItemRequest, context: Context
    ) -> pb.Conversation:
        def answer(kept: Kept) -> pb.Conversation:
            kept.items.remove(_item(kept, request.item_id))
            return kept.conversation

        return await self._of("DeleteConversationItem", request, context, answer)

    def _add(self, kept: Kept, items: Iterable[pb.ResponseItem]) -> list[pb.ResponseItem]:
        for index, item in enumerate(items):
            said_in(item, f"items[{index}]", self._reader)  # what is wrong with it
        return keep(kept, items)

    async def _of(
        self, rpc: str, request: Message, context: Context, answer: Callable[[Kept], _Reply]
    ) -> _Reply:
        """An RPC on a conversation that is there."""

        def found(call: Call) -> _Reply:
            ident: str = getattr(request, "id")  # noqa: B009
            return answer(find(self._core, call.tenant, ident))

        return await self._core.plain_of(rpc, request, context, found)


def find(core: Core, tenant: str, ident: str, field: str = "id") -> Kept:
    if not ident:
        raise invalid(FieldViolation(field, "is required"))
    if (tenant, ident) not in core.conversations:
        raise not_found("CONVERSATION_NOT_FOUND", "no conversation has this id")
    return core.conversations[tenant, ident]


def keep(kept: Kept, items: Iterable[pb.ResponseItem]) -> list[pb.ResponseItem]:
    """Copies with ids, at the end of a conversation."""
    added: list[pb.ResponseItem] = []
    for item in items:
        copy = pb.ResponseItem(status=pb.ITEM_STATUS_COMPLETED)
        copy.MergeFrom(item)
        prefix = _PREFIXES.get(item.WhichOneof("item") or "", "item")
        copy.id = copy.id or f"{prefix}_{uuid.uuid4().hex}"
        added.append(copy)
    kept.items.extend(added)
    return added


def _item(kept: Kept, ident: str) -> pb.ResponseItem:
    if not ident:
        raise invalid(FieldViolation("item_id", "is required"))
    for item in kept.items:
        if item.id == ident:
            return item
    raise not_found("CONVERSATION_NOT_FOUND", "no item of the conversation has this id")
