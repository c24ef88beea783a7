"""Recorded answers of the real gateway, one by one: each becomes the reply or status it should."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from e2e import views

from frontdoor import recorded
from frontdoor.calls import CONVERSATIONS, GENERATED, REQUESTS, STREAMS, call, failure
from frontdoor.replay import EXCHANGES, Upstream
from smg_proto import smg_pb2 as smg

Code = grpc.StatusCode

UNARY = {
    "/v1/completions": "CompletionService.Complete",
    "/v1/chat/completions": "ChatService.Chat",
    "/v1/messages": "MessageService.CreateMessage",
    "/v1/responses": "ResponseService.CreateResponse",
}
STREAMED = dict(zip(UNARY, GENERATED, strict=True))
VIEWS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "CompletionService.Complete": (views.completion, views.completion_http),
    "ChatService.Chat": (views.chat, views.chat_http),
    "MessageService.CreateMessage": (views.message, views.message_http),
    "ResponseService.CreateResponse": (views.response, views.response_http),
}
STREAM_VIEWS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "CompletionService.StreamComplete": (views.completion_stream, views.completion_stream_http),
    "ChatService.StreamChat": (views.chat_stream, views.chat_stream_http),
    "MessageService.StreamMessage": (views.message_stream, views.message_stream_http),
    "ResponseService.StreamResponse": (views.response_stream, views.response_stream_http),
}
# What recorded errors become. The status and the gateway's code are in the recording.
FAILURES = {
    "completion_token_ids_refused": (Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    "completion_stream_error_after_chunks": (Code.INTERNAL, "WORKER_ERROR"),
    "completion_worker_invalid_argument": (Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    "chat_stream_error_after_chunks": (Code.INTERNAL, "WORKER_ERROR"),
    "chat_missing_field": (Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    "chat_out_of_range": (Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    "chat_model_not_found": (Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    "chat_context_length_exceeded": (Code.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED"),
    "chat_worker_unavailable": (Code.UNAVAILABLE, "WORKER_UNAVAILABLE"),
    "chat_worker_exhausted": (Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
    "chat_finish_reason_error": (Code.INTERNAL, "WORKER_ERROR"),
    "message_stream_error_after_chunks": (Code.INTERNAL, "WORKER_ERROR"),
    "message_worker_unavailable": (Code.UNAVAILABLE, "WORKER_UNAVAILABLE"),
    "response_stream_failed": (Code.INTERNAL, "WORKER_ERROR"),
    "auth_missing": (Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    "auth_bad": (Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    "queue_full": (Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
    "body_too_large": (Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
    # Each of these by the RPC that meets it.
    "response_not_found": (Code.NOT_FOUND, "RESPONSE_NOT_FOUND"),
    "response_cancel_refused": (Code.FAILED_PRECONDITION, "RESPONSE_NOT_CANCELLABLE"),
    "tokenize_unknown_model": (Code.NOT_FOUND, "TOKENIZER_NOT_FOUND"),
    "parse_unknown": (Code.NOT_FOUND, "PARSER_NOT_FOUND"),
    "worker_exists": (Code.ALREADY_EXISTS, "WORKER_ALREADY_EXISTS"),
    "worker_not_found": (Code.NOT_FOUND, "WORKER_NOT_FOUND"),
    "worker_bad_id": (Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    "control_plane_forbidden": (Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
}
# Not what an RPC would meet: bare health paths and URLs.
NO_RPC = {
    "health",
    "readiness",
    "readiness_no_worker",
    "unknown_path",
    "models_none",  # no failure: see below
}
SEVERAL = {
    "completion_two_prompts": "CompletionService.Complete",
    "completion_stream_n2": "CompletionService.StreamComplete",
}
OTHERS = {
    "response_not_found": "ResponseService.GetResponse",
    "response_cancel_refused": "ResponseService.CancelResponse",
    "response_deleted": "ResponseService.DeleteResponse",
    "response_input_items": "ResponseService.ListResponseInputItems",
    "message_count_tokens": "MessageService.CountMessageTokens",
    "tokenize_unknown_model": "TokenizerService.Tokenize",
    "tokenize": "TokenizerService.Tokenize",
    "tokenize_many": "TokenizerService.Tokenize",
    "detokenize": "TokenizerService.Detokenize",
    "detokenize_many": "TokenizerService.Detokenize",
    "embedding": "EmbeddingService.Embed",
    "classify": "EmbeddingService.Classify",
    "parse_reasoning": "ParserService.ParseReasoning",
    "parse_function_call": "ParserService.ParseToolCalls",
    "parse_unknown": "ParserService.ParseToolCalls",
    "models": "ModelService.ListModels",
    "workers": "WorkerService.ListWorkers",
    "worker_add": "WorkerService.CreateWorker",
    "worker_exists": "WorkerService.CreateWorker",
    "worker_patch": "WorkerService.UpdateWorker",
    "worker_delete": "WorkerService.DeleteWorker",
    "worker_not_found": "WorkerService.DeleteWorker",
    "worker_bad_id": "WorkerService.GetWorker",
    "loads": "WorkerService.GetWorkerLoads",
    "flush_cache": "WorkerService.FlushCache",
    "flush_cache_partial": "WorkerService.FlushCache",
    "control_plane_forbidden": "WorkerService.FlushCache",
    "generate": "CompletionService.Complete",
    "generate_stream": "CompletionService.StreamComplete",
}
GENERATIONS = sorted(EXCHANGES.keys() - OTHERS.keys() - NO_RPC - SEVERAL.keys() - FAILURES.keys())


def rpc_of(name: str) -> str:
    exchange = EXCHANGES[name]
    if name in OTHERS:
        return OTHERS[name]
    streams = "events" in exchange["response"]
    return (STREAMED if streams else UNARY)[exchange["request"]["path"]]


def test_every_recording_is_used() -> None:
    known = {*GENERATIONS, *OTHERS, *SEVERAL, *FAILURES, *NO_RPC}
    assert known == EXCHANGES.keys()
    assert all(EXCHANGES[name]["response"]["status"] == 200 for name in GENERATIONS)


@pytest.mark.parametrize("name", GENERATIONS)
async def test_a_recorded_generation_is_read(
    upstream: Upstream, channel: grpc.aio.Channel, name: str
) -> None:
    upstream.replay(name)
    method = rpc_of(name)
    reply = await call(channel, method)
    response = EXCHANGES[name]["response"]
    if method in VIEWS:
        ours, theirs = VIEWS[method]
        body = response["body"]
        if body.get("status") == "queued":
            body = body | {"usage": EXCHANGES["response"]["response"]["body"]["usage"]}
            assert not reply.HasField("usage")
            assert reply.status == smg.RESPONSE_STATUS_QUEUED
            return
        assert ours(reply) == theirs(body)
        assert reply.id == body["id"]
        assert upstream.sent[0].path == EXCHANGES[name]["request"]["path"]
    else:
        read, received = STREAM_VIEWS[method]
        events = [data for _, data in response["events"] if data != "[DONE]"]
        assert read(reply) == received(events)
        assert reply[-1].end.pipeline.HasField("time_to_first_token")


SAYABLE = [
    name
    for name, exchange in EXCHANGES.items()
    if exchange["request"].get("body") and exchange["request"]["method"] == "POST"
]


@pytest.mark.parametrize("name", [name for name in SAYABLE if name not in recorded.UNSAYABLE])
async def test_a_recorded_request_is_sent_unchanged(
    upstream: Upstream, channel: grpc.aio.Channel, name: str
) -> None:
    path, body = (EXCHANGES[name]["request"][part] for part in ("path", "body"))
    upstream.answer(400, {"error": {"message": "seen"}})
    method = OTHERS.get(name) or (STREAMED if body.get("stream") else UNARY)[path]
    await failure(channel, method, recorded.REQUESTS[path](body))
    assert upstream.sent[0].path == path
    assert upstream.sent[0].body == recorded.as_sent(path, body)


@pytest.mark.parametrize("name", FAILURES)
async def test_a_recorded_failure_becomes_its_status(
    upstream: Upstream, channel: grpc.aio.Channel, name: str
) -> None:
    upstream.replay(name)
    found = await failure(channel, rpc_of(name))
    assert (found.code, found.reason) == FAILURES[name]
    response = EXCHANGES[name]["response"]
    if "events" not in response:
        assert found.metadata["http_status"] == str(response["status"])
        if param := _error(response["body"]).get("param"):
            assert [violation.field for violation in found.field_violations] == [param]
    if "retry-after" in response.get("headers", {}):
        assert found.retry_after is not None
        assert found.retry_after.total_seconds() == float(response["headers"]["retry-after"])


def _error(body: object) -> dict[str, str]:
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


async def test_parsers_tokens_and_counts_are_read(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("message_count_tokens")
    counted = await call(channel, "MessageService.CountMessageTokens")
    assert counted.prompt_tokens == _body("message_count_tokens")["input_tokens"]
    upstream.forget()
    upstream.replay("tokenize_many")
    tokens = await call(channel, "TokenizerService.Tokenize")
    assert [list(one.ids) for one in tokens.sequences] == _body("tokenize_many")["tokens"]
    upstream.forget()
    upstream.replay("detokenize_many")
    texts = await call(channel, "TokenizerService.Detokenize")
    assert list(texts.texts) == _body("detokenize_many")["text"]
    upstream.forget()
    upstream.replay("parse_reasoning")
    parsed = await call(channel, "ParserService.ParseReasoning")
    assert parsed.reasoning_content == _body("parse_reasoning")["reasoning_text"]
    upstream.forget()
    upstream.replay("parse_function_call")
    calls = await call(channel, "ParserService.ParseToolCalls")
    (function,) = (one["function"] for one in _body("parse_function_call")["tool_calls"])
    assert [(c.name, c.arguments) for c in calls.tool_calls] == [
        (function["name"], function["arguments"])
    ]


async def test_workers_loads_and_caches_are_read(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("workers")
    (worker,) = (await call(channel, "WorkerService.ListWorkers")).workers
    (there,) = _body("workers")["workers"]
    assert (worker.id, worker.spec.url) == (there["id"], there["url"])
    assert worker.state == smg.WORKER_STATE_READY
    assert worker.spec.role == smg.WORKER_ROLE_REGULAR
    assert dict(worker.spec.labels) == there["labels"]
    assert (worker.spec.priority, worker.spec.cost) == (50, 1.0)
    assert worker.models[0].context_length == 4096
    upstream.forget()
    upstream.replay("loads")
    loads = await call(channel, "WorkerService.GetWorkerLoads")
    (load,), (result,) = loads.loads, _body("loads")["loads"]
    assert load.running_requests == result["num_running_reqs"]
    assert load.kv_used_tokens == result["num_used_tokens"]
    assert load.generation_throughput == result["gen_throughput"]
    assert loads.read_time.ToJsonString() == "2026-01-01T00:00:00Z"
    upstream.forget()
    upstream.replay("flush_cache_partial")
    flushed = await call(channel, "WorkerService.FlushCache")
    assert flushed.flushed_workers == 1
    assert flushed.failures[0].worker_url == "grpc://worker-b:50051"
    assert flushed.failures[0].error.reason == "WORKER_ERROR"


async def test_a_changed_worker_is_read(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    (there,) = _body("workers")["workers"]
    for name, method in (
        ("worker_add", "WorkerService.CreateWorker"),
        ("worker_patch", "WorkerService.UpdateWorker"),
    ):
        upstream.forget()
        upstream.replay(name)
        upstream.answer(200, there)
        assert (await call(channel, method)).spec.url == there["url"]
        assert [sent.method for sent in upstream.sent] == [
            EXCHANGES[name]["request"]["method"],
            "GET",
        ]
    upstream.forget()
    upstream.replay("worker_delete")
    await call(channel, "WorkerService.DeleteWorker")
    assert [(sent.method, sent.path) for sent in upstream.sent] == [("DELETE", "/workers/a")]


async def test_a_pending_worker_has_no_invented_kind(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    (there,) = _body("workers")["workers"]
    upstream.answer(200, there | {"status": "pending"})
    worker = await call(channel, "WorkerService.GetWorker")
    assert worker.state == smg.WORKER_STATE_PENDING
    assert (worker.runtime, worker.connection_mode, len(worker.models)) == ("", "", 0)


async def test_a_gateway_without_models_has_an_empty_list(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.replay("models_none")
    assert not (await call(channel, "ModelService.ListModels")).models


async def test_several_texts_are_read_separately(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    request = recorded.completion(EXCHANGES["completion_two_prompts"]["request"]["body"])
    upstream.replay("completion_two_prompts")
    reply = await call(channel, "CompletionService.Complete", request)
    result = _body("completion_two_prompts")["choices"]
    assert [choice.text for choice in reply.choices] == [choice["text"] for choice in result]
    assert (reply.text, reply.finish_reason) == (result[0]["text"], "stop")
    upstream.forget()
    upstream.replay("completion_stream_n2")
    request = recorded.completion(EXCHANGES["completion_stream_n2"]["request"]["body"])
    events = await call(channel, "CompletionService.StreamComplete", request)
    texts = {0: "", 1: ""}
    for event in events:
        texts[event.delta.index] += event.delta.text
    assert texts == {0: "hello world", 1: "hello world"}
    ends = [event.choice_end for event in events if event.HasField("choice_end")]
    assert {(end.index, end.finish_reason) for end in ends} == {(0, "length"), (1, "length")}
    assert len(events[-1].end.choices) == 2


async def test_token_ids_are_read_from_generate(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    request = smg.CompletionRequest(model="m", prompt_token_ids=smg.TokenIds(ids=[1]))
    upstream.replay("generate")
    reply = await call(channel, "CompletionService.Complete", request)
    (there,) = _body("generate")
    assert (reply.text, list(reply.token_ids)) == (there["text"], there["output_ids"])
    assert (reply.finish_reason, reply.model) == ("length", "m")
    assert upstream.sent[0].path == "/generate"
    upstream.forget()
    upstream.replay("generate_stream")
    events = await call(channel, "CompletionService.StreamComplete", request)
    assert (
        "".join(event.delta.text for event in events) == "one two three four five six seven eight"
    )
    assert [i for event in events for i in event.delta.token_ids] == there["output_ids"]
    assert events[-1].end.usage.completion_tokens == 8
    assert not events[-1].end.id.endswith("-0")


def _body(name: str) -> Any:
    return EXCHANGES[name]["response"]["body"]


def test_every_rpc_has_a_request_here() -> None:
    from smg_proto.frontdoor import _operations

    assert REQUESTS.keys() == _operations.UNARY.keys()
    assert STREAMS.keys() == _operations.STREAMS.keys()
    assert CONVERSATIONS.keys() == _operations.CONVERSATIONS.keys()
