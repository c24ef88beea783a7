"""Chat: makes prompts from messages, and OpenAI's chat types from replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import json_object, mapping, sequence
from smg_proto._tokens.decoder import json_settings
from smg_proto.vllm._completion import Delta, Shape
from smg_proto.vllm._config import flag, text, whole
from smg_proto.vllm._errors import VLLMGrpcFailedPreconditionError, VLLMGrpcValidationError
from smg_proto.vllm._params import CompletionRequest, StructuredOutputs
from smg_proto.vllm._template import Template, compiled
from smg_proto.vllm._tokenizer import TokenDecoder
from smg_proto.vllm._types import ChatCompletion, ChatCompletionChunk, CompletionLogprobs

_SPECIAL: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens",
)  # fmt: skip
_FORMATS: Final = ("json_object", "json_schema", "structural_tag")

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The arguments of `chat.completions.create`, checked."""

    messages: list[Message]
    request: CompletionRequest
    model_defaults: bool | None
    """Whether to apply the model's generation config. None: if it is known."""
    tools: list[Any] | None
    template: str | None
    variables: dict[str, Any]
    opens_turn: bool
    continues: bool

    @classmethod
    def of(cls, messages: object, given: dict[str, Any]) -> "ChatRequest":
        given = dict(given)
        checked = _messages(messages)
        tools = _tools(given.pop("tools", None), given.pop("tool_choice", None))
        template = given.pop("chat_template", None)
        variables = mapping(given.pop("chat_template_kwargs", {}))
        if variables is None or not all(isinstance(name, str) for name in variables):
            raise VLLMGrpcValidationError("chat_template_kwargs", "must be a mapping by name")
        if "messages" in variables:
            raise VLLMGrpcValidationError("chat_template_kwargs.messages", "use messages=")
        continues = flag("continue_final_message", given.pop("continue_final_message", False))
        opens = flag("add_generation_prompt", given.pop("add_generation_prompt", not continues))
        if continues and opens:
            raise VLLMGrpcValidationError(
                "continue_final_message", "cannot be used with add_generation_prompt"
            )
        if "max_completion_tokens" in given:
            if "max_tokens" in given:
                raise VLLMGrpcValidationError(
                    "max_completion_tokens", "cannot be used with max_tokens"
                )
            most = given.pop("max_completion_tokens")
            given["max_tokens"] = whole("max_completion_tokens", most, 1, 2**32 - 1)
        _logprobs(given)
        _response_format(given)
        return cls(
            checked,
            CompletionRequest.of(given),
            given.get("use_model_defaults"),
            tools,
            text("chat_template", template) if template is not None else None,
            dict(variables),
            opens,
            continues,
        )

    def prompt(self, decoder: TokenDecoder) -> pb.TokenizedInput:
        """The token ids of the messages, rendered with the chat template."""
        template = self._template(decoder)
        messages = [_for_template(one, parts=template.iterates_content) for one in self.messages]
        variables = {
            **_special_tokens(decoder),
            "tools": self.tools,
            "documents": None,
            "add_generation_prompt": self.opens_turn,
            **self.variables,
        }
        rendered = template.render(messages=messages, **variables)
        if self.continues:
            rendered = _cut_after(rendered, messages[-1].get("content"))
        if rendered:
            text("messages", rendered)  # what is not text could come from names and tools too
        ids = decoder.encode(rendered, add_special_tokens=False)
        if not ids:
            raise VLLMGrpcValidationError("messages", "the chat template makes an empty prompt")
        return pb.TokenizedInput(input_ids=ids)

    def _template(self, decoder: TokenDecoder) -> Template:
        source = self.template or chat_template(decoder, tools=bool(self.tools))
        if source is None:
            raise VLLMGrpcFailedPreconditionError(
                "the model's tokenizer does not have a chat template; use chat_template=, or "
                "completions with a prompt"
            )
        return compiled(source)


def _messages(value: object) -> list[Message]:
    items = sequence(value)
    if not items:
        raise VLLMGrpcValidationError("messages", "must be a list with at least one message")
    checked: list[Message] = []
    for number, item in enumerate(items):
        where = f"messages.{number}"
        if isinstance(item, BaseModel):  # the message of a reply
            item = item.model_dump(exclude_none=True)
        message = mapping(item)
        if message is None or not all(isinstance(name, str) for name in message):
            raise VLLMGrpcValidationError(where, "must be a mapping with role and content")
        text(f"{where}.role", message.get("role"))
        checked.append({**message, "content": _content(f"{where}.content", message.get("content"))})
        if (calls := message.get("tool_calls")) is not None:
            found = _tool_calls(f"{where}.tool_calls", calls)
            checked[-1].pop("tool_calls")
            if found:
                checked[-1]["tool_calls"] = found
    return checked


def _content(where: str, value: object) -> list[str]:
    """The texts of a message."""
    if value is None or value == "":
        return [] if value is None else [""]
    if isinstance(value, str):
        return [text(where, value)]
    parts = sequence(value)
    if parts is None:
        raise VLLMGrpcValidationError(where, "must be text, or a list of text parts")
    texts: list[str] = []
    for number, part in enumerate(parts):
        by_name = mapping(part)
        words = part if isinstance(part, str) else by_name.get("text") if by_name else None
        if by_name is not None and by_name.get("type", "text") != "text":
            raise VLLMGrpcValidationError(
                f"{where}.{number}", "only text is supported; send media through the gateway"
            )
        if not isinstance(words, str):
            raise VLLMGrpcValidationError(f"{where}.{number}", "must be a part with text")
        texts.append(text(f"{where}.{number}", words) if words else "")
    return texts


def _tool_calls(where: str, value: object) -> list[Any]:
    """Tool calls in the form for templates, with arguments as a mapping."""
    items = sequence(value)
    if items is None:
        raise VLLMGrpcValidationError(where, "must be a list")
    calls: list[Any] = []
    for number, item in enumerate(items):
        call = dict(mapping(item) or {})
        function = mapping(call.get("function"))
        if function is None or not isinstance(function.get("name"), str):
            raise VLLMGrpcValidationError(f"{where}.{number}", "must have a function with a name")
        given: Any = function.get("arguments") or "{}"
        arguments = json_object(given) if isinstance(given, str) else mapping(given)
        if arguments is None:
            raise VLLMGrpcValidationError(
                f"{where}.{number}.function.arguments", "must be an object or its JSON text"
            )
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return calls


def _tools(tools: object, choice: object) -> list[Any] | None:
    if choice not in (None, "auto", "none"):
        raise VLLMGrpcValidationError(
            "tool_choice",
            'must be "auto" or "none"; to force a call, use the gateway, or structured_outputs',
        )
    if tools is None:
        return None
    items = sequence(tools)
    if items is None or not all(mapping(item) is not None for item in items):
        raise VLLMGrpcValidationError("tools", "must be a list of mappings")
    return [dict(item) for item in items] or None


def _logprobs(given: dict[str, Any]) -> None:
    """Replaces OpenAI's two parameters by vLLM's one."""
    logprobs, top = given.pop("logprobs", None), given.pop("top_logprobs", None)
    enabled = logprobs is not None and flag("logprobs", logprobs)
    if top is not None and not enabled:
        raise VLLMGrpcValidationError("top_logprobs", "requires logprobs=True")
    if enabled:
        given["logprobs"] = whole("top_logprobs", top, 0, 2**31 - 1) if top is not None else 0


def _response_format(given: dict[str, Any]) -> None:
    """Replaces OpenAI's parameter by vLLM's."""
    wanted = given.pop("response_format", None)
    if wanted is None:
        return
    by_name = mapping(wanted) or {}
    kind = by_name.get("type")
    if kind == "text":
        return
    if kind not in _FORMATS:
        raise VLLMGrpcValidationError(
            "response_format", 'its type must be "text", "json_object" or "json_schema"'
        )
    if "structured_outputs" in given:
        raise VLLMGrpcValidationError("response_format", "cannot be used with structured_outputs")
    if kind == "json_object":
        form = StructuredOutputs(json_object=True)
    elif kind == "structural_tag":
        form = StructuredOutputs(structural_tag=dict(by_name))
    else:
        schema = mapping((mapping(by_name.get("json_schema")) or {}).get("schema"))
        if schema is None:
            raise VLLMGrpcValidationError("response_format.json_schema.schema", "is missing")
        form = StructuredOutputs(json_schema=dict(schema))
    given["structured_outputs"] = form


# The template.


def chat_template(decoder: TokenDecoder, *, tools: bool) -> str | None:
    """The chat template of a tokenizer. If there are several, the one for tools or the default."""
    settings = decoder.settings
    if "chat_template.jinja" in settings:
        return settings["chat_template.jinja"].decode(errors="replace")
    found: Any = None
    for name in ("tokenizer_config.json", "chat_template.json"):
        if found is None:
            found = json_settings(settings, name).get("chat_template")
    if not settings:  # the caller's tokenizer
        found = getattr(decoder.tokenizer, "chat_template", None)
    by_name = mapping(found)
    if by_name is None and (several := sequence(found)) is not None:
        named = [entry for one in several if (entry := mapping(one)) is not None]
        by_name = {entry.get("name"): entry.get("template") for entry in named}
    if by_name is not None:
        found = (by_name.get("tool_use") if tools else None) or by_name.get("default")
    return found if isinstance(found, str) and found else None


def _special_tokens(decoder: TokenDecoder) -> dict[str, Any]:
    """The tokens that templates can use as variables, such as bos_token."""
    if not decoder.settings:
        return dict(getattr(decoder.tokenizer, "special_tokens_map", None) or {})
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        by_name = json_settings(decoder.settings, name)
        found |= {key: _token_text(by_name[key]) for key in _SPECIAL if by_name.get(key)}
    return found


def _token_text(token: Any) -> Any:
    if (several := sequence(token)) is not None:
        return [_token_text(one) for one in several]
    by_name = mapping(token)
    return token if by_name is None else by_name.get("content")


def _for_template(message: Message, *, parts: bool) -> Message:
    """A message with its content as parts or as one text."""
    texts: Sequence[str] = message["content"]
    content: Any = "\n".join(texts)
    if parts:
        content = [{"type": "text", "text": one} for one in texts]
    return {**message, "content": content}


def _cut_after(rendered: str, content: Any) -> str:
    """The prompt up to the end of the last message, so that the model continues it."""
    if (parts := sequence(content)) is not None:
        content = parts[-1]["text"] if parts else ""
    words = content.strip()
    place = rendered.rfind(words) if words else -1
    if place < 0:
        raise VLLMGrpcValidationError(
            "continue_final_message", "the chat template does not render the last message"
        )
    kept = content.lstrip()
    end = place + len(kept if rendered.startswith(kept, place) else words)
    return rendered[:end]


# The reply.


class ChatShape(Shape[ChatCompletion, ChatCompletionChunk]):
    operation = "chat"
    prefix = "chatcmpl"

    def __init__(self, decoder: TokenDecoder) -> None:
        self._decoder = decoder
        self._begun: set[int] = set()

    def chunk(self, fields: dict[str, Any], delta: Delta | None) -> ChatCompletionChunk:
        if delta is None:
            return ChatCompletionChunk.model_validate(fields)
        index: int = delta["index"]
        message: dict[str, Any] = {"content": delta["delta_text"]}
        if index not in self._begun:
            self._begun.add(index)
            message["role"] = "assistant"
        choice = {
            "index": index,
            "delta": message,
            "token_ids": delta["delta_token_ids"],
            "finish_reason": delta["finish_reason"],
            "stop_reason": delta["stop_reason"],
            "logprobs": self._logprobs(delta["logprobs"]),
        }
        return ChatCompletionChunk.model_validate({**fields, "choices": [choice]})

    def whole(self, fields: dict[str, Any], choices: list[dict[str, Any]]) -> ChatCompletion:
        for choice in choices:
            choice["message"] = {"content": choice.pop("text")}
            choice["logprobs"] = self._logprobs(choice["logprobs"])
        return ChatCompletion.model_validate({**fields, "choices": choices})

    def words(self, chunk: ChatCompletionChunk) -> str | None:
        first = chunk.choices[0] if chunk.choices else None
        return first.delta.content if first is not None and not first.index else ""

    def _logprobs(self, logprobs: CompletionLogprobs | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        tops = logprobs.top_ids or [None] * len(logprobs.token_ids)
        content = [
            self._entry(token, value)
            | {"top_logprobs": [self._entry(one, that) for one, that in (top or {}).items()]}
            for token, value, top in zip(
                logprobs.token_ids, logprobs.token_logprobs, tops, strict=False
            )
        ]
        return {"content": content}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        words = self._decoder.decode([token], skip_special_tokens=False)
        return {
            "token": words,
            "token_id": token,
            "logprob": logprob,
            "bytes": list(words.encode(errors="replace")),
        }
