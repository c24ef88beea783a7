"""A conversation of chat, messages and responses: its prompt, and the model's output.

The built-in model follows a simple rule: it reasons if a reasoning effort is set, and calls the
tools that the last user message names. Results of MCP tools are made up. No server is called.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.core import Core
from smg_proto.testing._model import prompt_key
from smg_proto.testing._scripting import Answer, Call, written_calls
from smg_proto.testing._tokenizer import render_chat

_REASONING = "The user asks. I answer with what I know."
_ROLES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}


@dataclass
class Conversation:
    """The messages, the tools, and how to continue."""

    messages: list[tuple[pb.Role.ValueType, str]] = field(
        default_factory=list[tuple[pb.Role.ValueType, str]]
    )
    tools: list[pb.FunctionTool] = field(default_factory=list[pb.FunctionTool])
    mcp: list[pb.McpTool] = field(default_factory=list[pb.McpTool])
    choice: pb.ToolChoice = field(default_factory=pb.ToolChoice)
    parallel: bool = True
    effort: str = ""
    output_format: pb.OutputFormat = field(default_factory=pb.OutputFormat)
    open_turn: bool = False

    @property
    def thinks(self) -> bool:
        return self.effort not in ("", "none")

    @property
    def may_call(self) -> bool:
        return bool(self.tools or self.mcp) and self.choice.mode != pb.TOOL_CHOICE_MODE_NONE

    def prompt(self, core: Core) -> list[int]:
        messages = [(_ROLES[role], text) for role, text in self.messages]
        if self.may_call:
            offered = [f"{one.name}: {one.description} {one.parameters_json}" for one in self.tools]
            offered += [f"{one.server_label}: {', '.join(one.allowed_tools)}" for one in self.mcp]
            messages.insert(0, ("system", "\n".join(["You may call:", *offered])))
        return core.model.tokenizer.encode(render_chat(messages, open_turn=self.open_turn))

    def output(self, answer: Answer | None) -> tuple[str, str | None]:
        """The prefix and the replacement of the model's own text."""
        if answer is not None:
            return "", answer.written()
        prefix = f"<think>\n{_REASONING}\n</think>\n\n" if self.thinks else ""
        prefix += written_calls(self.runs(None))
        calls = written_calls(Call(tool.name, self._arguments(tool)) for tool in self._called())
        if calls:
            return "", prefix + calls
        text = checks.formatted(self.output_format)
        return prefix, None if text is None else prefix + text

    def runs(self, answer: Answer | None) -> list[Call]:
        """The calls of MCP tools that the gateway runs, in order, with their results."""
        if answer is not None:
            return [call for call in answer.calls if call.server_label]
        role, text = self.messages[-1] if self.messages else (pb.ROLE_UNSPECIFIED, "")
        return [
            Call(name, server_label=server.server_label, output=f"what {name} returns")
            for server in self.mcp
            for name in server.allowed_tools
            if self.may_call and role == pb.ROLE_USER and name in text
        ]

    def _called(self) -> list[pb.FunctionTool]:
        if not self.may_call:
            return []
        if self.choice.WhichOneof("choice") == "function":
            return [tool for tool in self.tools if tool.name == self.choice.function]
        role, text = self.messages[-1] if self.messages else (pb.ROLE_UNSPECIFIED, "")
        named = [tool for tool in self.tools if role == pb.ROLE_USER and tool.name in text]
        if not named and self.choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED:
            named = self.tools[:1]
        return named if self.parallel else named[:1]

    def _arguments(self, tool: pb.FunctionTool) -> str:
        index = self.tools.index(tool)
        return checks.smallest(tool.parameters_json, f"tools[{index}].function.parameters_json")


def functions(tools: Iterable[pb.Tool]) -> list[pb.FunctionTool]:
    return [tool.function for tool in tools if tool.HasField("function")]


@dataclass(frozen=True)
class Reader:
    """Turns content into text of the prompt. `media`: the kinds that the route supports."""

    media: frozenset[str] = frozenset()
    detail: bool = True  # whether an image may have `detail`

    def text_of(self, content: str, parts: Sequence[pb.ContentPart], at: str) -> str:
        """The text of a message that has either plain content or parts."""
        if content and parts:
            raise invalid(FieldViolation(f"{at}.parts", "cannot be combined with content"))
        texts = (self._text_of_part(part, f"{at}.parts[{n}]") for n, part in enumerate(parts))
        return "".join(texts) if parts else content

    def _text_of_part(self, part: pb.ContentPart, at: str) -> str:
        match part.WhichOneof("part"):
            case "text":
                return part.text
            case "refusal":
                return part.refusal
            case "opaque":
                return ""  # the model ignores it
            case None:
                raise invalid(FieldViolation(at, "is empty"))
            case kind:
                return self.text_of_media(kind, getattr(part, kind), f"{at}.{kind}")

    def text_of_media(self, kind: str, media: pb.Media, at: str) -> str:
        """A text for a medium, which differs for other bytes or another URL."""
        if kind not in self.media:
            what = FieldViolation(at, f"the built-in model does not support this kind: {kind}")
            raise invalid(what, reason="MULTIMODAL_NOT_SUPPORTED")
        if violation := self._violation(kind, media, at):
            raise invalid(violation)
        return f"[{kind} {zlib.crc32(media.data or media.url.encode()):08x}]"

    def _violation(self, kind: str, media: pb.Media, at: str) -> FieldViolation | None:
        source = media.WhichOneof("source")
        if source is None:
            return FieldViolation(at, "must have url or data")
        if source == "data" and kind == "video":
            return FieldViolation(f"{at}.data", "is not for video")
        if source == "data" and not media.media_type:
            return FieldViolation(f"{at}.media_type", "is required with data")
        if source == "url" and urlsplit(media.url).scheme not in ("http", "https", "data"):
            return FieldViolation(f"{at}.url", "must start with http, https or data")
        if media.detail and not (kind == "image" and self.detail):
            return FieldViolation(f"{at}.detail", "is for images in chats and responses only")
        return None

    def text_of_result(self, result: pb.ToolResult, at: str) -> str:
        if not result.call_id:
            raise invalid(FieldViolation(f"{at}.call_id", "is required"))
        return self.text_of(result.content, result.parts, at)


def text_of_call(call: pb.ToolCall, at: str) -> str:
    if call.arguments and not checks.is_json_object(call.arguments):
        raise invalid(FieldViolation(f"{at}.arguments", "must be a JSON object"))
    return written_calls([Call(call.name, call.arguments or "{}")])


def call_id(prefix: str, prompt: list[int], choice: int, number: int) -> str:
    """The id of a call: the same for the same request, and unique within the reply."""
    return f"{prefix}_{prompt_key(prompt):08x}{choice}{number}"


def pieces(arguments: str, size: int = 16) -> Iterator[str]:
    """The arguments of a call in pieces, as a stream sends them."""
    for start in range(0, len(arguments), size):
        yield arguments[start : start + size]


def usage(prompt: int, completion: int, reasoning: int | None = None) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        reasoning_tokens=reasoning,
    )
