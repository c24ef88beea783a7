"""Serves metrics over HTTP, and sums the metrics of several processes."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack

from aiohttp import web

from smg_proto._serving.address import Address, check_free, unavailable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def serve_metrics(
    stack: AsyncExitStack, address: Address, text: Callable[[], Awaitable[str]]
) -> Address:
    """Serve GET /metrics until the stack is closed. Returns the address with its port."""

    async def show(_: web.Request) -> web.Response:
        body = (await text()).encode()
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE})

    check_free(address)
    application = web.Application()
    application.router.add_get("/metrics", show)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        raise unavailable(address, error.strerror or "in use") from error
    return address.at(int(runner.addresses[0][1]))


class Merged:
    """The sum of several texts in Prometheus' format, family by family."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._heads: dict[str, list[str]] = {}  # family: its HELP and TYPE lines
        self._kinds: dict[str, str] = {}
        self._values: dict[str, dict[str, float]] = {}  # family: series: value
        for text in texts:
            self.add(text)

    def add(self, text: str, *, gauges: bool = True) -> None:
        """Add a text. Leave out the gauges of a process that has ended."""
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, word, family, rest = line.split(" ", 3)
                self._values.setdefault(family, {})
                if word == "TYPE":
                    self._kinds[family] = rest
                if line not in self._heads.setdefault(family, []):
                    self._heads[family].append(line)
            elif line and (gauges or self._kinds.get(family) != "gauge"):
                series, _, value = line.rpartition(" ")
                sums = self._values.setdefault(family, {})
                sums[series] = sums.get(series, 0) + float(value)

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for family, sums in self._values.items():
            yield from self._heads.get(family, ())
            for series, value in sums.items():
                yield f"{series} {value:.6f}" if value % 1 else f"{series} {int(value)}"
