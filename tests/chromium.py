"""A headless Chromium with one page, driven by the DevTools protocol."""

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from support import PATIENCE, async_eventually, missing

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-sandbox",  # root cannot have one, and it shows our own pages only
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page:
    """A page, and the address of each request that it made."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[Any]") -> None:
        self.requests: list[str] = []
        self._socket = socket
        self._numbers = count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message: dict[str, Any] = await self._socket.receive_json(timeout=PATIENCE)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        options = {"awaitPromise": True, "returnByValue": True}
        done = await self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url="about:blank")  # a new fragment alone loads nothing
        failed = (await self.call("Page.navigate", url=url)).get("errorText")
        assert not failed, f"{url}: {failed}"
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        await async_eventually(lambda: self.evaluate(loaded), f"{url} is loaded")

    async def type(self, text: str) -> None:
        """Type into what has the focus, key by key."""
        for key in text:
            await self.call("Input.dispatchKeyEvent", type="char", text=key)

    async def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def prefer(self, scheme: str) -> None:
        """What the reader's system is set to: light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])


@asynccontextmanager
async def browser(profile: Path) -> AsyncGenerator[Page, None]:
    """A browser with a profile of its own; its page."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("no Chromium on PATH")
    words = [str(program), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    home = os.environ | {"HOME": str(profile)}
    process = await asyncio.create_subprocess_exec(*words, env=home, stdout=DEVNULL, stderr=DEVNULL)
    try:
        announced = profile / "DevToolsActivePort"
        await async_eventually(lambda: announced.exists() and announced.read_text(encoding="utf-8"))
        port = announced.read_text(encoding="utf-8").split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
                (target,) = [one for one in await reply.json() if one["type"] == "page"]
            address = target["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                await page.call("Network.enable")
                yield page
    finally:
        process.kill()
        await process.wait()
