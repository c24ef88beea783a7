"""A conversation as chat, messages and responses have it: its prompt, and what the model will do.

How the built-in model comes to think and to call is a simple rule, not insight: it thinks when a
reasoning effort is set, and calls the functions that the last user message names.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway import checks
from smg_proto.testing._gateway.core import Core
from smg_proto.testing._model import prompt_key
from smg_proto.testing._scripting import Answer, written_call
from smg_proto.testing._tokenizer import render_chat

_THOUGHT = "The user asks. I answer with what I know."
_ROLES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}


@dataclass
class Conversation:
    """What was said, the tools, and how to go on."""

    said: list[tuple[pb.Role.ValueType, str]] = field(
        default_factory=list[tuple[pb.Role.ValueType, str]]
    )
    tools: list[pb.FunctionTool] = field(default_factory=list[pb.FunctionTool])
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
        return bool(self.tools) and self.choice.mode != pb.TOOL_CHOICE_MODE_NONE

    def prompt(self, core: Core) -> list[int]:
        messages = [(_ROLES[role], text) for role, text in self.said]
        if self.may_call:
            offered = "\n".join(
                f"{tool.name}: {tool.description} {tool.parameters_json}" for tool in self.tools
            )
            messages.insert(0, ("system", f"You may call:\n{offered}"))
        return core.model.tokenizer.encode(render_chat(messages, open_turn=self.open_turn))

    def output(self, answer: Answer | None) -> tuple[str, str | None]:
        """What the model says first, and what it says instead of its own words."""
        if answer is not None:
            return "", answer.written()
        opening = f"<think>\n{_THOUGHT}\n</think>\n\n" if self.thinks else ""
        calls = "".join(written_call(tool.name, self._arguments(tool)) for tool in self._called())
        if calls:
            return "", opening + calls
        text = checks.formatted(self.output_format)
        return opening, None if text is None else opening + text

    def _called(self) -> list[pb.FunctionTool]:
        if not self.may_call:
            return []
        if self.choice.WhichOneof("choice") == "function":
            return [tool for tool in self.tools if tool.name == self.choice.function]
        role, text = self.said[-1] if self.said else (pb.ROLE_UNSPECIFIED, "")
        named = [tool for tool in self.tools if role == pb.ROLE_USER and tool.name in text]
        if not named and self.choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED:
            named = self.tools[:1]
        return named if self.parallel else named[:1]

    def _arguments(self, tool: pb.FunctionTool) -> str:
        index = self.tools.index(tool)
        return checks.smallest(tool.parameters_json, f"tools[{index}].function.parameters_json")


def functions(tools: Iterable[pb.Tool]) -> list[pb.FunctionTool]:
    return [tool.function for tool in tools]


def text_of_parts(parts: Iterable[pb.ContentPart], at: str) -> str:
    """The text of content; the built-in model takes no media."""
    return "".join(_text_of_part(part, f"{at}[{n}]") for n, part in enumerate(parts))


def text_of(content: str, parts: Sequence[pb.ContentPart], at: str) -> str:
    """The text of a message that has either plain content or parts."""
    if content and parts:
        raise invalid(FieldViolation(f"{at}.parts", "cannot go with content"))
    return text_of_parts(parts, f"{at}.parts") if parts else content


def _text_of_part(part: pb.ContentPart, at: str) -> str:
    match part.WhichOneof("part"):
        case "text":
            return part.text
        case "refusal":
            return part.refusal
        case "opaque":
            return ""  # kept by the client, of no meaning to the model
        case None:
            raise invalid(FieldViolation(at, "is empty"))
        case kind:
            raise no_media(f"{at}.{kind}")


def no_media(at: str) -> Exception:
    return invalid(
        FieldViolation(at, "the built-in model takes no media"), reason="MULTIMODAL_NOT_SUPPORTED"
    )


def text_of_result(result: pb.ToolResult, at: str) -> str:
    if not result.call_id:
        raise invalid(FieldViolation(f"{at}.call_id", "is required"))
    return text_of(result.content, result.parts, at)


def text_of_call(call: pb.ToolCall, at: str) -> str:
    if call.arguments and not checks.is_json_object(call.arguments):
        raise invalid(FieldViolation(f"{at}.arguments", "must be a JSON object"))
    return written_call(call.name, call.arguments or "{}")


def call_id(prefix: str, prompt: list[int], choice: int, number: int) -> str:
    """An id for a call: the same for the same request, unique within the reply."""
    return f"{prefix}_{prompt_key(prompt):08x}{choice}{number}"


def pieces(arguments: str, size: int = 16) -> Iterator[str]:
    """Arguments as they come in a stream."""
    for start in range(0, len(arguments), size):
        yield arguments[start : start + size]


def usage(prompt: int, completion: int, reasoning: int | None = None) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        reasoning_tokens=reasoning,
    )
