"""Items of responses: from the input into the prompt, and from the model's output to events."""

from collections.abc import Iterator

from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway import conversation as talk
from smg_proto.testing._gateway.output import Kind, Part


def user_message(text: str) -> pb.ResponseItem:
    parts = [pb.ContentPart(text=text)]
    return pb.ResponseItem(message=pb.ItemMessage(role=pb.ROLE_USER, parts=parts))


def said_in(item: pb.ResponseItem, at: str) -> list[tuple[pb.Role.ValueType, str]]:
    """An input item as messages of the prompt. Reasoning of earlier turns is left out."""
    match item.WhichOneof("item"):
        case "message":
            role = item.message.role
            if role not in (
                pb.ROLE_SYSTEM,
                pb.ROLE_DEVELOPER,
                pb.ROLE_USER,
                pb.ROLE_ASSISTANT,
            ):
                raise invalid(FieldViolation(f"{at}.message.role", "is required, and not TOOL"))
            for index, part in enumerate(item.message.parts):
                if part.WhichOneof("part") in ("audio", "video"):
                    where = f"{at}.message.parts[{index}].{part.WhichOneof('part')}"
                    raise invalid(FieldViolation(where, "is for ChatService only"))
            said = talk.text_of(item.message.content, item.message.parts, f"{at}.message")
            return [(role, said)]
        case "reasoning" | "opaque":
            return []
        case "tool_call":
            if item.tool_call.server_label:
                raise invalid(FieldViolation(f"{at}.tool_call", "of an MCP server is output only"))
            return [(pb.ROLE_ASSISTANT, talk.text_of_call(item.tool_call, f"{at}.tool_call"))]
        case "tool_result":
            if item.tool_result.is_error:
                where = f"{at}.tool_result.is_error"
                raise invalid(FieldViolation(where, "is for MessageService only"))
            return [(pb.ROLE_TOOL, talk.text_of_result(item.tool_result, f"{at}.tool_result"))]
        case "mcp_tool_list":
            raise invalid(FieldViolation(f"{at}.mcp_tool_list", "is output only"))
        case None:
            raise invalid(FieldViolation(at, "is empty"))


class OutputItems:
    """Parts of the output as events of items; the items themselves grow in the response."""

    def __init__(self, response: pb.Response, prompt: list[int], *, only_one: bool) -> None:
        self._response = response
        self._prompt = prompt
        self._only_one = only_one
        self._calls = 0
        self._kind: Kind | None = None

    def take(self, part: Part) -> Iterator[pb.ResponseEvent]:
        if part.kind == "call":
            if self._calls and self._only_one:
                return
            yield from self.close()
        if self._kind != part.kind:
            yield from self.close()
            yield self._open(part)
        item = self._response.output[-1]
        match part.kind:
            case "text":
                item.message.parts[0].text += part.text
                yield self._delta(pb.ResponseDelta(text=part.text))
            case "reasoning":
                item.reasoning.text += part.text
                yield self._delta(pb.ResponseDelta(reasoning=part.text))
            case "call":
                item.tool_call.arguments = part.text
                for text in talk.pieces(part.text):
                    yield self._delta(pb.ResponseDelta(arguments=text))

    def _open(self, part: Part) -> pb.ResponseEvent:
        self._kind = part.kind
        number = len(self._response.output)
        item = self._response.output.add(status=pb.ITEM_STATUS_IN_PROGRESS)
        ident = self._response.id.removeprefix("resp_")
        match part.kind:
            case "text":
                item.id = f"msg_{ident}{number}"
                item.message.role = pb.ROLE_ASSISTANT
            case "reasoning":
                item.id = f"rs_{ident}{number}"
                item.reasoning.SetInParent()
            case "call":
                item.id = f"fc_{ident}{number}"
                item.tool_call.id = talk.call_id("call", self._prompt, 0, self._calls)
                item.tool_call.name = part.name
                self._calls += 1
        event = pb.ResponseEvent(item_start=pb.ItemEvent(output_index=number, item=item))
        if part.kind == "text":
            item.message.parts.add(text="")
        return event

    def close(self, *, cut: bool = False) -> Iterator[pb.ResponseEvent]:
        """The end of the item that is open, if one is."""
        if self._kind is None:
            return
        self._kind = None
        item = self._response.output[-1]
        item.status = pb.ITEM_STATUS_INCOMPLETE if cut else pb.ITEM_STATUS_COMPLETED
        number = len(self._response.output) - 1
        yield pb.ResponseEvent(item_end=pb.ItemEvent(output_index=number, item=item))

    def _delta(self, delta: pb.ResponseDelta) -> pb.ResponseEvent:
        delta.output_index = len(self._response.output) - 1
        return pb.ResponseEvent(delta=delta)
