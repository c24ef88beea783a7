"""A worker that speaks HTTP and always gives the same answers, for what gRPC workers cannot do."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

MODEL = "demo-model"
SESSION = {
    "id": "sess_1",
    "object": "realtime.session",
    "model": MODEL,
    "client_secret": {"value": "ek_1", "expires_at": 1_900_000_000},
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
ANSWERS: dict[str, Any] = {
    "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "us"}]},
    "/get_model_info": {"model_path": MODEL, "tokenizer_path": "", "is_generation": True},
    "/get_server_info": {"model_path": MODEL, "served_model_name": MODEL, "version": "1.2.3"},
    "/v1/loads": {"loads": [{"dp_rank": 0, "num_running_reqs": 1, "num_waiting_reqs": 0}]},
    "/rerank": [{"score": 0.9, "index": 1}, {"score": 0.25, "index": 0}],
    "/v1/classify": {
        "id": "c",
        "object": "list",
        "created": 1_700_000_000,
        "model": MODEL,
        "data": [{"index": 0, "label": "good", "probs": [0.75, 0.25], "num_classes": 2}],
        "usage": USAGE,
    },
    "/v1/embeddings": {
        "object": "list",
        "model": MODEL,
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
        "usage": USAGE,
    },
    "/v1/completions": {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "text": "so it is", "finish_reason": "stop"}],
        "usage": USAGE,
    },
    "/v1/chat/completions": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "so it is"},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    },
    "/v1/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "so it is"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 3},
    },
    "/v1/responses": {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": MODEL,
        "status": "completed",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "so it is", "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6},
    },
    "/generate": {
        "text": "so it is",
        "output_ids": [1, 2, 3],
        "meta_info": {
            "id": "gnt-1",
            "finish_reason": {"type": "stop"},
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "cached_tokens": 0,
        },
    },
    "/v1/audio/transcriptions": {"text": "hello there", "language": "en", "duration": 1.5},
    "/v1/systemone": {  # decisions, as SGLang calls them
        "model": MODEL,
        "answers": {
            "q0": {"type": "noul", "noul": 0.75, "x_label_mass": 0.9},
            "q1": {
                "type": "choice",
                "choice": "o1",
                "confidence": 0.5,
                "probabilities": {"o1": 0.8, "o0": 0.2},
                "x_label_mass": 0.9,
            },
            "q2": {
                "type": "score",
                "score": 0.25,
                "confidence": 0.6,
                "probabilities": {"0": 0.75, "1": 0.25},
                "legend": {"0": {"label": "low"}, "1": {"label": "high"}},
                "x_label_mass": 0.9,
            },
        },
        "usage": {"input_tokens": 5, "output_tokens": 0},
    },
    "/v1/realtime/sessions": SESSION,
    "/v1/realtime/transcription_sessions": SESSION,
    "/v1/realtime/client_secrets": {"value": "ek_2", "expires_at": 1_900_000_000, "session": {}},
}
ANSWERS["/v1/rerank"] = ANSWERS["/rerank"]
ANSWERS["/model_info"] = ANSWERS["/get_model_info"]
ANSWERS["/server_info"] = ANSWERS["/get_server_info"]
ORDERS = ("/health", "/health_generate", "/flush_cache", "/start_profile", "/stop_profile")
TRANSCRIPT = [
    '{"type":"transcript.text.delta","delta":"hello "}',
    '{"type":"transcript.text.delta","delta":"there"}',
    '{"type":"transcript.text.done","text":"hello there"}',
]
METRICS = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1\n"


@dataclass
class HttpWorker:
    """Where it is, and the JSON that each path received."""

    url: str = ""
    received: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST" and request.content_type == "application/json":
            self.received.append((request.path, json.loads(await request.read() or b"null")))
        return await answer(request)


async def answer(request: web.Request) -> web.StreamResponse:
    if request.path == "/v1/realtime":
        return await realtime(request)
    body = await request.read()
    if request.path in ORDERS:
        return web.Response(text="OK")
    if request.path == "/metrics":
        return web.Response(text=METRICS)
    if request.path == "/v1/audio/transcriptions" and b'name="stream"\r\n\r\ntrue' in body:
        text = "".join(f"data: {event}\n\n" for event in TRANSCRIPT)
        return web.Response(text=text, content_type="text/event-stream")
    if request.path == "/v1/embeddings" and (size := json.loads(body).get("dimensions")):
        vector = ([0.25, -0.5] * size)[:size]
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        return web.json_response(ANSWERS[request.path] | {"data": data})
    if request.path in ANSWERS:
        return web.json_response(ANSWERS[request.path])
    return web.Response(status=404)


async def realtime(request: web.Request) -> web.WebSocketResponse:
    """Greets; repeats the sound that it gets; says one thing when it is asked for a response."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "session.created", "event_id": "e1", "session": SESSION})
    async for frame in socket:
        if frame.type is not WSMsgType.TEXT:
            break
        event = frame.json()
        if event["type"] == "input_audio_buffer.append":
            sound = {"type": "response.output_audio.delta", "delta": event["audio"]}
            await socket.send_json(sound | {"event_id": "e2"})
        elif event["type"] == "response.create":
            await socket.send_json({"type": "response.done", "event_id": "e3", "response": {}})
    return socket


@contextmanager
def http_worker() -> Iterator[HttpWorker]:
    """The worker in a thread of its own."""
    worker = HttpWorker()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", worker.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    worker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield worker
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
