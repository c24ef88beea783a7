"""Recorded HTTP requests as requests of smg.v1, read by hand and apart from the tables."""

import json
from typing import Any

from smg_proto import smg_pb2 as smg

ROLES = {"user": smg.ROLE_USER, "system": smg.ROLE_SYSTEM, "assistant": smg.ROLE_ASSISTANT}
PLAIN = ("model", "temperature", "top_p", "top_k", "max_tokens", "logprobs", "n", "stop", "seed")


def chat(body: Any) -> smg.ChatRequest:
    request = smg.ChatRequest(**plain(body, "model", "n", "stop", "temperature"))
    for output in body.get("messages", ()):
        request.messages.add(role=ROLES[output["role"]], content=output["content"])
    for tool in body.get("tools", ()):
        request.tools.append(function(tool["function"], "parameters"))
    if "max_tokens" in body:
        request.max_tokens = body["max_tokens"]
    if "stop_token_ids" in body:
        request.sampling.stop_token_ids.extend(body["stop_token_ids"])
    if body.get("logprobs"):
        request.logprobs = body["top_logprobs"]
    return request


def completion(body: Any) -> smg.CompletionRequest:
    request = smg.CompletionRequest(
        **plain(body, "model", "max_tokens", "temperature", "stop", "n")
    )
    if isinstance(body["prompt"], list):
        request.prompts.extend(smg.CompletionPrompt(text=text) for text in body["prompt"])
    else:
        request.prompt = body["prompt"]
    return request


def message(body: Any) -> smg.CreateMessageRequest:
    request = smg.CreateMessageRequest(
        **plain(body, "model", "max_tokens", "system", "temperature", "top_k")
    )
    request.stop.extend(body.get("stop_sequences", ()))
    if "thinking" in body:
        request.reasoning_budget_tokens = body["thinking"]["budget_tokens"]
    for turn in body["messages"]:
        request.turns.add(role=ROLES[turn["role"]]).blocks.add(text=turn["content"])
    for tool in body.get("tools", ()):
        request.tools.append(function(tool, "input_schema"))
    return request


def response(body: Any) -> smg.CreateResponseRequest:
    request = smg.CreateResponseRequest(**plain(body, "model", "input", "background"))
    for tool in body.get("tools", ()):
        request.tools.append(function(tool, "parameters"))
    if "max_output_tokens" in body:
        request.max_tokens = body["max_output_tokens"]
    if "reasoning" in body:
        request.reasoning_effort = body["reasoning"]["effort"]
    return request


def function(tool: Any, parameters: str) -> smg.Tool:
    found = smg.FunctionTool(**plain(tool, "name", "description"))
    if parameters in tool:
        found.parameters_json = json.dumps(tool[parameters])
    return smg.Tool(function=found)


def plain(body: Any, *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


def parse_calls(body: Any) -> smg.ParseToolCallsRequest:
    request = smg.ParseToolCallsRequest(text=body["text"], parser=body["tool_call_parser"])
    for tool in body["tools"]:
        request.tools.append(function(tool["function"], "parameters"))
    return request


def worker(body: Any) -> smg.CreateWorkerRequest:
    return smg.CreateWorkerRequest(spec=smg.WorkerSpec(**plain(body, "url", "priority", "labels")))


def tokens(body: Any) -> smg.DetokenizeRequest:
    return smg.DetokenizeRequest(
        model=body["model"], sequences=[smg.TokenIds(ids=ids) for ids in body["tokens"]]
    )


REQUESTS = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/v1/messages": message,
    "/v1/messages/count_tokens": message,
    "/v1/responses": response,
    "/v1/embeddings": lambda body: smg.EmbedRequest(
        model=body["model"], inputs=[smg.EmbedInput(text=body["input"])]
    ),
    "/v1/classify": lambda body: smg.ClassifyRequest(
        model=body["model"], inputs=[smg.EmbedInput(text=body["input"])]
    ),
    "/v1/tokenize": lambda body: smg.TokenizeRequest(model=body["model"], texts=body["prompt"]),
    "/v1/detokenize": tokens,
    "/parse/reasoning": lambda body: smg.ParseReasoningRequest(
        text=body["text"], parser=body["reasoning_parser"]
    ),
    "/parse/function_call": parse_calls,
    "/workers": worker,
}
# smg.v1 cannot say it: prompts of another kind, one text or one list of tokens where it always
# sends several, a request that is no request.
UNSAYABLE = {
    "completion_token_ids_refused",
    "tokenize",
    "tokenize_unknown_model",
    "detokenize",
    "chat_missing_field",
    "generate",
    "generate_stream",
}


def as_sent(path: str, body: Any) -> Any:
    """The recorded body as the front door writes such a request."""
    body = json.loads(json.dumps(body))
    if path.startswith("/v1/messages"):
        for turn in body["messages"]:
            turn["content"] = [{"type": "text", "text": turn["content"]}]
    if path == "/v1/chat/completions" and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    if "reasoning" in body:
        body["reasoning"].pop("summary", None)
    if body.get("stream") and path in ("/v1/chat/completions", "/v1/completions"):
        body["stream_options"] = {"include_usage": True}
    return body
