"""Whatever a client or a gateway sends, the mapping returns a message or raises an SmgError.

Every input is bounded: in what it makes, and in the steps that it takes.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_messages import random_message

from frontdoor.golden import CASES, request_of
from frontdoor.replay import EXCHANGES, sse
from frontdoor.tables import REPLY_TABLES, REQUEST_TABLES
from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_response, reading
from smg_proto._http.fields import (
    MAX_ITEMS_IN_A_LIST,
    MAX_JSON_TEXT_BYTES,
    MAX_VIOLATIONS,
    read_reply,
    write_request,
)
from smg_proto._http.mapping import chat, completion, conversation, media, message, others, response
from smg_proto._http.mapping.streams import StreamReader
from smg_proto._http.shapes import parse
from smg_proto._http.sse import Decoder
from smg_proto.errors import SmgError, from_status_bytes, to_status_bytes

Json = Any
Code = grpc.StatusCode
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def nested(depth: int, opened: str = "[", closed: str = "]") -> str:
    return opened * depth + closed * depth


# Values that are nothing that belongs there, or too much of it.
ODD: list[Json] = [
    None,
    True,
    False,
    0,
    -1,
    50_000_000,
    2**31,
    2**64,
    10**400,
    1.5,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "text",
    "\ud800",
    "\0",
    "²",
    "[DONE]",
    "x" * 3000,
    [],
    [None],
    [[]],
    ["text"],
    [-1],
    [300],
    {},
    {"type": "text"},
    {"message": "\ud800", "code": 400},
    {"error": {"message": ["x"], "code": {"a": 1}, "param": 7}},
    json.loads(nested(400)),
]
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def places(data: Json, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value is."""
    yield way
    if isinstance(data, dict | list):
        for key, inner in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(inner, (*way, key))


def changed(data: Json, way: tuple[Any, ...], value: Json) -> Json:
    """The same with another value at one place."""
    if not way:
        return value
    data = copy.copy(data)
    data[way[0]] = changed(data[way[0]], way[1:], value)
    return data


ANSWERS = [answer for case in CASES for answer in case.get("answers", ())] + [
    exchange["response"]["body"]
    for exchange in EXCHANGES.values()
    if "body" in exchange["response"]
]


def one_odd(number: int, place: int, value: Json, of: list[Json]) -> Json:
    """One of the given, with an odd value at one place."""
    good = of[number % len(of)]
    ways = list(places(good))
    return changed(good, ways[place % len(ways)], value)


NUMBERS = st.integers(0, 10_000)
ODD_ANSWERS = st.builds(one_odd, NUMBERS, NUMBERS, VALUES, st.just(ANSWERS))


def size(data: Json) -> int:
    """About how many bytes it takes as JSON."""
    if isinstance(data, dict):
        return sum(len(key) + size(inner) for key, inner in data.items()) + 2
    if isinstance(data, list):
        return sum(map(size, data)) + 2
    return len(str(data)[:10_000]) + 1


# --- Answers ---


@given(data=ODD_ANSWERS | VALUES)
@settings(FUZZ, max_examples=200)
def test_any_response_is_a_reply_or_an_error(data: Json) -> None:
    for table in REPLY_TABLES.values():
        try:
            reply = read_reply(table, data, "response")
        except SmgError as error:
            assert error.reason
            assert from_status_bytes(to_status_bytes(error)).code is error.code
        else:
            assert reply.ByteSize() <= 10 * size(data) + 100


@given(data=ODD_ANSWERS | VALUES)
@settings(FUZZ, max_examples=200)
def test_any_worker_item_and_session_is_one_or_an_error(data: Json) -> None:
    for read in (
        others.read_worker,
        others.accepted_worker,
        conversation.read_item,
        media.read_session,
    ):
        try:
            reading("the worker", read, data)
        except SmgError as error:
            assert error.reason == "WORKER_ERROR"


ODD_HEADERS = ["0", "1.5", "7", "²", "nan", "inf", "-1", "1e3", "�", "\x00", "\t"]
ODD_HEADERS += ["", "9" * 14, "9" * 5000, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 99999"]
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "x-smg-error-code", "x-request-id"]),
    st.sampled_from(ODD_HEADERS) | st.text(max_size=20),
)
BODIES = (
    st.binary(max_size=50)
    | (ODD_ANSWERS | VALUES).map(lambda data: json.dumps(data).encode())
    | st.sampled_from([b"[" * 100_000, nested(980).encode(), b'{"error":' * 2000, b"\xff\xfe[]"])
)


@given(
    http=st.integers(100, 999), headers=HEADERS, body=BODIES, path=st.sampled_from(["", "/workers"])
)
@settings(FUZZ, max_examples=400)
def test_any_failure_of_the_gateway_is_a_status(
    http: int, headers: dict[str, str], body: bytes, path: str
) -> None:
    error = from_response(http, headers, body, path)
    assert error.code is not Code.OK and error.reason
    read = from_status_bytes(to_status_bytes(error))
    assert (read.code, read.reason) == (error.code, error.reason)
    assert read.metadata.get("http_status", str(http)) == str(http)
    if error.retry_after is not None:
        assert error.retry_after.total_seconds() >= 0


@given(
    raw=st.binary(max_size=60) | st.sampled_from([nested(n).encode() for n in range(960, 990, 3)])
)
@settings(FUZZ, max_examples=200)
def test_any_body_is_json_or_an_error(raw: bytes) -> None:
    from smg_proto._http.upstream import Response

    try:
        Response(200, {}, raw).json("response")
    except SmgError as error:
        assert (error.code, error.reason) == (Code.INTERNAL, "WORKER_ERROR")


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_json_as_deep_as_can_be_read_is_a_reply_or_an_error(depth: int) -> None:
    """Reading goes less deep than writing: between the two lies the depth that hurts."""
    block = '{"content":[{"type":"tool_use","id":"a","name":"f","input":%s}]}'
    text = block % nested(depth, '{"a":', "}").replace(":}", ":1}")
    try:
        data = reading("response", parse, text)
        reply = read_reply(message.REPLY, data, "response")
        assert json.loads(reply.blocks[0].tool_call.arguments)
    except SmgError as error:
        assert error.reason == "WORKER_ERROR"


# --- Streams ---

READERS: dict[str, Callable[[], StreamReader[Any]]] = {
    "chat": chat.ChatChunks,
    "completion": completion.CompletionChunks,
    "generate": lambda: completion.GenerateChunks("m"),
    "message": message.MessageEvents,
    "response": response.ResponseEvents,
    "several": lambda: completion.CompletionChunks(2, several=True),
    "transcription": media.TranscriptionEvents,
}
STREAMS = [case["events"] for case in CASES if "events" in case] + [
    exchange["response"]["events"]
    for exchange in EXCHANGES.values()
    if "events" in exchange["response"]
]


def run(reader: StreamReader[Any], *pieces: bytes) -> tuple[list[Any], str]:
    """The events, and the reason of the failure."""
    decoder = Decoder(1 << 20)
    found: list[Any] = []
    try:
        for piece in pieces:
            found.extend(reader.read(reading("an event", decoder.feed, piece)))
    except SmgError as error:
        return found, error.reason
    return found, ""


def check(found: list[Any], reason: str) -> None:
    kinds = [next(f.name for f, _ in event.ListFields()) for event in found]
    assert kinds.count("start") <= 1 and kinds.count("end") <= 1
    assert "end" not in kinds[:-1]
    assert not (reason and "end" in kinds)


ODD_STREAMS = st.builds(one_odd, NUMBERS, NUMBERS, VALUES, st.just(STREAMS))


def as_bytes(events: Json) -> bytes:
    whole = events if isinstance(events, list) else []
    pairs = [each for each in whole if isinstance(each, list) and len(each) == 2]
    named = [(str(name) if name else "", data) for name, data in pairs]
    return b"".join(
        (f"event: {name}\n" if name else "").encode(errors="replace")
        + b"data: "
        + (data if isinstance(data, str) else json.dumps(data, default=str)).encode(
            errors="replace"
        )
        + b"\n\n"
        for name, data in named
    )


@given(events=ODD_STREAMS)
@settings(FUZZ, max_examples=150)
def test_any_stream_is_events_or_an_error(events: Json) -> None:
    raw = as_bytes(events)
    for make in READERS.values():
        found, reason = run(make(), raw)
        check(found, reason)
        assert sum(event.ByteSize() for event in found) <= 10 * len(raw) + 1000


@given(
    raw=st.lists(st.sampled_from([b"data: ", b"{}", b"[]", b"1e999", b"\n\n", b"\xff"])).map(
        b"".join
    )
)
@settings(FUZZ, max_examples=200)
def test_any_bytes_are_events_or_an_error(raw: bytes) -> None:
    for make in READERS.values():
        check(*run(make(), raw))


@pytest.mark.parametrize("case", [c for c in CASES if "events" in c], ids=lambda c: str(c["name"]))
def test_a_stream_is_the_same_wherever_its_bytes_are_cut(case: dict[str, Any]) -> None:
    readers = {
        "/v1/chat/completions": "chat",
        "/v1/completions": "completion",
        "/generate": "generate",
        "/v1/messages": "message",
        "/v1/responses": "response",
        "/v1/audio/transcriptions": "transcription",
    }
    several = "prompts" in case["request"]
    make = READERS["several" if several else readers[case["http"][0]["path"]]]
    raw = b"".join(map(sse, case["events"]))
    whole, reason = run(make(), raw)
    assert whole[-1].HasField("end") and not reason

    def texts(events: list[Any]) -> tuple[Any, ...]:
        deltas = [event.delta for event in events if event.HasField("delta")]
        reasoning = ("reasoning_content", "reasoning", "reasoning_summary", "signature")
        names = ("text", "content", *reasoning, "arguments", "refusal")
        return tuple("".join(getattr(delta, name, "") for delta in deltas) for name in names)

    # A reader sees no bytes, only the events that came together: one cut for each number of them.
    events, cuts = Decoder().feed(raw), dict[int, int]()
    for cut in range(1, len(raw)):
        decoder = Decoder()
        first = decoder.feed(raw[:cut])
        assert first + decoder.feed(raw[cut:]) == events
        cuts[len(first)] = cut
    assert len(cuts) > 1
    for cut in cuts.values():
        found, reason = run(make(), raw[:cut], raw[cut:])
        assert not reason and found[-1] == whole[-1] and texts(found) == texts(whole)
    found, reason = run(make(), *(raw[place : place + 1] for place in range(len(raw))))
    assert not reason and found[-1] == whole[-1] and texts(found) == texts(whole)


# --- Requests ---

TEXTS = [
    "",
    "{",
    "[]",
    "NaN",
    '{"a":NaN}',
    '{"a":1e999}',
    '{"a":-1e999}',
    '{"a":Infinity}',
    '{"a":"\\ud800"}',
    '{"a":"\\ud83d\\ude00"}',
    nested(100_000),
    nested(700, '{"a":', "}").replace(":}", ":1}"),
    nested(199, '{"a":', "}").replace(":}", ":1}"),
    '{"a":' + "9" * 400 + "}",
    '{"a":' + "9" * 5000 + "}",
    '{"a":0.1e-999}',
    '{"":{}}',
    "\0",
    "{}",
]


def fill_json_texts(request: Any, texts: Iterator[str]) -> None:
    """Put odd texts into every field of JSON that is set."""
    for field, value in request.ListFields():
        if (field.name.endswith("json") and isinstance(value, str)) or field.name == "arguments":
            setattr(request, field.name, next(texts))
        elif field.message_type and not field.message_type.GetOptions().map_entry:
            for inner in value if hasattr(value, "append") else [value]:
                fill_json_texts(inner, texts)


@given(
    name=st.sampled_from(sorted(REQUEST_TABLES)),
    seed=st.integers(0, 2**16),
    full=st.booleans(),
    texts=st.lists(st.sampled_from(TEXTS), min_size=1),
)
@settings(FUZZ, max_examples=400)
def test_any_request_is_json_or_rejected_by_name(
    name: str, seed: int, full: bool, texts: list[str]
) -> None:
    table = REQUEST_TABLES[name]
    request = random_message(table.message, seed, full=full)
    fill_json_texts(request, (texts[n % len(texts)] for n in range(10_000)))
    send_or_reject(table, request)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: str(text[:20]))
def test_a_valid_request_with_odd_json_is_sent_or_rejected(text: str) -> None:
    for request in (request_of(case) for case in CASES if "frames" not in case):
        fill_json_texts(request, (text for _ in range(1000)))
        for table in REQUEST_TABLES.values():
            if isinstance(request, table.message):
                send_or_reject(table, request)


def send_or_reject(table: Any, request: Any) -> None:
    try:
        out = write_request(table, request)
    except SmgError as error:
        assert error.code is Code.INVALID_ARGUMENT and error.field_violations
        assert all(violation.field for violation in error.field_violations)
        return
    sent = json.dumps(out, ensure_ascii=False, allow_nan=False).encode()
    assert parse(sent.decode()) == out


# --- Steps ---


def steps(function: Callable[[], Any]) -> int:
    """Functions called, as a measure of time that no load of the machine changes."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def attempt(function: Callable[..., Any], *args: Any) -> None:
    try:
        function(*args)
    except SmgError as error:
        to_status_bytes(error)


def growing(number: int) -> dict[str, Callable[[], Any]]:
    """Work for inputs of so many parts, each of which is made to be slow."""
    bad = smg.ChatRequest(model="m", messages=[smg.ChatMessage() for _ in range(number)])
    batch = smg.EmbedRequest(model="m", inputs=[smg.EmbedInput(text="a")] * number)
    tool = smg.Tool(function=smg.FunctionTool(name="f"))
    tools = smg.ChatRequest(model="m", tools=[tool] * number)
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    call = {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}}
    logprob = {"token": "a", "logprob": -1, "top_logprobs": [{"token": "b", "logprob": -2}]}
    choice = {"index": 0, "message": {"role": "assistant"}, "logprobs": {"content": [logprob]}}
    details = {"detail": [{"loc": ["body", "x"], "msg": "m"}] * number}
    lines = b"data: x\n" * number

    def stream(*events: Json) -> Callable[[], Any]:
        raw = b"".join(sse([None, event]) for event in events)
        return lambda: run(chat.ChatChunks(), raw)

    return {
        "a request with many faults": lambda: attempt(write_request, chat.REQUEST, bad),
        "many inputs": lambda: attempt(write_request, others.EMBED_REQUEST, batch),
        "many tools": lambda: attempt(write_request, chat.REQUEST, tools),
        "many deltas": stream(*[chunk] * number),
        "many choices": stream(*[chunk | {"choices": [{"index": n}]} for n in range(number)]),
        "many pieces of a tool call": stream(*[chunk | {"choices": [call]}] * number),
        "many choices in a reply": lambda: attempt(
            read_reply, chat.REPLY, {"choices": [choice] * number}, "it"
        ),
        "many violations": lambda: attempt(
            from_response, 422, {}, json.dumps(details).encode(), ""
        ),
        "many lines": lambda: Decoder().feed(lines),
        "single bytes": lambda: [Decoder().feed(b"x") for _ in range(number)],
    }


@pytest.mark.parametrize("what", growing(1))
def test_ten_times_the_input_takes_about_ten_times_the_steps(what: str) -> None:
    few, many = steps(growing(200)[what]), steps(growing(2000)[what])
    assert many <= 12 * few


def test_limits_are_named() -> None:
    messages = [smg.ChatMessage() for _ in range(500)]
    with pytest.raises(SmgError) as caught:
        write_request(chat.REQUEST, smg.ChatRequest(model="m", messages=messages))
    assert len(caught.value.field_violations) == MAX_VIOLATIONS
    empty = [smg.EmbedInput(text="")]
    many = smg.EmbedRequest(model="m", inputs=empty * (MAX_ITEMS_IN_A_LIST + 1))
    with pytest.raises(SmgError, match=f"inputs: must have at most {MAX_ITEMS_IN_A_LIST} items"):
        write_request(others.EMBED_REQUEST, many)
    long = " " * MAX_JSON_TEXT_BYTES + "{}"
    request = smg.ChatRequest(model="m", messages=messages[:0], chat_template_kwargs_json=long)
    with pytest.raises(SmgError, match=r"chat_template_kwargs_json: must be at most \d+ bytes"):
        write_request(chat.REQUEST, request)
