"""ConversationService: /v1/conversations."""

from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import Row, Table, nested, same, timestamp
from smg_proto._http.mapping.common import unsent
from smg_proto._http.mapping.response import ITEM, OUTPUT_ITEM

CREATE = Table(smg.CreateConversationRequest, same("metadata") | {"items": nested("items", ITEM)})
REPLY = Table(
    smg.Conversation,
    same("id", "metadata") | {"create_time": Row("created_at", read=timestamp)},
    expected=["id"],
)
CREATE_ITEMS = Table(
    smg.CreateConversationItemsRequest,
    {"id": Row("", unsent), "items": nested("items", ITEM)},
    required=["id", "items"],
)
CREATED_ITEMS = Table(
    smg.CreateConversationItemsResponse, {"items": nested("data", OUTPUT_ITEM)}, expected=["data"]
)
ITEMS = Table(
    smg.ListConversationItemsResponse, {"items": nested("data", OUTPUT_ITEM)}, expected=["data"]
)


def read_item(data: Any) -> smg.ResponseItem:
    item: smg.ResponseItem | None = OUTPUT_ITEM.read(data)
    if item is None or data["type"] == "error":
        raise TypeError("not an item")
    return item
