"""The gRPC server around the RPCs: where it listens, how healthy it says it is, how it ends."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType

import grpc
from aiohttp import web

from smg_proto._http.shapes import dig
from smg_proto._http.upstream import Upstream
from smg_proto.errors import SmgError
from smg_proto.frontdoor._health import Health
from smg_proto.frontdoor._metrics import Metrics
from smg_proto.frontdoor._operations import SERVICES
from smg_proto.frontdoor._options import Options, OptionsError
from smg_proto.frontdoor._rpcs import Rpcs


class FrontDoor:
    """One server over one gateway. Open it with `async with`; then it serves on `port`."""

    def __init__(self, options: Options) -> None:
        options.check()
        self.options = options
        self.metrics: Metrics = Metrics()
        self.port: int = 0
        self.metrics_port: int = 0
        self._health = Health()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", options.max_request),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                # A long unary call is silent for minutes; its client may ping meanwhile.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._upstream = Upstream(
            options.upstream,
            options.timeouts,
            options.upstream_tls(),
            on_error=self.metrics.upstream_error,
        )
        self._stack = AsyncExitStack()
        self._stopped = False

    async def __aenter__(self) -> "FrontDoor":
        try:
            await self._stack.enter_async_context(self._upstream)
            await self._serve()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(grace=0)

    async def wait(self) -> None:
        """Until the server has been stopped."""
        await self._server.wait_for_termination()

    async def stop(self, grace: float | None = None) -> None:
        """Take no new RPCs, let those at work end within the grace, then cancel them."""
        if self._stopped:
            return
        self._stopped = True
        await self._health.stop()
        await self._server.stop(self.options.drain if grace is None else grace)
        await self._stack.aclose()

    def banner(self) -> str:
        """What is served, where, in front of what: one line."""
        host = self.options.listen.rpartition(":")[0]
        where = self.options.listen if host == "unix" else f"{host}:{self.port}"
        tls = self.options.tls
        how = "plaintext" if not tls else "mutual TLS" if tls.client_ca else "TLS"
        seen = f"; metrics on port {self.metrics_port}" if self.metrics_port else ""
        return (
            f"smg.v1 ({len(SERVICES)} services, health, reflection) on {where}, {how}, "
            f"in front of {self.options.upstream}{seen}"
        )

    # --- Starting ---

    async def _serve(self) -> None:
        rpcs = Rpcs(
            self._upstream,
            self.metrics,
            max_active=self.options.max_active,
            log_content=self.options.log_content,
        )
        self._server.add_generic_rpc_handlers(tuple(rpcs.handlers()))
        await self._health.add_to(self._server)
        self.port = self._bind()
        if self.options.metrics:
            self.metrics_port = await self._serve_metrics(self.options.metrics)
        if self.options.wait is not None:
            await self._find(self.options.wait)
        await self._look()
        await self._server.start()
        watcher = asyncio.create_task(self._watch())
        self._stack.callback(watcher.cancel)

    def _bind(self) -> int:
        listen = self.options.listen
        try:
            if self.options.tls:
                return self._server.add_secure_port(listen, self.options.tls.credentials())
            return self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OptionsError(f"cannot listen on {listen}: in use, or no address here") from error

    async def _serve_metrics(self, listen: str) -> int:
        async def show(_: web.Request) -> web.Response:
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return web.Response(body=self.metrics.text().encode(), headers={"content-type": kind})

        application = web.Application()
        application.router.add_get("/metrics", show)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, _, port = listen.rpartition(":")
        try:
            site = web.TCPSite(runner, host.strip("[]") or None, int(port))
            await site.start()
        except (OSError, ValueError, OverflowError) as error:
            raise OptionsError(f"cannot listen on {listen}: in use, or no address here") from error
        return int(runner.addresses[0][1])

    async def _find(self, wait: float) -> None:
        """See that the upstream is there and OpenAI-compatible; it may have to come up."""
        until = time.monotonic() + wait
        while why := await self._wrong_with_upstream():
            if time.monotonic() >= until:
                raise OptionsError(f"upstream {self.options.upstream} {why}")
            await asyncio.sleep(0.25)

    async def _wrong_with_upstream(self) -> str:
        incompatible = "is not OpenAI-compatible: no list of models at GET /v1/models"
        try:
            answer = await self._upstream.ask("GET", "/v1/models", None, self._own_headers(), 10)
            listed = answer.json("the list of models")
        except SmgError as error:
            match error.code:
                case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                    return "wants another key for its models; see --upstream-key-file"
                case grpc.StatusCode.UNAVAILABLE if "http_status" in error.metadata:
                    return ""  # it is there, and has no model yet
                case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
                    return "does not answer"
                case _:
                    return incompatible
        return "" if isinstance(dig(listed, "data"), list) else incompatible

    # --- Health ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.options.health_interval)
            await self._look()

    async def _look(self) -> None:
        await self._health.set_ready(await self._ready())

    async def _ready(self) -> bool:
        """What /readiness says; where there is no such path, whether models are listed."""
        for path in ("/readiness", "/v1/models"):
            try:
                await self._upstream.ask("GET", path, headers=self._own_headers(), timeout=5)
            except SmgError as error:
                if error.metadata.get("http_status") == "404":
                    continue
                return False
            return True
        return False

    def _own_headers(self) -> Mapping[str, str]:
        key = self.options.upstream_key
        return {"authorization": f"Bearer {key}"} if key else {}
