"""The gRPC server around the RPCs: where it listens, how healthy it says it is, how it ends."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType

import grpc

from smg_proto._http.shapes import dig
from smg_proto._http.upstream import Upstream
from smg_proto._serving.address import Address, AddressError, check_free
from smg_proto._serving.server import Server
from smg_proto.errors import SmgError
from smg_proto.frontdoor._admin import version_of
from smg_proto.frontdoor._calls import Limits
from smg_proto.frontdoor._exposition import serve_metrics
from smg_proto.frontdoor._ignored import Gateway
from smg_proto.frontdoor._log import log_defect
from smg_proto.frontdoor._metrics import Metrics
from smg_proto.frontdoor._operations import SERVICES
from smg_proto.frontdoor._options import Options, OptionsError
from smg_proto.frontdoor._rpcs import Rpcs


class FrontDoor:
    """One server over one gateway. Open it with `async with`; then it serves on `port`."""

    def __init__(self, options: Options, *, reuse_port: bool = False) -> None:
        """`reuse_port` lets other front doors listen on the same port."""
        options.check()
        self.options = options
        self.metrics: Metrics = Metrics()
        self._address = address_of(options.listen)
        self._metrics_address = metrics_address(options)
        self._probes = address_of(options.probes) if options.probes else None
        self._reuse_port = reuse_port
        self._credentials = options.tls.credentials() if options.tls else None
        self._upstream = Upstream(
            options.upstream,
            options.timeouts,
            options.upstream_tls(),
            on_error=self.metrics.upstream_error,
        )
        self._server: Server | None = None
        self._stack = AsyncExitStack()
        self._stopped = asyncio.Event()
        self._stopping = self._was_ready = False
        self._gateway = Gateway()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 for a Unix socket."""
        return self._address.port

    @property
    def metrics_port(self) -> int:
        """The port of the metrics; 0 without them."""
        return self._metrics_address.port if self._metrics_address else 0

    async def start(self) -> None:
        """Find the upstream and serve; OptionsError if that cannot be."""
        try:
            await self._start()
        except OSError as error:
            await self._stack.aclose()
            raise OptionsError(str(error)) from error
        except BaseException:
            await self._stack.aclose()
            raise

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._stopped.wait()

    async def stop(self, grace: float | None = None) -> None:
        """Accept no new RPCs, let those in flight end within the grace, then cancel them.

        Without a grace it is the drain of the options. A second call may shorten the first.
        """
        grace = self.options.drain if grace is None else grace
        first, self._stopping = not self._stopping, True
        if self._server:
            await self._server.stop(grace)
        if first:
            await self._stack.aclose()
            self._stopped.set()

    async def __aenter__(self) -> "FrontDoor":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop(grace=0)

    def banner(self) -> str:
        """What is served, where, in front of what: one line."""
        tls = self.options.tls
        how = "plaintext" if not tls else "mutual TLS" if tls.client_ca else "TLS"
        return (
            f"smg.v1 ({len(SERVICES)} services, health, reflection) on {self._address}, {how}, "
            f"in front of {self.options.upstream}"
            + (f"; probes on port {self._probes.port}" if self._probes else "")
            + (f"; metrics on port {self.metrics_port}" if self._metrics_address else "")
        )

    # --- Starting ---

    async def _start(self) -> None:
        if not self._reuse_port:
            check_free(self._address)  # before the upstream is waited for
        await self._stack.enter_async_context(self._upstream)
        if self._metrics_address:
            self._metrics_address = await serve_metrics(
                self._stack, self._metrics_address, self._metrics_text
            )
        if self.options.wait is not None:
            await self._find(self.options.wait)
        self._server = server = Server(
            self._address,
            SERVICES,
            credentials=self._credentials,
            reuse_port=self._reuse_port,
            probes=self._probes,
            options=self.options.server_options,
        )
        rpcs = Rpcs(
            self._upstream,
            self.metrics,
            limits=Limits(self.options.max_request, self.options.max_active),
            gateway=self._gateway,
            log_content=self.options.log_content,
        )
        server.grpc.add_generic_rpc_handlers(tuple(rpcs.handlers()))
        await server.start(ready=await self._look())
        self._address, self._probes = server.address, server.probes
        watcher = asyncio.create_task(self._watch(server))
        self._stack.callback(watcher.cancel)

    async def _metrics_text(self) -> str:
        return self.metrics.text()

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

    async def _watch(self, server: Server) -> None:
        while True:
            await asyncio.sleep(self.options.health_interval)
            server.health.set_ready(await self._look())

    async def _look(self) -> bool:
        """Whether the upstream is ready. A look that fails is logged, and is not ready."""
        try:
            ready = await self._ready()
            if ready and not self._was_ready:  # it may be another one now
                self._gateway.version = await self._version()
            self._was_ready = ready
            return ready
        except Exception as error:
            log_defect("health check", error)
            return False

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

    async def _version(self) -> str:
        """The gateway's version; empty where the upstream does not say."""
        try:
            answer = await self._upstream.ask("GET", "/loads", None, self._own_headers(), 5)
            return version_of(answer.json("the answer to /loads"))
        except SmgError:
            return ""

    def _own_headers(self) -> Mapping[str, str]:
        key = self.options.upstream_key
        return {"authorization": f"Bearer {key}"} if key else {}


def address_of(text: str) -> Address:
    """An address in the options."""
    try:
        return Address.parse(text)
    except AddressError as error:
        raise OptionsError(str(error)) from error


def metrics_address(options: Options) -> Address | None:
    if not options.metrics:
        return None
    address = address_of(options.metrics)
    if address.path:
        raise OptionsError(f'invalid address "{options.metrics}": metrics need HOST:PORT')
    return address
