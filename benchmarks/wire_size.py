#!/usr/bin/env python3
"""Bytes on the wire of smg.v1, beside the same as JSON over HTTP from the same gateway's routes.

    .venv/bin/python benchmarks/wire_size.py

Prints a table. A message counts with the 5 bytes that gRPC puts before it; server-sent events count
as the gateway sends them, blank line included, their ids as long as its own. Neither counts HTTP/2
frames, headers or compression. The texts are those of the built-in model.
Exit: 0 all bars kept, 1 one is missed.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.testing import run_gateway

FRAME = 5  # compressed flag and length, before each message
BAR = 20  # bytes of message for a delta with one token of text
MODEL = "demo-model"
ASKED = "What is a stream?"
CITY = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
# As long as the gateway's: a prefix, 24 letters and a UUID.
REST = "A" * 24 + "-" + "0" * 36
ITEM = "msg_" + "A" * 32


@dataclass(frozen=True)
class Api:
    """One way to ask: the request in both forms, and the event of one text delta in both."""

    name: str
    request: Message
    body: dict[str, Any]
    stream: Callable[[grpc.Channel], Callable[[Any], Any]]
    text: Callable[[Any], str]
    event: Callable[[str, int], tuple[str, dict[str, Any]]]


def completion_event(text: str, number: int) -> tuple[str, dict[str, Any]]:
    choice = {"text": text, "index": 0, "finish_reason": None}
    return "", {
        "id": f"cmpl-{REST}",
        "object": "text_completion",
        "created": 1700000000,
        "choices": [choice],
        "model": MODEL,
        "system_fingerprint": "default",
    }


def chat_event(text: str, number: int) -> tuple[str, dict[str, Any]]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return "", {
        "id": f"chatcmpl-{REST}",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "system_fingerprint": "default",
        "choices": [choice],
    }


def message_event(text: str, number: int) -> tuple[str, dict[str, Any]]:
    kind = "content_block_delta"
    return kind, {"type": kind, "index": 0, "delta": {"type": "text_delta", "text": text}}


def response_event(text: str, number: int) -> tuple[str, dict[str, Any]]:
    kind = "response.output_text.delta"
    return kind, {
        "type": kind,
        "sequence_number": number,
        "output_index": 0,
        "item_id": ITEM,
        "content_index": 0,
        "delta": text,
    }


def output() -> list[dict[str, str]]:
    return [{"role": "user", "content": ASKED}]


FUNCTION = {"name": "get_weather", "description": "Temperature.", "parameters": json.loads(CITY)}
TOOL = pb.Tool(
    function=pb.FunctionTool(name="get_weather", description="Temperature.", parameters_json=CITY)
)
APIS = [
    Api(
        "Complete",
        pb.CompletionRequest(model=MODEL, prompt=ASKED, max_tokens=64, temperature=0.5),
        {"model": MODEL, "prompt": ASKED, "max_tokens": 64, "temperature": 0.5, "stream": True},
        lambda channel: rpc.CompletionServiceStub(channel).StreamComplete,
        lambda event: event.delta.text,
        completion_event,
    ),
    Api(
        "Chat",
        pb.ChatRequest(
            model=MODEL, messages=[pb.ChatMessage(role=pb.ROLE_USER, content=ASKED)], tools=[TOOL]
        ),
        {
            "model": MODEL,
            "messages": output(),
            "tools": [{"type": "function", "function": FUNCTION}],
            "stream": True,
        },
        lambda channel: rpc.ChatServiceStub(channel).StreamChat,
        lambda event: event.delta.content,
        chat_event,
    ),
    Api(
        "CreateMessage",
        pb.CreateMessageRequest(
            model=MODEL,
            turns=[pb.Turn(role=pb.ROLE_USER, blocks=[pb.MessageBlock(text=ASKED)])],
            max_tokens=64,
        ),
        {"model": MODEL, "messages": output(), "max_tokens": 64, "stream": True},
        lambda channel: rpc.MessageServiceStub(channel).StreamMessage,
        lambda event: event.delta.text,
        message_event,
    ),
    Api(
        "CreateResponse",
        pb.CreateResponseRequest(model=MODEL, input=ASKED),
        {"model": MODEL, "input": ASKED, "stream": True},
        lambda channel: rpc.ResponseServiceStub(channel).StreamResponse,
        lambda event: event.delta.text,
        response_event,
    ),
]


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def sse(kind: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    name = f"event: {kind}\n".encode() if kind else b""
    return name + b"data: " + dumps(data) + b"\n\n"


def main() -> int:
    missed = 0
    print("| RPC | | messages, bytes | JSON, bytes | times |\n|---|---|---:|---:|---:|")
    with run_gateway() as address, grpc.insecure_channel(address) as channel:
        for api in APIS:
            ours = api.request.ByteSize() + FRAME
            theirs = len(dumps(api.body))
            print(f"| {api.name} | request | {ours} | {theirs} | {theirs / ours:.1f} |")
            events = [event for event in api.stream(channel)(api.request) if api.text(event)]
            sizes = [event.ByteSize() for event in events]
            missed += max(sizes) > BAR
            deltas = statistics.mean(sizes) + FRAME
            sent = [len(sse(*api.event(api.text(event), n))) for n, event in enumerate(events)]
            lines = statistics.mean(sent)
            print(f"| | one-token delta | {deltas:.1f} | {lines:.1f} | {lines / deltas:.1f} |")
            print(f"| | its largest message | {max(sizes)} | | at most {BAR} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
