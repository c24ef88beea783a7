"""Items of responses: input items as prompt, and output as events."""

from collections.abc import Iterator, Sequence

from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway import conversation as conversations
from smg_proto.testing._gateway.output import Kind, Part
from smg_proto.testing._scripting import Call

_TEXT_ONLY = conversations.Reader()


def user_message(text: str) -> pb.ResponseItem:
    parts = [pb.ContentPart(text=text)]
    return pb.ResponseItem(message=pb.ItemMessage(role=pb.ROLE_USER, parts=parts))


def is_of_mcp(item: pb.ResponseItem) -> bool:
    """Whether an item belongs to an MCP call that a gateway ran. Requests may not contain it."""
    return item.HasField("mcp_tool_list") or bool(item.tool_call.server_label)


def prompt_messages(
    item: pb.ResponseItem, at: str, reader: conversations.Reader
) -> list[tuple[pb.Role.ValueType, str]]:
    """An input item as messages of the prompt, without the reasoning of earlier turns."""
    match item.WhichOneof("item"):
        case "message":
            role = item.message.role
            if role not in (
                pb.ROLE_SYSTEM,
                pb.ROLE_DEVELOPER,
                pb.ROLE_USER,
                pb.ROLE_ASSISTANT,
            ):
                raise invalid(FieldViolation(f"{at}.message.role", "is required, not ROLE_TOOL"))
            for index, part in enumerate(item.message.parts):
                kind = part.WhichOneof("part")
                where = f"{at}.message.parts[{index}].{kind}"
                if kind in ("audio", "video"):
                    raise invalid(FieldViolation(where, "is for ChatService only"))
                if kind == "image" and role == pb.ROLE_ASSISTANT:
                    raise invalid(FieldViolation(where, "is not for this role"))
            text = reader.text_of(item.message.content, item.message.parts, f"{at}.message")
            return [(role, text)]
        case "reasoning" | "opaque":
            return []
        case "tool_call":
            if item.tool_call.server_label:
                raise invalid(FieldViolation(f"{at}.tool_call", "with server_label is output only"))
            return [
                (pb.ROLE_ASSISTANT, conversations.text_of_call(item.tool_call, f"{at}.tool_call"))
            ]
        case "tool_result":
            if item.tool_result.is_error:
                where = f"{at}.tool_result.is_error"
                raise invalid(FieldViolation(where, "is for MessageService only"))
            text = _TEXT_ONLY.text_of_result(item.tool_result, f"{at}.tool_result")
            return [(pb.ROLE_TOOL, text)]
        case "mcp_tool_list":
            raise invalid(FieldViolation(f"{at}.mcp_tool_list", "is output only"))
        case None:
            raise invalid(FieldViolation(at, "is empty"))


class OutputItems:
    """Turns parts of the output into events, and adds their items to the response.

    `runs` are the calls that the gateway runs itself, and `max_runs` how many it may run.
    """

    def __init__(
        self,
        response: pb.Response,
        prompt: list[int],
        *,
        only_one: bool,
        runs: Sequence[Call] = (),
        max_runs: int | None = None,
    ) -> None:
        self._response = response
        self._prompt = prompt
        self._only_one = only_one
        self._runs = list(runs)
        self._remaining_runs = len(self._runs) if max_runs is None else max_runs
        self._calls = 0
        self._kind: Kind | None = None

    def take(self, part: Part) -> Iterator[pb.ResponseEvent]:
        if part.kind == "call":
            if self._runs and self._runs[0].name == part.name:
                yield from self._run(self._runs.pop(0), part.text)
                return
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
            case "refusal":
                item.message.parts[0].refusal += part.text
                yield self._delta(pb.ResponseDelta(refusal=part.text))
            case "reasoning":
                item.reasoning.text += part.text
                yield self._delta(pb.ResponseDelta(reasoning=part.text))
            case "call":
                item.tool_call.arguments = part.text
                for text in conversations.pieces(part.text):
                    yield self._delta(pb.ResponseDelta(arguments=text))

    def tools_of(self, server: pb.McpTool) -> Iterator[pb.ResponseEvent]:
        """The item that lists the tools of an MCP server: the allowed ones, or else the called
        ones."""
        called = (run.name for run in self._runs if run.server_label == server.server_label)
        names = server.allowed_tools or dict.fromkeys(called)
        item = self._add("mcpl")
        item.mcp_tool_list.server_label = server.server_label
        yield self._started(item)
        item.mcp_tool_list.tools.extend(pb.FunctionTool(name=name) for name in names)
        yield self._ended(item)

    def opaque(self, found: pb.Opaque) -> Iterator[pb.ResponseEvent]:
        """An item of a kind that the contract has no field for."""
        item = self._add("item")
        item.opaque.CopyFrom(found)
        yield self._started(item)
        yield self._ended(item)

    def _run(self, run: Call, arguments: str) -> Iterator[pb.ResponseEvent]:
        """The item of a call that the gateway runs."""
        if self._remaining_runs == 0:
            return
        self._remaining_runs -= 1
        yield from self.close()
        item = self._add("mcp")
        call = item.tool_call
        call.id, call.name, call.server_label = item.id, run.name, run.server_label
        yield self._started(item)
        for text in conversations.pieces(arguments):
            yield self._delta(pb.ResponseDelta(arguments=text))
        call.arguments, call.output = arguments, run.output
        if run.error:
            call.error.CopyFrom(pb.Failure(reason="MCP_TOOL_FAILED", message=run.error))
        yield self._ended(item, pb.ITEM_STATUS_FAILED if run.error else pb.ITEM_STATUS_COMPLETED)

    def _add(self, prefix: str) -> pb.ResponseItem:
        number = len(self._response.output)
        ident = f"{prefix}_{self._response.id.removeprefix('resp_')}{number}"
        return self._response.output.add(id=ident, status=pb.ITEM_STATUS_IN_PROGRESS)

    def _started(self, item: pb.ResponseItem) -> pb.ResponseEvent:
        number = len(self._response.output) - 1
        return pb.ResponseEvent(item_start=pb.ItemEvent(output_index=number, item=item))

    def _ended(
        self, item: pb.ResponseItem, status: pb.ItemStatus.ValueType = pb.ITEM_STATUS_COMPLETED
    ) -> pb.ResponseEvent:
        item.status = status
        number = len(self._response.output) - 1
        return pb.ResponseEvent(item_end=pb.ItemEvent(output_index=number, item=item))

    def _open(self, part: Part) -> pb.ResponseEvent:
        self._kind = part.kind
        match part.kind:
            case "text" | "refusal":
                item = self._add("msg")
                item.message.role = pb.ROLE_ASSISTANT
            case "reasoning":
                item = self._add("rs")
                item.reasoning.SetInParent()
            case "call":
                item = self._add("fc")
                item.tool_call.id = conversations.call_id("call", self._prompt, 0, self._calls)
                item.tool_call.name = part.name
                self._calls += 1
        event = self._started(item)
        if part.kind == "text":
            item.message.parts.add(text="")
        elif part.kind == "refusal":
            item.message.parts.add(refusal="")
        return event

    def close(self, *, cut: bool = False) -> Iterator[pb.ResponseEvent]:
        """The end of the open item, if any."""
        if self._kind is None:
            return
        self._kind = None
        status = pb.ITEM_STATUS_INCOMPLETE if cut else pb.ITEM_STATUS_COMPLETED
        yield self._ended(self._response.output[-1], status)

    def _delta(self, delta: pb.ResponseDelta) -> pb.ResponseEvent:
        delta.output_index = len(self._response.output) - 1
        return pb.ResponseEvent(delta=delta)
