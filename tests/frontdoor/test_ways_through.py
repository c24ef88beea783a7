"""What the contract has no field for comes through, also in pieces; what is ignored is named."""

import json
import re
from typing import Any

import grpc
import pytest
from support import ROOT

from frontdoor.calls import REQUESTS, STREAMS, call
from frontdoor.replay import EXCHANGES, Upstream, front_door, sse
from smg_proto import smg_pb2 as smg
from smg_proto._http.mapping import streams
from smg_proto._http.mapping.streams import Extras
from smg_proto.errors import SmgError
from smg_proto.frontdoor._admin import FEATURES
from smg_proto.frontdoor._ignored import Gateway, ignored_fields


def chunk(delta: dict[str, Any], index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, **more}
    return sse([None, {"id": "c", "choices": [choice], "trace": {"hops": 1}}])


async def test_members_of_chunks_are_joined(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    upstream.stream(
        chunk({"content": "a", "mood": "ca"}),
        chunk({"mood": "O"}, index=1),
        chunk({"content": "b", "mood": "lm"}),
        chunk({}, finish_reason="stop", weight=3),
        chunk({}, index=1, finish_reason="stop"),
        sse([None, {"id": "c", "choices": [], "trace": {"end": 2}}]),
        sse([None, "[DONE]"]),
    )
    end = (await call(channel, "ChatService.StreamChat"))[-1].end
    assert json.loads(end.extra_json) == {
        "choices": [
            {"index": 0, "delta": {"mood": "calm"}, "weight": 3},
            {"index": 1, "delta": {"mood": "O"}},
        ],
        "trace": {"hops": 1, "end": 2},
    }


def test_lists_grow_and_other_values_are_replaced() -> None:
    extras = Extras()
    for more in ({"ids": [1], "tier": "a", "x": {}}, {"ids": [2], "tier": "b", "x": 5}):
        extras.add(dict(more))
    assert json.loads(extras.text()) == {"ids": [1, 2], "tier": "b", "x": 5}
    assert Extras().text() == ""


def test_unknown_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_EXTRA_CHARACTERS", 100)
    extras = Extras()
    with pytest.raises(SmgError) as caught:
        for _ in range(10):
            extras.add({"delta": {"x": "a" * 20}})
    assert caught.value.reason == "WORKER_ERROR"


async def test_members_and_deltas_of_blocks_are_forwarded(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    started: Any = {"type": "text", "text": "", "colour": "red"}
    output = {"type": "text_delta", "text": "a", "weight": 2}
    odd = {"type": "wave_delta", "wave": "~"}
    events: list[Any] = [
        {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {}}},
        {"type": "content_block_start", "index": 0, "content_block": started},
        {"type": "content_block_delta", "index": 0, "delta": output},
        {"type": "content_block_delta", "index": 0, "delta": odd},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    upstream.stream(*(sse([event["type"], event]) for event in events))
    found = await call(channel, "MessageService.StreamMessage")
    (opaque,) = [event.delta.opaque for event in found if event.delta.HasField("opaque")]
    assert opaque.type == "wave_delta" and json.loads(opaque.json) == odd
    assert json.loads(found[-1].end.extra_json) == {
        "content": [{"index": 0, "colour": "red", "delta": {"weight": 2}}]
    }


async def test_events_of_unknown_items_are_forwarded(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    image = {
        "type": "response.image_generation_call.partial_image",
        "output_index": 0,
        "partial_image_b64": "AAE=",
    }
    item = {"type": "image_generation_call", "id": "ig_1", "result": "AAE="}
    response = {"id": "r", "model": "m", "status": "completed", "output": [item]}
    events: list[Any] = [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.image_generation_call.in_progress", "output_index": 0},
        image,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]
    upstream.stream(*(sse([event["type"], event]) for event in events))
    found = await call(channel, "ResponseService.StreamResponse")
    (opaque,) = [event.delta.opaque for event in found if event.HasField("delta")]
    assert opaque.type == image["type"] and json.loads(opaque.json) == image


def test_the_page_of_support_names_the_features() -> None:
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w.]+)` \|", page.partition("## Features")[2], re.MULTILINE)
    assert listed == list(FEATURES)


# --- What is ignored ---


def ignored(version: str, url: str, method: str, request: Any) -> list[str]:
    return list(ignored_fields(Gateway(version), url, method, request))


def test_ignored_fields_are_those_that_are_set_and_known() -> None:
    chat = smg.ChatRequest(sampling=smg.SamplingParams(min_tokens=1, skip_special_tokens=False))
    both = ["sampling.min_tokens", "sampling.skip_special_tokens"]
    assert ignored("1.13.0", "grpc://w:1", "ChatService.Chat", chat) == both
    assert ignored("1.13.0", "http://w:1", "ChatService.Chat", chat) == []
    assert ignored("1.99.0", "grpc://w:1", "ChatService.Chat", chat) == []
    assert ignored("", "grpc://w:1", "ChatService.Chat", chat) == []
    chat.sampling.skip_special_tokens = True
    assert ignored("1.13.0", "grpc://w:1", "ChatService.Chat", chat) == both[:1]
    assert ignored("1.13.0", "grpc://w:1", "EmbeddingService.Embed", smg.EmbedRequest()) == []


@pytest.mark.parametrize("name", ["ChatService.Chat", "ChatService.StreamChat"])
async def test_a_report_names_what_was_ignored(upstream: Upstream, name: str) -> None:
    upstream.answer(200, {"version": "smg-1.13.0", "loads": []})
    async with front_door(upstream) as channel:
        request = type(REQUESTS["ChatService.Chat"])()
        request.CopyFrom(REQUESTS["ChatService.Chat"])
        request.sampling.min_tokens = 3
        here: dict[str, Any] = {"x_smg_routed_worker_id": "grpc://w:1"}
        if name in STREAMS:
            events = map(sse, EXCHANGES["chat_stream_usage"]["response"]["events"])
            upstream.stream(*events, **here)
            report = (await call(channel, name, request))[-1].end.pipeline
        else:
            upstream.answer(200, EXCHANGES["chat"]["response"]["body"], **here)
            report = (await call(channel, name, request)).pipeline
    assert list(report.ignored_fields) == ["sampling.min_tokens"]
