"""What each RPC of smg.v1 does: an entry of UNARY, STREAMS or CONVERSATIONS."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import reading, unreadable, unsupported
from smg_proto._http.fields import M, Table, read_reply, write_request
from smg_proto._http.mapping import chat, completion, message, others
from smg_proto._http.shapes import JsonObject, is_list
from smg_proto.errors import SmgError
from smg_proto.frontdoor import _admin, _media, _stored
from smg_proto.frontdoor._calls import Call, read_response
from smg_proto.frontdoor._routes import Conversing, Streaming, Unary, relay, simple, simple_stream

# Requests that one RPC with many inputs has in flight.
INPUTS_IN_FLIGHT = 8

T = TypeVar("T")

# --- Generation ---


def generate_route(request: Any) -> tuple[str, Table[Any], Table[smg.CompletionResponse]]:
    """The route of a completion: token ids have one of their own."""
    if request.HasField("prompt_token_ids"):
        return "/generate", completion.GENERATE_REQUEST, completion.GENERATE_REPLY
    return "/v1/completions", completion.REQUEST, completion.REPLY


async def complete(call: Call, request: smg.CompletionRequest) -> smg.CompletionResponse:
    path, table, reply = generate_route(request)
    response = await call.fetch("POST", path, write_request(table, request))
    data: Any = response.json(f"response to {path}")
    if several(request):
        reading("choices", _sort_choices, data)
    one: Any = data[0] if is_list(data) and data else data  # /generate returns a list of one
    completed = read_reply(reply, one, f"response to {path}")
    completed.model = completed.model or request.model
    if several(request):
        choices: list[Any] = cast("dict[str, Any]", data)["choices"]
        read = completion.CHOICE.read
        completed.choices.extend(reading("choice", read, choice) for choice in choices)
    return completed


def _sort_choices(data: Any) -> None:
    """Sort the choices by index: the first one is the reply's own text."""
    choices: list[JsonObject] = data["choices"]
    choices.sort(key=lambda choice: choice.get("index", 0))


def several(request: smg.CompletionRequest) -> bool:
    """Whether the reply has a list of choices."""
    return request.n > 1 or bool(request.prompts)


def stream_complete(
    call: Call, request: smg.CompletionRequest
) -> AsyncGenerator[smg.CompletionEvent, None]:
    path, table, _ = generate_route(request)
    body = write_request(table, request) | {"stream": True}
    if path == "/generate":
        return relay(call, path, body, completion.GenerateChunks(request.model))
    body["stream_options"] = {"include_usage": True}
    texts = (request.n or 1) * (len(request.prompts) or 1)
    reader = completion.CompletionChunks(texts, several=several(request))
    return relay(call, path, body, reader)


# --- One request for each input ---


async def embed(call: Call, request: smg.EmbedRequest) -> smg.EmbedResponse:
    body = write_request(others.EMBED_REQUEST, request)
    size = request.dimensions if request.HasField("dimensions") else None

    def of(reply: smg.EmbedResponse) -> smg.Embedding:
        (embedding,) = reply.embeddings
        if size is not None and len(embedding.values) != size:
            returned = len(embedding.values)
            raise unsupported(f"dimensions: the worker ignores it and returned {returned}")
        return embedding

    replies = await _each(
        call, "/v1/embeddings", body, others.EMBED_REPLY, of, partial=request.allow_partial
    )
    total = smg.EmbedResponse()
    total.embeddings.extend(_part_of(smg.Embedding, reply, of) for reply in replies)
    _sum(total, replies)
    return total


async def classify(call: Call, request: smg.ClassifyRequest) -> smg.ClassifyResponse:
    body = write_request(others.CLASSIFY_REQUEST, request)

    def of(reply: smg.ClassifyResponse) -> smg.Classification:
        return reply.results[0]

    replies = await _each(
        call, "/v1/classify", body, others.CLASSIFY_REPLY, of, partial=request.allow_partial
    )
    total = smg.ClassifyResponse()
    total.results.extend(_part_of(smg.Classification, reply, of) for reply in replies)
    _sum(total, replies)
    return total


async def _each(
    call: Call,
    path: str,
    body: JsonObject,
    table: Table[M],
    of: Callable[[M], Any],
    *,
    partial: bool,
) -> list[M | SmgError]:
    """Send one request per input: the gateway would join an array into one text."""

    async def one(content: Any) -> M | SmgError:
        try:
            response = await call.fetch("POST", path, body | {"input": content})
            data = response.json(f"response to {path}")
            reply = read_reply(table, data, f"response to {path}")
            if len(data["data"]) != 1:
                raise unreadable(f"response to {path}")
            of(reply)
        except SmgError as error:
            if not partial:
                raise
            return error
        return reply

    replies = await _bounded(one, body["input"])
    failures = [reply for reply in replies if isinstance(reply, SmgError)]
    if len(failures) == len(replies):
        raise failures[0]
    return replies


def _part_of(kind: Callable[..., T], reply: Any, of: Callable[[Any], T]) -> T:
    """The result of one input, or its error."""
    if isinstance(reply, SmgError):
        return kind(error=smg.Failure(reason=reply.reason, message=reply.message))
    return of(reply)


async def _bounded(run: Callable[[Any], Awaitable[T]], inputs: list[Any]) -> list[T]:
    """The results in the order of the inputs, with a limited number in flight."""
    results: dict[int, T] = {}
    numbered = iter(enumerate(inputs))

    async def take() -> None:
        for number, content in numbered:
            results[number] = await run(content)

    tasks = [asyncio.create_task(take()) for _ in inputs[:INPUTS_IN_FLIGHT]]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(len(inputs))]


def _sum(total: Any, replies: Iterable[Any]) -> None:
    """Add the usage of all replies, and the other members of the first one."""
    succeeded = [reply for reply in replies if not isinstance(reply, SmgError)]
    total.model, total.extra_json = succeeded[0].model, succeeded[0].extra_json
    reading("usage", _add_usage, total, succeeded)


def _add_usage(total: Any, replies: Iterable[Any]) -> None:
    for reply in replies:
        if reply.HasField("usage"):
            total.usage.SetInParent()
        for field, number in reply.usage.ListFields():
            setattr(total.usage, field.name, getattr(total.usage, field.name) + number)


# --- Tokens ---


async def tokenize(call: Call, request: smg.TokenizeRequest) -> smg.TokenizeResponse:
    body = write_request(others.TOKENIZE_REQUEST, request)
    reply = read_response(
        others.TOKENIZE_REPLY, await call.fetch("POST", "/v1/tokenize", body), "/v1/tokenize"
    )
    if request.return_pieces:
        tokens = [[token] for sequence in reply.sequences for token in sequence.ids]
        texts = iter(await _texts(call, request.model, tokens))
        for sequence in reply.sequences:
            reply.pieces.add(texts=[next(texts) for _ in sequence.ids])
    return reply


async def _texts(call: Call, model: str, tokens: list[list[int]]) -> list[str]:
    """The text of each token, including special tokens."""
    if not tokens:
        return []
    body = {"model": model, "tokens": tokens, "skip_special_tokens": False}
    response = await call.fetch("POST", "/v1/detokenize", body)
    texts = list(read_response(others.DETOKENIZE_REPLY, response, "/v1/detokenize").texts)
    if len(texts) != len(tokens):
        raise unreadable("response to /v1/detokenize")
    return texts


# --- The table ---


UNARY: dict[str, Unary] = {
    "CompletionService.Complete": complete,
    "ChatService.Chat": simple("/v1/chat/completions", chat.REQUEST, chat.REPLY),
    "MessageService.CreateMessage": simple("/v1/messages", message.REQUEST, message.REPLY),
    "MessageService.CountMessageTokens": simple(
        "/v1/messages/count_tokens", message.COUNT_REQUEST, message.COUNT_REPLY
    ),
    "EmbeddingService.Embed": embed,
    "EmbeddingService.Classify": classify,
    "EmbeddingService.Rerank": simple("/rerank", others.RERANK_REQUEST, others.RERANK_REPLY),
    "TokenizerService.Tokenize": tokenize,
    "TokenizerService.Detokenize": simple(
        "/v1/detokenize", others.DETOKENIZE_REQUEST, others.DETOKENIZE_REPLY
    ),
    "ParserService.ParseReasoning": simple(
        "/parse/reasoning", others.PARSE_REASONING_REQUEST, others.PARSE_REASONING_REPLY
    ),
    "ParserService.ParseToolCalls": simple(
        "/parse/function_call", others.PARSE_CALLS_REQUEST, others.PARSE_CALLS_REPLY
    ),
    **_stored.UNARY,
    **_admin.UNARY,
    **_media.UNARY,
}
STREAMS: dict[str, Streaming] = {
    "CompletionService.StreamComplete": stream_complete,
    "ChatService.StreamChat": simple_stream(
        "/v1/chat/completions",
        chat.REQUEST,
        chat.ChatChunks,
        stream_options={"include_usage": True},
    ),
    "MessageService.StreamMessage": simple_stream(
        "/v1/messages", message.REQUEST, message.MessageEvents
    ),
    **_stored.STREAMS,
    **_admin.STREAMS,
    **_media.STREAMS,
}
# RPCs that stream in both directions.
CONVERSATIONS: dict[str, Conversing] = {"RealtimeService.Converse": _media.converse}
SERVICES = tuple(sorted({f"smg.v1.{name.partition('.')[0]}" for name in UNARY}))
_admin.SERVICES.extend(SERVICES)
