"""What the gateway answers, well or badly, is the reply or the status that it should be."""

import asyncio
import json
from collections import Counter
from typing import Any

import grpc
import pytest
from aiohttp import web

from frontdoor.calls import REQUESTS, STREAMS, call, failure, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_response, reason_of
from smg_proto._http.upstream import Upstream as HttpUpstream
from smg_proto.errors import FieldViolation, SmgError

Code = grpc.StatusCode
CHAT = EXCHANGES["chat"]["response"]["body"]

# --- HTTP 200 that is no success ---

GENERATIONS = [
    "CompletionService.Complete",
    "ChatService.Chat",
    "MessageService.CreateMessage",
    "ResponseService.CreateResponse",
    "EmbeddingService.Embed",
    "EmbeddingService.Classify",
    "EmbeddingService.Rerank",
    "TokenizerService.Tokenize",
    "TokenizerService.Detokenize",
    "ParserService.ParseReasoning",
    "ParserService.ParseToolCalls",
    "ModelService.ListModels",
    "WorkerService.ListWorkers",
    "WorkerService.GetWorker",
    "WorkerService.GetWorkerLoads",
    "WorkerService.FlushCache",
    "TokenizerService.ListTokenizers",
    "TokenizerService.GetTokenizer",
    "TokenizerService.GetTokenizerStatus",
    "TokenizerService.CreateTokenizer",
    "ConversationService.CreateConversation",
    "ConversationService.GetConversation",
    "ConversationService.ListConversationItems",
    "ConversationService.CreateConversationItems",
    "ConversationService.GetConversationItem",
    "AudioService.Transcribe",
    "RealtimeService.CreateRealtimeSession",
    "RealtimeService.CreateClientSecret",
    "DecisionService.Decide",
]


@pytest.mark.parametrize("name", GENERATIONS)
@pytest.mark.parametrize(
    "body, message",
    [
        ({"error": {"message": "it broke", "type": "server_error"}}, "it broke"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "busy"),
        ({"detail": "Not authenticated"}, "Not authenticated"),
        ({"object": "error", "message": "no such thing", "code": None}, "no such thing"),
        ({}, "could not read the gateway's"),
    ],
)
async def test_an_error_with_http_200_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel, name: str, body: Any, message: str
) -> None:
    upstream.answer(200, body)
    found = await failure(channel, name)
    assert (found.code, found.reason) == (Code.INTERNAL, "WORKER_ERROR")
    assert message in found.message


async def test_an_error_beside_a_whole_reply_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(200, CHAT | {"error": {"message": "it broke"}})
    assert "it broke" in (await failure(channel, "ChatService.Chat")).message


@pytest.mark.parametrize(
    "name, body",
    [
        ("ChatService.Chat", {"choices": "abc"}),
        ("ChatService.Chat", {"choices": []}),
        ("ChatService.Chat", {"choices": [None]}),
        ("ChatService.Chat", {"choices": [{"message": {"role": "assistant"}, "index": -1}]}),
        ("ChatService.Chat", CHAT | {"usage": "many"}),
        ("ChatService.Chat", CHAT | {"usage": {"prompt_tokens": -5}}),
        ("ChatService.Chat", CHAT | {"usage": {"prompt_tokens": 1.5}}),
        ("ChatService.Chat", CHAT | {"created": 10**20}),
        ("CompletionService.Complete", {"choices": []}),
        ("EmbeddingService.Embed", {"data": []}),
        ("EmbeddingService.Embed", {"data": [{"embedding": [1]}, {"embedding": [2]}]}),
        ("EmbeddingService.Embed", {"data": [{"embedding": "abc"}]}),
        ("TokenizerService.Tokenize", {"tokens": [1, 2]}),
        ("TokenizerService.Detokenize", {"text": "one text"}),
        ("WorkerService.CreateWorker", {}),
        ("WorkerService.CreateWorker", []),
        ("WorkerService.CreateWorker", {"worker_id": ""}),
        ("WorkerService.CreateWorker", {"worker_id": 7}),
        ("WorkerService.ListWorkers", {"workers": [{}]}),
    ],
)
async def test_a_response_of_another_shape_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel, name: str, body: Any
) -> None:
    upstream.answer(200, body)
    found = await failure(channel, name)
    assert (found.code, found.reason) == (Code.INTERNAL, "WORKER_ERROR")


@pytest.mark.parametrize("body", [b'{"created":1e400}', b'{"created":Infinity}', b'{"a":NaN}'])
async def test_numbers_beyond_json_are_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel, body: bytes
) -> None:
    upstream.answer(200, body)
    assert (await failure(channel, "ChatService.Chat")).reason == "WORKER_ERROR"


@pytest.mark.parametrize("number", [10**9, 10**9 + 0.5, True, "abc", {"a": 1}])
async def test_a_number_instead_of_bytes_takes_no_memory(
    upstream: Upstream, channel: grpc.aio.Channel, number: Any
) -> None:
    token = {"token": "a", "logprob": -1, "bytes": number}
    choice = {"index": 0, "message": {"role": "assistant"}, "logprobs": {"content": [token]}}
    upstream.answer(200, {"choices": [choice]})
    assert (await failure(channel, "ChatService.Chat")).reason == "WORKER_ERROR"
    upstream.forget()
    chunk = {"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [token]}}]}
    upstream.stream(sse([None, chunk]))
    assert (await failure(channel, "ChatService.StreamChat")).reason == "WORKER_ERROR"


async def test_empty_arguments_can_be_sent_back(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    tool_call = {"id": "c", "type": "function", "function": {"name": "now", "arguments": ""}}
    message = {"role": "assistant", "content": None, "tool_calls": [tool_call]}
    upstream.answer(200, {"choices": [{"index": 0, "message": message}]})
    reply = await call(channel, "ChatService.Chat")
    request = smg.ChatRequest(model="m", messages=[reply.choices[0].message])
    await call(channel, "ChatService.Chat", request)
    sent = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    assert upstream.sent[-1].body["messages"] == [message | {"tool_calls": [sent]}]


# --- Errors in their many forms ---


@pytest.mark.parametrize(
    "body, message, fields",
    [
        ({"object": "error", "message": "too long", "code": 400}, "too long", []),
        ({"message": "too long", "param": "prompt"}, "too long", ["prompt"]),
        ({"detail": "Not authenticated"}, "Not authenticated", []),
        (
            {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Field required"}]},
            "messages.0.role: Field required",
            ["messages.0.role"],
        ),
        ({"error": "in words", "code": "X"}, "in words", []),
        ({"error": {"message": "m", "param": "n"}}, "m", ["n"]),
        ({"detail": [7, None, {"loc": 5, "msg": 6}]}, "the gateway returned HTTP 400", []),
        ({"error": {"message": ["m"]}}, "the gateway returned HTTP 400", []),
        ("plain words", "plain words", []),
        (b"caf\xe9", "caf\ufffd", []),
        ("[" * 100_000, "[" * 1000, []),
    ],
)
async def test_an_error_s_message_is_found_in_every_form(
    upstream: Upstream, channel: grpc.aio.Channel, body: Any, message: str, fields: list[str]
) -> None:
    upstream.answer(400, body)
    found = await failure(channel, "ChatService.Chat")
    assert (found.code, found.message) == (Code.INVALID_ARGUMENT, message)
    assert [violation.field for violation in found.field_violations] == fields


@pytest.mark.parametrize(
    "http, path, code, message, reason",
    [
        (400, "", "context_length_exceeded", "", "CONTEXT_LENGTH_EXCEEDED"),
        (400, "", "multimodal_not_supported", "", "MULTIMODAL_NOT_SUPPORTED"),
        (400, "", "tokenizer_not_found", "", "TOKENIZER_NOT_FOUND"),
        (404, "", "tokenizer_not_found", "", "TOKENIZER_NOT_FOUND"),
        (404, "/v1/tokenizers/a", "", "", "TOKENIZER_NOT_FOUND"),
        (400, "/parse/reasoning", "", "Unknown parser", "PARSER_NOT_FOUND"),
        (400, "/parse/reasoning", "", "no text", "INVALID_REQUEST"),
        (400, "/v1/chat/completions", "", "Unknown role", "INVALID_REQUEST"),
        (400, "", "previous_response_not_found", "", "RESPONSE_NOT_FOUND"),
        (400, "", "conversation_not_found", "", "CONVERSATION_NOT_FOUND"),
        (404, "", "conversation_not_found", "", "CONVERSATION_NOT_FOUND"),
        (404, "/v1/conversations/a", "", "", "CONVERSATION_NOT_FOUND"),
        (400, "", "response_already_completed", "", "RESPONSE_NOT_CANCELLABLE"),
        (400, "", "another", "", "INVALID_REQUEST"),
        (404, "", "model_not_found", "", "MODEL_NOT_FOUND"),
        (404, "/v1/responses/a", "not_found", "", "RESPONSE_NOT_FOUND"),
        (404, "/v1/responses/a", "response_not_found", "", "RESPONSE_NOT_FOUND"),
        (404, "/v1/responses/a", "unknown_url", "", "ROUTE_NOT_FOUND"),
        (404, "/v1/completions", "not_found", "", "ROUTE_NOT_FOUND"),
        (404, "/workers/a", "WORKER_NOT_FOUND", "", "WORKER_NOT_FOUND"),
        (409, "/workers", "", "", "WORKER_ALREADY_EXISTS"),
        (409, "/v1/tokenizers", "", "", "TOKENIZER_ALREADY_EXISTS"),
        (409, "/v1/completions", "", "", "WORKER_ERROR"),
        (503, "", "no_available_workers", "", "NO_AVAILABLE_WORKERS"),
        (503, "", "admission_queue_timeout", "", "QUEUE_TIMEOUT"),
    ],
)
def test_code_path_and_text_refine_the_reason(
    http: int, path: str, code: str, message: str, reason: str
) -> None:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    error = from_response(http, {}, body, path)
    assert (error.reason, error.message) == (reason, message or f"the gateway returned HTTP {http}")
    assert error.metadata == {"http_status": str(http)} | ({"code": code} if code else {})


@pytest.mark.parametrize(
    "body, code, violations",
    [
        ({"error": {"code": "a", "type": "b"}, "code": "c"}, "c", []),
        ({"error": {"code": "a", "type": "b"}}, "a", []),
        ({"error": {"type": "b"}}, "b", []),
        ({"code": "c" * 101}, "c" * 100, []),
        ({"param": "p", "message": "m"}, "", [FieldViolation("p", "m")]),
        ({"error": {"param": "q"}, "param": "p", "message": "m"}, "", [FieldViolation("q", "m")]),
        (
            {"detail": [{"loc": ["body", "a", 0], "msg": "m"}, {"loc": "b", "msg": "n"}]},
            "",
            [FieldViolation("a.0", "m"), FieldViolation("", "n")],
        ),
        ({"detail": [{"msg": "m"}] * 101}, "", [FieldViolation("", "m")] * 100),
    ],
)
def test_the_code_and_the_fields_are_found_in_every_form(
    body: Any, code: str, violations: list[FieldViolation]
) -> None:
    error = from_response(400, {}, json.dumps(body).encode(), "")
    assert (error.metadata.get("code", ""), error.field_violations) == (code, violations)


@pytest.mark.parametrize(
    "header, code",
    [
        ("model_not_found", "model_not_found"),
        ("x" * 1024, "x" * 1024),
        ("x" * 1025, "other"),
        ("caf\xe9", "other"),
        ("a\tb", "other"),
        ("", "other"),
    ],
)
def test_the_code_of_the_header_comes_first(header: str, code: str) -> None:
    error = from_response(404, {"x-smg-error-code": header}, b'{"error": {"code": "other"}}', "")
    assert error.metadata["code"] == code


@pytest.mark.parametrize(
    "error, code, reason",
    [
        ({"message": "m", "code": 400.0}, Code.INTERNAL, "WORKER_ERROR"),
        ({"message": "m", "code": 599}, Code.INTERNAL, "WORKER_ERROR"),
        ({"message": "m", "code": 429}, Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
        ({"message": "m", "code": 400}, Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ({"message": "m", "code": 200}, Code.INTERNAL, "WORKER_ERROR"),
        ({"message": "m", "code": "other"}, Code.INTERNAL, "WORKER_ERROR"),
    ],
)
async def test_an_error_in_a_stream_may_have_its_http_status(
    upstream: Upstream, channel: grpc.aio.Channel, error: Any, code: Code, reason: str
) -> None:
    upstream.stream(sse([None, {"error": error}]))
    found = await failure(channel, "ChatService.StreamChat")
    assert (found.code, found.reason, found.message) == (code, reason, "m")


async def test_an_event_named_error_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.stream(sse(["error", {"message": "it broke"}]))
    assert (await failure(channel, "ChatService.StreamChat")).message == "it broke"


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        ("9" * 9, 999_999_999),
        ("0.000000009", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after_is_returned(value: str, seconds: float) -> None:
    found = from_response(503, {"retry-after": value}, b"", "").retry_after
    assert found is not None and found.total_seconds() == seconds


def test_a_retry_after_in_the_future_is_the_time_until_then() -> None:
    found = from_response(
        503, {"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, b"", ""
    ).retry_after
    assert found is not None and found.days > 1000


@pytest.mark.parametrize(
    "value",
    ["", "soon", "-1", "nan", "inf", "1e9", "²", "9" * 10, "0." + "9" * 10, "9" * 14, "9" * 5000],
)
def test_an_invalid_retry_after_is_omitted(value: str) -> None:
    error = from_response(429, {"retry-after": value}, b"", "")
    assert (error.code, error.retry_after) == (Code.RESOURCE_EXHAUSTED, None)


def test_the_gateway_s_codes_in_a_response_have_reasons() -> None:
    assert reason_of("context_length_exceeded") == "CONTEXT_LENGTH_EXCEEDED"
    assert [reason_of(code) for code in ("", "server_error", "stream_error")] == [
        "WORKER_ERROR"
    ] * 3
    assert reason_of("something_new") == "SOMETHING_NEW"


# --- Headers ---


@pytest.mark.parametrize("value", ["caf\xe9", "a\tb", "x" * 3000])
async def test_a_header_that_grpc_cannot_carry_does_not_fail_the_call(
    upstream: Upstream, channel: grpc.aio.Channel, value: str
) -> None:
    names = ("x_request_id", "x_smg_routed_worker_id", "x_smg_parser")
    upstream.answer(200, CHAT, **dict.fromkeys(names, value))
    ask = stub(channel, "ChatService.Chat")(REQUESTS["ChatService.Chat"])
    assert (await ask).choices
    assert "x-request-id" not in {key for key, _ in await ask.initial_metadata()}
    upstream.forget()
    upstream.answer(400, {"error": {"message": "no"}}, x_smg_error_code=value)
    assert (await failure(channel, "ChatService.Chat")).code is Code.INVALID_ARGUMENT


# --- Streams ---


def chunk(delta: Any, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse([None, {"choices": [choice]} | more])


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("id", [None, "", "x"])
async def test_a_stream_has_one_start(
    upstream: Upstream, channel: grpc.aio.Channel, id: str | None
) -> None:
    head = {} if id is None else {"id": id}
    first = sse([None, {"id": "", "model": "", "choices": [], "prompt_filter_results": []}])
    deltas = [chunk({"content": text}, **head) for text in "ab"]
    upstream.stream(first, *deltas, chunk({}, "stop", **head), chunk({}, "stop", **head), DONE)
    events = await call(channel, "ChatService.StreamChat")
    kinds = Counter(event.WhichOneof("event") for event in events)
    assert (kinds["start"], kinds["end"]) == (1, 1)
    assert [choice.index for choice in events[-1].end.choices] == [0]


@pytest.mark.parametrize("id", ["", "abc", "gnt-1-0"])
async def test_a_stream_of_token_ids_has_one_start(
    upstream: Upstream, channel: grpc.aio.Channel, id: str
) -> None:
    def event(text: str, finish: Any) -> bytes:
        meta = {"id": id, "finish_reason": finish}
        return sse([None, {"text": text, "output_ids": [1], "meta_info": meta}])

    upstream.stream(event("a", None), event("ab", None), event("ab", {"type": "length"}), DONE)
    request = smg.CompletionRequest(model="m", prompt_token_ids=smg.TokenIds(ids=[1]))
    events = await call(channel, "CompletionService.StreamComplete", request)
    kinds = Counter(event.WhichOneof("event") for event in events)
    assert (kinds["start"], kinds["end"]) == (1, 1)
    assert events[-1].end.finish_reason == "length"
    assert events[0].start.id == {"gnt-1-0": "gnt-1"}.get(id, id)


async def test_nothing_follows_the_end(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    late = chunk({"content": "late"})
    upstream.stream(b"".join([chunk({"content": "a"}), chunk({}, "stop"), DONE, late, DONE]))
    events = await call(channel, "ChatService.StreamChat")
    assert events[-1].HasField("end")
    assert "late" not in "".join(event.delta.content for event in events)


async def test_text_that_is_not_utf8_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    broken = chunk({"content": "XX"}).replace(b"XX", b"\xc3")
    upstream.stream(chunk({"content": "a"}), broken, chunk({}, "stop"), DONE)
    assert (await failure(channel, "ChatService.StreamChat")).reason == "WORKER_ERROR"


async def test_the_status_does_not_wait_for_the_gateway_to_close(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    closed = asyncio.Event()

    async def held_open(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk({"content": "a"}) + chunk({}, "stop") + DONE)
        await closed.wait()
        return response

    upstream.say(held_open)
    ask = stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
    events = [event async for event in ask]
    assert await ask.code() is Code.OK and events[-1].HasField("end")
    assert not closed.is_set()
    closed.set()


async def test_the_connection_of_a_finished_stream_is_reused(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    peers: list[Any] = []

    async def late(request: web.Request) -> web.StreamResponse:
        assert request.transport
        peers.append(request.transport.get_extra_info("peername"))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk({"content": "a"}) + chunk({}, "stop") + DONE)
        await asyncio.sleep(0.01)
        return response

    upstream.say(late)
    for _ in range(5):
        await call(channel, "ChatService.StreamChat")
        await asyncio.sleep(0.1)
    assert len(set(peers)) < 5


# --- Many inputs ---


async def test_inputs_are_embedded_a_few_at_a_time_and_in_order(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    in_flight = most = 0
    together = asyncio.Event()

    async def embed(request: web.Request) -> web.StreamResponse:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if in_flight >= 4:
            together.set()
        await together.wait()  # one after the other would wait for ever
        number = int((await request.json())["input"])
        await asyncio.sleep(0.01 * (number % 3))
        in_flight -= 1
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        return web.json_response({"data": [{"embedding": [number]}], "usage": usage})

    upstream.say(embed)
    request = smg.EmbedRequest(model="m", inputs=[smg.EmbedInput(text=str(n)) for n in range(40)])
    reply = await call(channel, "EmbeddingService.Embed", request)
    assert [embedding.values[0] for embedding in reply.embeddings] == list(range(40))
    assert reply.usage.prompt_tokens == 80
    assert most <= 8


async def test_the_usage_of_embeddings_is_that_of_the_worker(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    request = smg.EmbedRequest(model="m", inputs=[smg.EmbedInput(text="a")])
    for usage in ({}, {"usage": {"prompt_tokens": 0, "total_tokens": 0}}):
        upstream.forget()
        upstream.answer(200, {"data": [{"embedding": [1]}]} | usage)
        reply = await call(channel, "EmbeddingService.Embed", request)
        assert reply.HasField("usage") == bool(usage)


async def test_dimensions_that_the_worker_ignores_are_an_error(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    request = smg.EmbedRequest(model="m", inputs=[smg.EmbedInput(text="a")], dimensions=2)
    upstream.answer(200, {"data": [{"embedding": [1, 2]}]})
    reply = await call(channel, "EmbeddingService.Embed", request)
    assert list(reply.embeddings[0].values) == [1, 2]
    upstream.forget()
    upstream.answer(200, {"data": [{"embedding": [1, 2, 3]}]})
    found = await failure(channel, "EmbeddingService.Embed", request)
    assert found.reason == "UNSUPPORTED_BY_BACKEND" and "returned 3" in found.message


async def test_a_failed_input_ends_the_others(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    async def embed(request: web.Request) -> web.StreamResponse:
        if (await request.json())["input"] == "3":
            return web.json_response({"error": {"message": "not this one"}}, status=400)
        await asyncio.sleep(60)
        raise AssertionError

    upstream.say(embed)
    request = smg.EmbedRequest(model="m", inputs=[smg.EmbedInput(text=str(n)) for n in range(40)])
    found = await failure(channel, "EmbeddingService.Embed", request)
    assert (found.code, found.message) == (Code.INVALID_ARGUMENT, "not this one")
    assert len(upstream.sent) <= 8


# --- Limits of the HTTP side ---


async def test_a_response_that_is_too_large_is_a_failure(upstream: Upstream) -> None:
    async with HttpUpstream(upstream.url, max_response=1000) as http:
        upstream.answer(200, b"x" * 1000)
        assert len((await http.fetch("GET", "/a")).body) == 1000
        upstream.forget()
        upstream.answer(200, b"x" * 1001)
        with pytest.raises(SmgError, match="response: more than 1000 bytes"):
            await http.fetch("GET", "/a")
        upstream.forget()
        upstream.stream(b"data: " + b"x" * 1001)
        with pytest.raises(SmgError, match="could not read the gateway's event"):
            async with http.stream("/a", {}) as stream:
                await stream.read()


async def test_an_error_of_any_length_keeps_its_status(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(429, b"x" * (4 << 20), retry_after="3")
    found = await failure(channel, "ChatService.Chat")
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")


@pytest.mark.parametrize("status, reason", [(200, "WORKER_ERROR"), (503, "WORKER_UNAVAILABLE")])
async def test_compressed_responses_are_not_inflated(
    upstream: Upstream, channel: grpc.aio.Channel, status: int, reason: str
) -> None:
    """They were not asked for, and a few KiB can be a gigabyte."""
    upstream.answer(status, b"\x1f\x8b no gzip", content_encoding="gzip")
    for name in ("ChatService.Chat", "ChatService.StreamChat"):
        found = await failure(channel, name)
        assert found.reason == reason
        assert found.metadata.get("http_status", "200") == str(status)
    assert {requested.headers["Accept-Encoding"] for requested in upstream.sent} == {"identity"}


@pytest.mark.parametrize(
    "raw, code, reason",
    [
        (b"not HTTP at all\r\n\r\n", Code.INTERNAL, "WORKER_ERROR"),
        (b"HTTP/1.1 two hundred\r\n\r\n", Code.INTERNAL, "WORKER_ERROR"),
        (b"", Code.UNAVAILABLE, "GATEWAY_UNAVAILABLE"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Code.UNAVAILABLE, "STREAM_TRUNCATED"),
    ],
)
async def test_garbage_is_not_reported_as_an_unreachable_gateway(
    raw: bytes, code: Code, reason: str
) -> None:
    """A client may repeat a call at a gateway that is not there."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, HttpUpstream(url) as http:
        with pytest.raises(SmgError) as caught:
            await http.fetch("POST", "/a", {})
        assert (caught.value.code, caught.value.reason) == (code, reason)
