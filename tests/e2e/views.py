"""What a client sees of a reply, the same for HTTP and gRPC: no ids, no times.

Written by hand for both sides, apart from the front door's own tables, so that a fault there
cannot hide in a fault here.
"""

import json
from collections.abc import Iterable
from typing import Any

from smg_proto import smg_pb2 as smg

Json = Any
# Of a stream that was not asked for it.
NO_USAGE: Any = {
    **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0),
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
View = dict[str, Any]
# What /v1/messages and /v1/responses call it, in the words of all services.
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "tool_use": "tool_calls",
}


def stop_of(stop: smg.MatchedStop) -> str | int | None:
    match stop.WhichOneof("stop"):
        case "text":
            return stop.text
        case "token_id":
            return stop.token_id
        case _:
            return None


def usage_of(usage: smg.Usage) -> dict[str, int]:
    return {
        "in": usage.prompt_tokens,
        "out": usage.completion_tokens,
        "all": usage.total_tokens,
        "cached": usage.cached_tokens,
        "reasoning": usage.reasoning_tokens,
    }


# --- Completions ---


def completion(reply: smg.CompletionResponse) -> View:
    return {
        "model": reply.model,
        "text": reply.text,
        "finish": reply.finish_reason,
        "stop": stop_of(reply.matched_stop),
        "in": reply.prompt_tokens,
        "out": reply.completion_tokens,
        "cached": reply.usage.cached_tokens,
    }


def completion_stream(events: Iterable[smg.CompletionEvent]) -> View:
    first, *middle, last = events
    assert first.HasField("start") and last.HasField("end")
    assert all(event.HasField("delta") for event in middle)
    assert first.start.id == last.end.id
    whole = smg.CompletionResponse()
    whole.CopyFrom(last.end)
    whole.text = "".join(event.delta.text for event in middle)
    return completion(whole)


def completion_http(reply: Json) -> View:
    choice = reply["choices"][0]
    usage = reply["usage"]
    return {
        "model": reply["model"],
        "text": choice["text"],
        "finish": choice["finish_reason"],
        "stop": choice.get("matched_stop"),
        "in": usage["prompt_tokens"],
        "out": usage["completion_tokens"],
        "cached": usage["prompt_tokens_details"]["cached_tokens"],
    }


def completion_stream_http(chunks: Iterable[Json]) -> View:
    """The chunks put together into a whole reply."""
    whole: Json = {"choices": [{"text": ""}]}
    for chunk in chunks:
        whole |= {"model": chunk["model"], "usage": chunk.get("usage") or whole.get("usage")}
        for part in chunk["choices"]:
            whole["choices"][0]["text"] += part["text"]
            whole["choices"][0]["finish_reason"] = part["finish_reason"]
    return completion_http(whole)


# --- Chats ---


def _logprob(found: smg.TokenLogprob) -> View:
    return {"token": found.token, "logprob": found.logprob, "bytes": list(found.bytes)}


def _choice(choice: smg.ChatChoice) -> View:
    message = choice.message
    assert message.role == smg.ROLE_ASSISTANT
    return {
        "index": choice.index,
        "content": message.content,
        "reasoning": message.reasoning_content,
        "calls": [(call.name, call.arguments) for call in message.tool_calls],
        "finish": choice.finish_reason,
        "stop": stop_of(choice.matched_stop),
        "logprobs": [_logprob(p) | {"top": [_logprob(t) for t in p.top]} for p in choice.logprobs],
    }


def chat(reply: smg.ChatResponse) -> View:
    choices = [_choice(choice) for choice in reply.choices]
    return {"model": reply.model, "choices": choices, "usage": usage_of(reply.usage)}


def chat_stream(events: Iterable[smg.ChatEvent]) -> View:
    first, *middle, last = events
    assert first.HasField("start") and last.HasField("end")
    whole = smg.ChatResponse()
    whole.CopyFrom(last.end)
    for choice in whole.choices:
        choice.message.role = smg.ROLE_ASSISTANT
        choice.message.content = ""
        for event in middle:
            delta = event.delta
            if delta.index == choice.index:
                choice.message.content += delta.content
                choice.message.reasoning_content += delta.reasoning_content
                choice.logprobs.extend(delta.logprobs)
                for call in delta.tool_calls:
                    while len(choice.message.tool_calls) <= call.index:
                        choice.message.tool_calls.add()
                    grown = choice.message.tool_calls[call.index]
                    assert not call.complete or json.loads(grown.arguments) is not None
                    grown.id += call.id
                    grown.name += call.name
                    grown.arguments += call.arguments
    return chat(whole)


def _logprob_http(found: Json) -> View:
    return {"token": found["token"], "logprob": found["logprob"], "bytes": found["bytes"] or []}


def chat_http(reply: Json) -> View:
    choices: list[View] = []
    for choice in reply["choices"]:
        message = choice["message"]
        assert message["role"] == "assistant"
        found = (choice.get("logprobs") or {}).get("content") or []
        calls = message.get("tool_calls") or []
        choices.append(
            {
                "index": choice["index"],
                "content": message["content"] or "",
                "reasoning": message.get("reasoning_content") or "",
                "calls": [(c["function"]["name"], c["function"]["arguments"]) for c in calls],
                "finish": choice["finish_reason"],
                "stop": choice.get("matched_stop"),
                "logprobs": [
                    _logprob_http(p) | {"top": [_logprob_http(t) for t in p["top_logprobs"]]}
                    for p in found
                ],
            }
        )
    usage = reply["usage"] or NO_USAGE
    return {
        "model": reply["model"],
        "choices": choices,
        "usage": {
            "in": usage["prompt_tokens"],
            "out": usage["completion_tokens"],
            "all": usage["total_tokens"],
            "cached": usage["prompt_tokens_details"]["cached_tokens"],
            "reasoning": usage["completion_tokens_details"]["reasoning_tokens"],
        },
    }


def chat_stream_http(chunks: Iterable[Json]) -> View:
    """The chunks put together into a whole reply."""
    whole: Json = {"choices": {}}
    for chunk in chunks:
        whole["model"] = chunk["model"]
        whole["usage"] = chunk.get("usage") or whole.get("usage")
        for part in chunk["choices"]:
            fresh: Json = {"index": part["index"], "message": {"content": "", "tool_calls": []}}
            fresh["message"] |= {"role": "assistant", "reasoning_content": ""}
            fresh["logprobs"] = {"content": []}
            choice = whole["choices"].setdefault(part["index"], fresh)
            message, delta = choice["message"], part["delta"]
            for name in ("content", "reasoning_content"):
                message[name] += delta.get(name) or ""
            for call in delta.get("tool_calls") or []:
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"function": {"name": "", "arguments": ""}})
                function = message["tool_calls"][call["index"]]["function"]
                for name in function:
                    function[name] += call["function"].get(name) or ""
            choice["logprobs"]["content"] += (part.get("logprobs") or {}).get("content") or []
            if part["finish_reason"]:
                choice["finish_reason"] = part["finish_reason"]
                choice["matched_stop"] = part.get("matched_stop")
    whole["choices"] = [whole["choices"][index] for index in sorted(whole["choices"])]
    return chat_http(whole)


# --- Messages ---


def _block(block: smg.MessageBlock) -> View:
    match block.WhichOneof("block"):
        case "text":
            return {"text": block.text}
        case "reasoning":
            return {"thinking": block.reasoning.text}
        case "tool_call":
            call = block.tool_call
            return {"tool": call.name, "input": json.loads(call.arguments or "{}")}
        case other:
            raise AssertionError(f"a block of kind {other} in a reply")


def message(reply: smg.MessageResponse) -> View:
    usage = usage_of(reply.usage)
    del usage["all"]
    return {
        "model": reply.model,
        "blocks": [_block(block) for block in reply.blocks],
        "finish": reply.finish_reason,
        "stop": stop_of(reply.matched_stop),
        "usage": usage,
    }


def message_stream(events: Iterable[smg.MessageEvent]) -> View:
    first, *middle, last = events
    assert first.HasField("start") and last.HasField("end")
    whole = smg.MessageResponse()
    whole.CopyFrom(last.end)
    for event in middle:
        if event.HasField("block_start"):
            assert event.block_start.index == len(whole.blocks)
            whole.blocks.append(event.block_start.block)
            continue
        if event.HasField("block_end"):
            assert event.block_end.index == len(whole.blocks) - 1
            continue
        block, delta = whole.blocks[event.delta.index], event.delta
        if delta.text:
            block.text += delta.text
        if delta.reasoning:
            block.reasoning.text += delta.reasoning
        if delta.arguments:
            block.tool_call.arguments += delta.arguments
    return message(whole)


def message_http(reply: Json) -> View:
    blocks: list[View] = []
    for block in reply["content"]:
        match block["type"]:
            case "text":
                blocks.append({"text": block["text"]})
            case "thinking":
                blocks.append({"thinking": block["thinking"]})
            case "tool_use":
                blocks.append({"tool": block["name"], "input": block["input"]})
    usage = reply["usage"]
    return {
        "model": reply["model"],
        "blocks": blocks,
        "finish": FINISH.get(reply["stop_reason"], reply["stop_reason"]),
        "stop": reply["stop_sequence"],
        "usage": {
            # The route counts tokens of the cache beside those of the input.
            "in": usage["input_tokens"]
            + usage["cache_read_input_tokens"]
            + usage["cache_creation_input_tokens"],
            "out": usage["output_tokens"],
            "cached": usage["cache_read_input_tokens"],
            "reasoning": usage.get("output_tokens_details", {}).get("thinking_tokens", 0),
        },
    }


def message_stream_http(events: Iterable[Json]) -> View:
    """The events put together into a whole reply."""
    whole: Json = {"content": []}
    for event in events:
        match event["type"]:
            case "message_start":
                whole |= {"model": event["message"]["model"]}
            case "content_block_start":
                whole["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                block, delta = whole["content"][event["index"]], event["delta"]
                name = {"text_delta": "text", "thinking_delta": "thinking"}.get(delta["type"])
                if name:
                    block[name] += delta[name]
                else:
                    block["json"] = block.get("json", "") + delta["partial_json"]
            case "message_delta":
                whole |= event["delta"] | {"usage": event["usage"]}
            case _:
                pass
    for block in whole["content"]:
        if "json" in block:
            block["input"] = json.loads(block["json"])
    return message_http(whole)


# --- Responses ---


def _item(item: smg.ResponseItem) -> View:
    match item.WhichOneof("item"):
        case "message":
            return {"printed": [part.text for part in item.message.parts]}
        case "reasoning":
            return {"thought": item.reasoning.text}
        case "tool_call":
            call = item.tool_call
            return {"call": call.name, "arguments": call.arguments, "server": call.server_label}
        case other:
            raise AssertionError(f"an item of kind {other} in this reply")


def response(reply: smg.Response) -> View:
    return {
        "model": reply.model,
        "status": smg.ResponseStatus.Name(reply.status).removeprefix("RESPONSE_STATUS_").lower(),
        "items": [_item(item) for item in reply.output],
        "why": reply.finish_reason,
        "usage": usage_of(reply.usage),
    }


def response_stream(events: Iterable[smg.ResponseEvent]) -> View:
    first, *middle, last = events
    assert first.HasField("start") and last.HasField("end")
    whole = smg.Response()
    whole.CopyFrom(last.end)
    texts: dict[int, str] = {}
    for event in middle:
        match event.WhichOneof("event"):
            case "delta":
                delta = event.delta
                found = delta.text or delta.reasoning or delta.arguments
                texts[delta.output_index] = texts.get(delta.output_index, "") + found
            case "item_end":
                item = _item(event.item_end.item)
                printed = "".join(item.get("printed") or ())
                made = printed or item.get("thought") or item.get("arguments") or ""
                assert texts.get(event.item_end.output_index, "") == made
                whole.output.append(event.item_end.item)
            case _:
                pass
    return response(whole)


def _why(reply: Json) -> str:
    """Why generation ended: said of a response that was cut, seen in one that was not."""
    if reply["status"] == "incomplete":
        reason: str = reply["incomplete_details"]["reason"]
        return FINISH.get(reason, reason)
    if reply["status"] != "completed":
        return ""
    called = any(item["type"] == "function_call" for item in reply["output"])
    return "tool_calls" if called else "stop"


def response_http(reply: Json) -> View:
    items: list[View] = []
    for item in reply["output"]:
        match item["type"]:
            case "message":
                items.append({"printed": [part["text"] for part in item["content"]]})
            case "reasoning":
                items.append({"thought": "".join(part["text"] for part in item["content"])})
            case "function_call":
                call = {"call": item["name"], "arguments": item["arguments"], "server": ""}
                items.append(call)
    usage = reply["usage"]
    return {
        "model": reply["model"],
        "status": reply["status"],
        "items": items,
        "why": _why(reply),
        "usage": {
            "in": usage["input_tokens"],
            "out": usage["output_tokens"],
            "all": usage["total_tokens"],
            "cached": usage["input_tokens_details"]["cached_tokens"],
            "reasoning": usage["output_tokens_details"]["reasoning_tokens"],
        },
    }


def response_stream_http(events: Iterable[Json]) -> View:
    """The final event, with the items that the others brought."""
    *others, last = events
    done = [event["item"] for event in others if event["type"] == "response.output_item.done"]
    return response_http(last["response"] | {"output": done})
