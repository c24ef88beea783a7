"""Putting a stream's events together as its contract says, independently of the fakes."""

from collections.abc import Iterable
from typing import Any

from smg_proto import smg_pb2 as pb


def completion(events: Iterable[pb.CompletionEvent]) -> pb.CompletionResponse:
    start, deltas, end = _parts(events)
    reply = pb.CompletionResponse()
    reply.CopyFrom(end)
    assert (end.id, end.model) == (start.id, start.model)
    assert not end.text and not end.logprobs and not end.token_ids
    reply.text = "".join(delta.text for delta in deltas)
    reply.logprobs.extend(entry for delta in deltas for entry in delta.logprobs)
    reply.token_ids.extend(token for delta in deltas for token in delta.token_ids)
    return reply


def chat(events: Iterable[pb.ChatEvent]) -> pb.ChatResponse:
    known = list(events)
    ends = [event.choice_end for event in known if event.HasField("choice_end")]
    _, deltas, end = _parts(event for event in known if not event.HasField("choice_end"))
    assert sorted(ends, key=lambda choice: choice.index) == list(end.choices)
    reply = pb.ChatResponse()
    reply.CopyFrom(end)
    for choice in reply.choices:
        assert not choice.HasField("message") and not choice.logprobs
        mine = [delta for delta in deltas if delta.index == choice.index]
        message = choice.message
        message.role = pb.ROLE_ASSISTANT
        if any(delta.content for delta in mine):
            message.content = "".join(delta.content for delta in mine)
        message.reasoning_content = "".join(delta.reasoning_content for delta in mine)
        choice.logprobs.extend(entry for delta in mine for entry in delta.logprobs)
        pieces = [piece for delta in mine for piece in delta.tool_calls]
        for number in sorted({piece.index for piece in pieces}):
            call = [piece for piece in pieces if piece.index == number]
            assert not any(piece.id or piece.name for piece in call[1:])
            assert [piece.complete for piece in call] == [False] * (len(call) - 1) + [True]
            arguments = "".join(piece.arguments for piece in call)
            message.tool_calls.add(id=call[0].id, name=call[0].name, arguments=arguments)
    return reply


def message(events: Iterable[pb.MessageEvent]) -> pb.MessageResponse:
    known = list(events)
    plain = (event for event in known if event.WhichOneof("event") in ("start", "delta", "end"))
    _, _, end = _parts(plain)
    assert not end.blocks
    ends = [event.block_end.index for event in known if event.HasField("block_end")]
    starts = [event.block_start.index for event in known if event.HasField("block_start")]
    assert ends == starts
    reply = pb.MessageResponse()
    reply.CopyFrom(end)
    for event in known:
        if event.HasField("block_start"):
            assert event.block_start.index == len(reply.blocks)
            reply.blocks.append(event.block_start.block)
        elif event.HasField("delta"):
            assert event.delta.index == len(reply.blocks) - 1
            block, kind = reply.blocks[-1], event.delta.WhichOneof("delta")
            if kind == "text":
                assert block.WhichOneof("block") == "text"
                block.text += event.delta.text
            elif kind == "reasoning":
                assert block.WhichOneof("block") == "reasoning"
                block.reasoning.text += event.delta.reasoning
            else:
                assert block.WhichOneof("block") == "tool_call"
                block.tool_call.arguments += event.delta.arguments
    return reply


def response(events: Iterable[pb.ResponseEvent]) -> pb.Response:
    known = list(events)
    plain = (event for event in known if event.WhichOneof("event") in ("start", "delta", "end"))
    _, _, end = _parts(plain)
    assert not end.output
    reply = pb.Response()
    reply.CopyFrom(end)
    whole: list[pb.ResponseItem] = []
    for event in known:
        if event.HasField("item_start"):
            assert event.item_start.output_index == len(reply.output)
            reply.output.append(event.item_start.item)
        elif event.HasField("item_end"):
            reply.output[event.item_end.output_index].status = event.item_end.item.status
            whole.append(event.item_end.item)
        elif event.HasField("delta"):
            item = reply.output[event.delta.output_index]
            kind = event.delta.WhichOneof("delta")
            if kind == "text":
                if not item.message.parts:
                    item.message.parts.add(text="")
                item.message.parts[0].text += event.delta.text
            elif kind == "reasoning":
                item.reasoning.text += event.delta.reasoning
            else:
                item.tool_call.arguments += event.delta.arguments
    assert list(reply.output) == whole, "an item_end has what its deltas brought"
    return reply


def _parts(events: Iterable[Any]) -> tuple[Any, list[Any], Any]:
    """Start, deltas and end of a stream that has one of each, in this order."""
    known = list(events)
    kinds = [event.WhichOneof("event") for event in known]
    assert kinds == ["start", *["delta"] * (len(kinds) - 2), "end"]
    assert all(event.delta.ListFields() for event in known[1:-1]), "a delta says something"
    return known[0].start, [event.delta for event in known[1:-1]], known[-1].end
