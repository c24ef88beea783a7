"""Answers and faults that a test sets for the fakes, and the requests that the fakes record."""

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from smg_proto import smg_pb2

_M = TypeVar("_M")


@dataclass(frozen=True)
class Call:
    """A tool call of an answer. The arguments are JSON text.

    With `server_label`, it calls a tool of an MCP server. In responses, the gateway runs the call,
    which returns `output` or fails with `error`.
    """

    name: str
    arguments: str = "{}"
    server_label: str = ""
    output: str = ""
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """The model's output for one request, instead of its own text.

    Reasoning and calls are written with the built-in model's tags around the text. An engine sends
    the tags; a gateway parses them. Stops and max_tokens apply as usual. Calls of MCP tools come
    before the text, which continues from their results.
    """

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Call] = ()
    # Replaces the text. A gateway returns it as a refusal.
    refusal: str = ""
    # From a gateway only: parts, blocks or items of kinds that smg.v1 has no field for.
    opaque: Sequence[smg_pb2.Opaque] = ()
    # The reported finish reason, such as "error" or "repetition". Empty: the real one.
    finish_reason: str = ""

    def written(self) -> str:
        """The model's complete output, with tags."""
        reasoning = f"<think>\n{self.reasoning}\n</think>\n\n" if self.reasoning else ""
        run = written_calls(call for call in self.calls if call.server_label)
        calls = written_calls(call for call in self.calls if not call.server_label)
        return reasoning + run + (self.refusal or self.text) + calls


def written_calls(calls: Iterable[Call]) -> str:
    """Tool calls in the built-in model's syntax."""
    return "".join(
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n'
        "</tool_call>"
        for call in calls
    )


@dataclass(frozen=True)
class Fault:
    """A fault of one RPC: a delay, then a status in place of a message.

    `after` is the number of messages before the status; a shorter stream is not affected. Status OK
    cuts the stream, as if the model behind it had stopped: an engine's stream ends without
    `complete`, and a gateway returns UNAVAILABLE with STREAM_TRUNCATED. Without a status, there is
    only the delay.
    """

    status: grpc.StatusCode | None = None
    details: str = "injected fault"
    after: int = 0
    delay: float = 0.0
    reason: str = "WORKER_ERROR"

    @classmethod
    def cut(cls, after: int = 0) -> "Fault":
        return cls(grpc.StatusCode.OK, after=after)


Action = Answer | Fault


@dataclass
class _Entry:
    action: Action
    rpc: str | None
    when: Callable[[Any], bool] | None
    times: int | None

    def matches(self, rpc: str, request: Message, *, generates: bool) -> bool:
        matches = generates if self.rpc is None else self.rpc == rpc
        return matches and (self.when is None or self.when(request))


class Script:
    """Answers and faults for the next requests. Safe to use from any thread."""

    def __init__(self, generating: frozenset[str]) -> None:
        self._generating = generating
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()

    def add(
        self,
        action: Action,
        *,
        rpc: str | None = None,
        when: Callable[[Any], bool] | None = None,
        times: int | None = 1,
    ) -> None:
        """Queue an answer or a fault for the next request that matches.

        `rpc` is the RPC's short name ("HealthCheck"); None matches every RPC that generates. `when`
        is called with the request. `times` is the number of requests to apply to; None: all. A
        request gets the first answer and the first fault that match.
        """
        with self._lock:
            self._entries.append(_Entry(action, rpc, when, times))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def answer(self, rpc: str, request: Message) -> Answer | None:
        action = self._take(Answer, rpc, request)
        return action if isinstance(action, Answer) else None

    def fault(self, rpc: str, request: Message) -> Fault | None:
        action = self._take(Fault, rpc, request)
        return action if isinstance(action, Fault) else None

    def _take(self, kind: type[Action], rpc: str, request: Message) -> Action | None:
        with self._lock:
            generates = rpc in self._generating
            for entry in self._entries:
                matches = entry.matches(rpc, request, generates=generates)
                if isinstance(entry.action, kind) and matches:
                    if entry.times is not None:
                        entry.times -= 1
                        if entry.times <= 0:
                            self._entries.remove(entry)
                    return entry.action
        return None


@dataclass
class Counters:
    """Generation requests so far, by outcome."""

    started: int = 0
    finished: int = 0
    failed: int = 0
    aborted: int = 0  # by an Abort
    cancelled: int = 0  # by the client, by its deadline, or because it disconnected

    @property
    def running(self) -> int:
        return self.started - self.finished - self.failed - self.aborted - self.cancelled


@dataclass(frozen=True)
class Received:
    """A request as it was received."""

    rpc: str
    request: Message
    metadata: tuple[tuple[str, str | bytes], ...]


@dataclass
class Record:
    """The latest requests, oldest first, and the counters."""

    received: deque[Received] = field(default_factory=lambda: deque[Received](maxlen=1000))
    counters: Counters = field(default_factory=Counters)

    def note(
        self, rpc: str, request: Message, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> dict[str, str | bytes]:
        """Record a request. Returns its metadata."""
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())
        self.received.append(Received(rpc, request, metadata))
        return dict(metadata)


class Injected(Exception):
    """Raised when a fault applies."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.details)
        self.fault = fault


async def interrupted(messages: AsyncGenerator[_M, None], fault: Fault | None) -> AsyncIterator[_M]:
    """The messages, until the fault raises Injected in place of one."""
    interruption = fault if fault is not None and fault.status is not None else None
    async with aclosing(messages):
        if fault is not None:
            await asyncio.sleep(fault.delay)
        if interruption is not None and interruption.after == 0:
            raise Injected(interruption)  # without waiting for a message
        sent = 0
        async for message in messages:
            if interruption is not None and sent == interruption.after:
                raise Injected(interruption)
            yield message
            sent += 1
