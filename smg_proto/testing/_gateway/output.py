"""Incremental parsing of the model's output into text, reasoning and tool calls.

The syntax is <think>...</think>, and <tool_call> around a JSON object with name and arguments, as
in the gateway's parsers "qwen3" and "qwen".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_THINK, _THINK_END = "<think>", "</think>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"

Kind = Literal["text", "refusal", "reasoning", "call"]


@dataclass(frozen=True)
class Part:
    """A piece of text, refusal or reasoning, or a complete tool call with its arguments as
    `text`."""

    kind: Kind
    text: str
    name: str = ""


class Splitter:
    """Parses text into parts. `finish` returns what `feed` held back."""

    def __init__(self, *, reasoning: bool, calls: bool, refuses: bool = False) -> None:
        self._plain: Kind = "refusal" if refuses else "text"
        self._opening = [tag for tag, on in ((_THINK, reasoning), (_CALL, calls)) if on]
        self._inside = ""  # the open tag
        self._buffer = ""
        self._after_tag = False  # only line breaks since the last tag

    def feed(self, text: str) -> list[Part]:
        self._buffer += text
        return list(self._split(final=False))

    def finish(self) -> list[Part]:
        return list(self._split(final=True))

    def _split(self, *, final: bool) -> Iterator[Part]:
        while True:
            closing = {_THINK: [_THINK_END], _CALL: [_CALL_END]}.get(self._inside, self._opening)
            found = [(at, tag) for tag in closing if (at := self._buffer.find(tag)) >= 0]
            if not found:
                break
            at, tag = min(found)
            before, self._buffer = self._buffer[:at], self._buffer[at + len(tag) :]
            if tag == _CALL_END:
                yield _call(before)
            else:
                yield from self._text(before.rstrip("\n"))
            self._inside = tag if tag in self._opening else ""
            self._after_tag = True
        if self._inside == _CALL:
            if final and self._buffer:  # cut off, so it is text
                yield Part("text", _CALL + self._buffer)
                self._buffer = ""
            return
        held = 0 if final else self._held(closing)
        ready = self._buffer[: len(self._buffer) - held]
        self._buffer = self._buffer[len(ready) :]
        yield from self._text(ready.rstrip("\n") if final and self._inside else ready)

    def _text(self, text: str) -> Iterator[Part]:
        if self._after_tag:
            text = text.lstrip("\n")
        if text:
            self._after_tag = False
            yield Part("reasoning" if self._inside == _THINK else self._plain, text)

    def _held(self, tags: list[str]) -> int:
        """The length of a possible start of a tag at the end, with the line breaks before it."""
        starts = (tag[:length] for tag in tags for length in range(len(tag) - 1, 0, -1))
        held = max((len(start) for start in starts if self._buffer.endswith(start)), default=0)
        rest = self._buffer[: len(self._buffer) - held]
        return held + (len(rest) - len(rest.rstrip("\n")) if tags else 0)


def _call(body: str) -> Part:
    """The tool call between two tags, or text if it is invalid."""
    try:
        read = json.loads(body)
        name, arguments = read["name"], read.get("arguments", {})
    except (ValueError, TypeError, KeyError, AttributeError):
        name, arguments = None, None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return Part("text", _CALL + body + _CALL_END)
    compact = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return Part("call", compact, name)


def parse(text: str, *, reasoning: bool = False, calls: bool = False) -> list[Part]:
    splitter = Splitter(reasoning=reasoning, calls=calls)
    return [*splitter.feed(text), *splitter.finish()]


def join(parts: list[Part], kind: Kind) -> str:
    return "".join(part.text for part in parts if part.kind == kind)
