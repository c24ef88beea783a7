"""One request and reply of each RPC, as they are on both sides: golden.json.

Each case has the gRPC request, the HTTP requests that it becomes, the gateway's answers (or the
events of its stream, or the frames of its WebSocket) and the gRPC reply (or the events). `python
tests/frontdoor/golden.py` writes down what the front door does now; then read the difference, line
by line: it is what users get.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format

from smg_proto import smg_pb2 as smg

FILE = Path(__file__).with_name("golden.json")
# RPCs that send one request for each input, in no order.
ONE_EACH = ("EmbeddingService.Embed", "EmbeddingService.Classify")
PLACES = ("index", "outputIndex", "contentIndex")
CASES: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


def request_of(case: dict[str, Any]) -> Any:
    service, _, method = case["rpc"].partition(".")
    found = descriptor_pool.Default().FindServiceByName(f"smg.v1.{service}")
    kind: Any = getattr(smg, found.methods_by_name[method].input_type.name)
    if "frames" in case:
        return [json_format.ParseDict(each, kind()) for each in case["request"]]
    return json_format.ParseDict(case["request"], kind())


async def observe(case: dict[str, Any], upstream: Any, channel: grpc.aio.Channel) -> dict[str, Any]:
    """The case as it is now."""
    from frontdoor.calls import call
    from frontdoor.replay import sse

    upstream.forget()
    if "events" in case:
        upstream.stream(b"".join(map(sse, case["events"])))
    for answer in case.get("answers", ()):
        upstream.answer(200, answer)
    if "frames" in case:
        upstream.converse(*case["frames"])
    found = await call(channel, case["rpc"], request_of(case))
    if isinstance(found, list):
        reply: Any = list(joined([shown(event) for event in found]))
    else:
        reply = shown(found)
    sent = upstream.sent
    if case["rpc"] in ONE_EACH:
        sent = sorted(sent, key=lambda each: json.dumps(each.body))
    http = [
        {"method": each.method, "path": each.path}
        | ({} if each.body is None else {"body": each.body})
        for each in sent
    ]
    return case | {"http": http, "reply": reply}


def shown(message: Any) -> Any:
    """A message as JSON, but what is another one each time."""
    holders = [message, *([message.end] if "end" in kinds_of(message) else [])]
    for holder in holders:
        for name in ("pipeline", "proto_version"):
            if name in holder.DESCRIPTOR.fields_by_name:
                holder.ClearField(name)
    return json_format.MessageToDict(message)


def kinds_of(message: Any) -> set[str]:
    return {field.name for field, _ in message.ListFields()}


def joined(events: list[Any]) -> Iterator[Any]:
    """Deltas that continue one another as one: how a text is cut means nothing."""
    last: Any = None
    for event in events:
        if last and continues(last.get("delta"), event.get("delta")):
            for name, value in event["delta"].items():
                if name not in PLACES:
                    last["delta"][name] += value
            continue
        if last:
            yield last
        last = event
    yield last


def continues(ours: Any, theirs: Any) -> bool:
    if not ours or not theirs or ours.keys() != theirs.keys():
        return False
    if ours.keys() & {"toolCalls", "annotation", "annotations"}:
        return False
    return all(ours.get(name) == theirs.get(name) for name in PLACES)


async def rewrite() -> None:
    from frontdoor.replay import front_door, upstream

    async with upstream() as output, front_door(output) as channel:
        found = [await observe(case, output, channel) for case in CASES]
    lines = [
        ",\n".join(
            f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in case.items()
        )
        for case in found
    ]
    whole = ",\n".join(f" {{\n{case}\n }}" for case in lines)
    FILE.write_text(f"[\n{whole}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    asyncio.run(rewrite())
