"""Prompts, keys and replies are in no log, whatever the gateway answers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from support import async_eventually

from frontdoor import raw_http2
from frontdoor.calls import stub
from frontdoor.replay import Upstream, sse
from frontdoor.test_serve import MODELS, port_of, serve
from smg_proto import smg_pb2 as smg

MARK = "sesame"
PROMPT, KEY, REPLY = f"{MARK}-prompt", f"{MARK}-key", f"{MARK}-reply"
QUOTED = {"error": {"message": f"bad prompt {PROMPT}: {REPLY}", "type": REPLY, "param": PROMPT}}


def chat(content: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"id": REPLY, "choices": [{"index": 0, "message": message}]} | more


def chunk(content: Any, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return sse([None, {"id": REPLY, "choices": [choice]}])


def answers(upstream: Upstream) -> Iterator[None]:
    """Good ones and bad ones, each ready to be given."""
    text = json.dumps(chat(REPLY))
    bodies: list[tuple[int, Any, dict[str, str]]] = [
        (200, chat(REPLY), {}),
        (200, chat(REPLY), {"x_request_id": f"{REPLY} caf\xe9", "x_smg_parser": f"{REPLY}\t"}),
        (200, chat(REPLY), {"set_cookie": f"{REPLY}=(bad; Expires={REPLY}; {REPLY}"}),
        (200, text[:-3], {}),
        (200, text.replace('"choices"', '"choices": 1, "x"'), {}),
        (200, chat([REPLY]), {}),
        (200, chat(REPLY, created=1e300), {}),
        (200, chat(REPLY + "\ud800"), {}),
        (200, f'{{"{REPLY}":' * 2000, {}),
        (200, QUOTED, {}),
        (200, REPLY.encode() + b"\xff", {"content_encoding": "gzip"}),
        (302, QUOTED, {"location": f"http://127.0.0.1:1/{REPLY}"}),
        (400, QUOTED, {}),
        (400, {"error": QUOTED["error"] | {"code": "\ud800", "param": "\ud800"}}, {}),
        (400, {"detail": [{"loc": [PROMPT], "msg": REPLY}]}, {}),
        (422, REPLY, {}),
        (429, QUOTED, {"retry_after": "9" * 5000}),
        (500, f"[{json.dumps(REPLY)}" * 5000, {"x_smg_error_code": f"{REPLY}\xe9"}),
        (503, QUOTED, {"retry_after": REPLY}),
    ]
    for status, body, headers in bodies:
        upstream.forget()
        upstream.answer(status, body, **headers)
        yield
    streams: list[tuple[bytes, ...]] = [
        (chunk(REPLY), chunk("", "stop"), b"data: [DONE]\n\n"),
        (chunk(REPLY), chunk(REPLY + "\ud800")),
        (chunk(REPLY), b"data: {" + REPLY.encode() + b"\n\n"),
        (chunk(REPLY), b"data: " + REPLY.encode() + b"\xff\n\n"),
        (chunk(REPLY), chunk([REPLY])),
        (chunk(REPLY), sse([None, QUOTED])),
        (chunk(REPLY), sse(["error", {"message": REPLY}])),
    ]
    for pieces in streams:
        for cut in (False, True):
            upstream.forget()
            upstream.stream(*pieces, cut=cut, x_request_id=f"{REPLY}\t.")
            yield

    async def breaks_down(_: web.Request) -> web.StreamResponse:
        raise RuntimeError(REPLY)

    upstream.forget()
    upstream.say(breaks_down)
    yield


async def test_no_log_has_content_at_any_level(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(200, MODELS)
    request = smg.ChatRequest(
        model="m",
        messages=[smg.ChatMessage(role=smg.ROLE_USER, content=PROMPT)],
        chat_template_kwargs_json=json.dumps({"a": PROMPT}),
        user=PROMPT,
    )
    refused = smg.ChatRequest(model=PROMPT, chat_template_kwargs_json="{" + PROMPT)
    metadata = (("authorization", f"Bearer {KEY}"), ("x-smg-tenant-id", KEY), ("cookie", KEY))
    key_file = tmp_path / "key"
    key_file.write_text(KEY, encoding="utf-8")
    flags = [
        "--listen",
        "127.0.0.1:0",
        "--log-level",
        "debug",
        "--upstream-key-file",
        str(key_file),
    ]
    async with serve(upstream.url, *flags) as (process, line):
        assert process.stderr and process.stdout
        port = port_of(line)
        reading = asyncio.gather(process.stderr.read(), process.stdout.read())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

            async def ask(name: str, message: Any, timeout: float | None = None) -> None:
                call = stub(channel, name)(message, metadata=metadata, timeout=timeout)
                try:
                    if "Stream" in name:
                        [event async for event in call]
                    else:
                        await call
                except grpc.aio.AioRpcError:
                    pass

            number = 0
            for _ in answers(upstream):
                number += 1
                await ask("ChatService.Chat", request)
                await ask("ChatService.StreamChat", request)
            await ask("ChatService.Chat", refused)
            await ask("WorkerService.GetWorker", smg.GetWorkerRequest(id=".."))
            upstream.forget()
            upstream.stream(chunk(REPLY), 60.0)
            await ask("ChatService.StreamChat", request, timeout=0.5)
        upstream.forget()
        upstream.answer(200, chat(REPLY))
        data = request.SerializeToString()
        for key, value in ((b"authorization", b"\xff"), (b"authorization", b"\n"), (b"a", b"\xff")):
            value += KEY.encode()
            await raw_http2.call(port, "/smg.v1.ChatService/Chat", data, [(key, value)])
        for message in (b"\x0a" + PROMPT.encode(), data[:-1]):
            await raw_http2.call(port, "/smg.v1.ChatService/Chat", message)
        upstream.ready = False
        process.terminate()
        await async_eventually(lambda: process.returncode is not None, "it has ended")
        log = b"".join(await reading).decode()
    assert log.count("rpc finished") >= 2 * number
    assert MARK not in log, [each for each in log.splitlines() if MARK in each][:3]
    assert "failed error=" not in log, log[log.index("failed error=") - 200 :][:1500]


@pytest.mark.parametrize("text", [PROMPT, KEY])
def test_settings_do_not_show_the_key(text: str) -> None:
    from smg_proto.frontdoor import Options

    assert text not in repr(Options(upstream="http://a", upstream_key=text))
