"""The gRPC server around the RPCs: startup, health and shutdown."""

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
from smg_proto.frontdoor._log import log_unexpected_error
from smg_proto.frontdoor._metrics import Metrics
from smg_proto.frontdoor._operations import SERVICES
from smg_proto.frontdoor._options import Options, OptionsError
from smg_proto.frontdoor._rpcs import Rpcs


class FrontDoor:
    """One server in front of one gateway. Open it with `async with`; it then serves on `port`."""

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
        """The port that the server listens on; 0 for a Unix socket."""
        return self._address.port

    @property
    def metrics_port(self) -> int:
        """The port of the metrics; 0 without them."""
        return self._metrics_address.port if self._metrics_address else 0

    async def start(self) -> None:
        """Connect to the gateway and serve. OptionsError if either is not possible."""
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
        """Accept no new RPCs, let those in flight finish within the grace, then cancel them.

        The grace defaults to `drain` of the options. A second call may shorten the first.
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
        """One line: the services, the address and the gateway."""
        tls = self.options.tls
        security = "plaintext" if not tls else "mutual TLS" if tls.client_ca else "TLS"
        return (
            f"smg.v1 ({len(SERVICES)} services, health, reflection) on {self._address}, "
            f"{security}, in front of {self.options.upstream}"
            + (f"; probes on port {self._probes.port}" if self._probes else "")
            + (f"; metrics on port {self.metrics_port}" if self._metrics_address else "")
        )

    # --- Starting ---

    async def _start(self) -> None:
        if not self._reuse_port:
            check_free(self._address)  # before waiting for the gateway
        await self._stack.enter_async_context(self._upstream)
        if self._metrics_address:
            self._metrics_address = await serve_metrics(
                self._stack, self._metrics_address, self._metrics_text
            )
        if self.options.wait is not None:
            await self._await_upstream(self.options.wait)
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
        await server.start(ready=await self._check_upstream())
        self._address, self._probes = server.address, server.probes
        watcher = asyncio.create_task(self._watch(server))
        self._stack.callback(watcher.cancel)

    async def _metrics_text(self) -> str:
        return self.metrics.text()

    async def _await_upstream(self, wait: float) -> None:
        """Wait for the gateway to start, and check that it is OpenAI-compatible."""
        deadline = time.monotonic() + wait
        while problem := await self._upstream_problem():
            if time.monotonic() >= deadline:
                raise OptionsError(f"upstream {self.options.upstream} {problem}")
            await asyncio.sleep(0.25)

    async def _upstream_problem(self) -> str:
        incompatible = "is not OpenAI-compatible: GET /v1/models does not return a list of models"
        try:
            headers = self._own_headers()
            response = await self._upstream.fetch("GET", "/v1/models", None, headers, 10)
            listed = response.json("list of models")
        except SmgError as error:
            match error.code:
                case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                    return "rejected the key for /v1/models; set --upstream-key-file"
                case grpc.StatusCode.UNAVAILABLE if "http_status" in error.metadata:
                    return ""  # it runs, but has no model yet
                case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
                    return "does not respond; check that it runs at this address"
                case _:
                    return incompatible
        return "" if isinstance(dig(listed, "data"), list) else incompatible

    # --- Health ---

    async def _watch(self, server: Server) -> None:
        while True:
            await asyncio.sleep(self.options.health_interval)
            server.health.set_ready(await self._check_upstream())

    async def _check_upstream(self) -> bool:
        """Whether the gateway is ready. An unexpected error is logged and means that it is not."""
        try:
            ready = await self._ready()
            if ready and not self._was_ready:  # it may have been replaced
                self._gateway.version = await self._version()
            self._was_ready = ready
            return ready
        except Exception as error:
            log_unexpected_error("health check", error)
            return False

    async def _ready(self) -> bool:
        """Whether /readiness succeeds; if there is no such path, whether /v1/models does."""
        for path in ("/readiness", "/v1/models"):
            try:
                await self._upstream.fetch("GET", path, headers=self._own_headers(), timeout=5)
            except SmgError as error:
                if error.metadata.get("http_status") == "404":
                    continue
                return False
            return True
        return False

    async def _version(self) -> str:
        """The gateway's version; empty if it does not report one."""
        try:
            response = await self._upstream.fetch("GET", "/loads", None, self._own_headers(), 5)
            return version_of(response.json("response to /loads"))
        except SmgError:
            return ""

    def _own_headers(self) -> Mapping[str, str]:
        key = self.options.upstream_key
        return {"authorization": f"Bearer {key}"} if key else {}


def address_of(text: str) -> Address:
    """Parse an address of the options."""
    try:
        return Address.parse(text)
    except AddressError as error:
        raise OptionsError(str(error)) from error


def metrics_address(options: Options) -> Address | None:
    if not options.metrics:
        return None
    address = address_of(options.metrics)
    if address.path:
        raise OptionsError(
            f'invalid address "{options.metrics}": metrics cannot use a Unix socket; use HOST:PORT'
        )
    return address
