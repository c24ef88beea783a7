"""Answers and faults that a test sets for the fakes, and what the fakes have counted."""

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
    """A call for an answer to make. The arguments are JSON text.

    With `server_label` it is a call of an MCP server's tool. In responses the gateway runs it: it
    returns `output`, or fails with `error`.
    """

    name: str
    arguments: str = "{}"
    server_label: str = ""
    output: str = ""
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model is to say instead of its own words, for one request.

    Reasoning and calls are written as the built-in model's tags around the text; an engine sends
    them as they are, a gateway takes them apart. Stops and max_tokens apply to it as to any text.
    Calls of MCP tools come before the text, which goes on from their results.
    """

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Call] = ()
    # Said in place of a text: a gateway has it as a refusal.
    refusal: str = ""
    # From a gateway only: parts, blocks or items of kinds that smg.v1 has no field for.
    opaque: Sequence[smg_pb2.Opaque] = ()
    # How the answer is said to end, for "error", "repetition" and the like. Empty: as it does.
    finish_reason: str = ""

    def written(self) -> str:
        """The model's whole output."""
        thought = f"<think>\n{self.reasoning}\n</think>\n\n" if self.reasoning else ""
        run = written_calls(call for call in self.calls if call.server_label)
        calls = written_calls(call for call in self.calls if not call.server_label)
        return thought + run + (self.refusal or self.text) + calls


def written_calls(calls: Iterable[Call]) -> str:
    """Tool calls in the built-in model's own syntax."""
    return "".join(
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n'
        "</tool_call>"
        for call in calls
    )


@dataclass(frozen=True)
class Fault:
    """What is to go wrong with one RPC: a delay, then in place of a message a status.

    `after` is the number of messages that come before; a stream that has no more stays whole.
    Status OK cuts the stream: it ends too early, as if the model behind it had gone away. An
    engine then ends without `complete`; a gateway, which must not pretend, answers UNAVAILABLE
    with STREAM_TRUNCATED. Without a status there is only the delay.
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

    def fits(self, rpc: str, request: Message, *, generates: bool) -> bool:
        meant = generates if self.rpc is None else self.rpc == rpc
        return meant and (self.when is None or self.when(request))


class Script:
    """What is to happen with the next requests. Safe to use from any thread."""

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
        """Have the next request get this answer or fault; several wait in line.

        `rpc` is the RPC's short name ("HealthCheck"), None any that generates; `when` looks at the
        request; `times` is for how many requests it holds, None for all. A request takes the first
        answer and the first fault that fit it.
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
                fits = entry.fits(rpc, request, generates=generates)
                if isinstance(entry.action, kind) and fits:
                    if entry.times is not None:
                        entry.times -= 1
                        if entry.times <= 0:
                            self._entries.remove(entry)
                    return entry.action
        return None


@dataclass
class Counters:
    """What became of the generation requests so far."""

    started: int = 0
    finished: int = 0
    failed: int = 0
    aborted: int = 0  # by an Abort
    cancelled: int = 0  # by the client, its deadline or its end

    @property
    def running(self) -> int:
        return self.started - self.finished - self.failed - self.aborted - self.cancelled


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

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
        """Keep a request; its metadata."""
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or ())
        self.received.append(Received(rpc, request, metadata))
        return dict(metadata)


class Injected(Exception):
    """A fault's moment has come."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.details)
        self.fault = fault


async def interrupted(messages: AsyncGenerator[_M, None], fault: Fault | None) -> AsyncIterator[_M]:
    """The messages, until the fault strikes in place of one: then Injected."""
    strikes = fault if fault is not None and fault.status is not None else None
    async with aclosing(messages):
        if fault is not None:
            await asyncio.sleep(fault.delay)
        if strikes is not None and strikes.after == 0:
            raise Injected(strikes)  # without waiting for a message
        sent = 0
        async for message in messages:
            if strikes is not None and sent == strikes.after:
                raise Injected(strikes)
            yield message
            sent += 1
