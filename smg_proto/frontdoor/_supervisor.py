"""Runs several front doors as processes that share a port: starts, restarts and drains them."""

import asyncio
import json
import logging
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

from smg_proto._serving.address import Address, reserve
from smg_proto.frontdoor._exposition import Merged, serve_metrics
from smg_proto.frontdoor._options import Options, OptionsError
from smg_proto.frontdoor._server import address_of, metrics_address
from smg_proto.frontdoor._worker import Settings

log: logging.Logger = logging.getLogger("smg_proto.frontdoor")

MAX_PROCESSES = 1024
# A worker that ends is restarted at once, or after a wait if it ran for less than this.
STEADY_SECONDS = 60.0
MIN_WAIT_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
# The time that a worker has to send its metrics, and to end after its drain.
METRICS_SECONDS = 2.0
END_SECONDS = 5.0


class Supervisor:
    """A front door of several processes, with the interface of a FrontDoor.

    The operating system spreads connections over the processes (SO_REUSEPORT). The supervisor
    itself serves only /metrics, with the sums over all processes.
    """

    def __init__(self, options: Options, processes: int) -> None:
        options.check()
        self.options = options
        self.processes = processes
        self._address = address_of(options.listen)
        self._metrics_address = metrics_address(options)
        self._probes = address_of(options.probes) if options.probes else None
        for address in filter(None, (self._address, self._probes)):
            if address.path:
                why = "processes cannot share a Unix socket; use HOST:PORT"
                raise OptionsError(f"invalid address {address}: {why}")
        if not hasattr(socket, "SO_REUSEPORT"):
            raise OptionsError("processes cannot share a port on this system; use --processes 1")
        self._stack = AsyncExitStack()
        self._workers: dict[int, _Worker] = {}
        self._monitors: list[asyncio.Task[None]] = []
        self._ended = Merged()  # the counters of workers that have ended
        self._restarts = 0
        self._stopping = False
        self._banner = ""

    def banner(self) -> str:
        """One line: the services, the address and the gateway."""
        banner = f"{self._banner}; {self.processes} processes"
        metrics = self._metrics_address
        return f"{banner}; metrics on port {metrics.port}" if metrics else banner

    async def start(self) -> None:
        """Start all processes. OptionsError if they cannot serve."""
        try:
            await self._start()
        except OSError as error:
            await self.stop(0)
            raise OptionsError(str(error)) from error
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Drain all processes; with grace 0, end them at once."""
        self._stopping = True
        for monitor in self._monitors:
            monitor.cancel()  # so that the workers are not restarted
        limit = (self.options.drain if grace is None else grace) + END_SECONDS
        stopping = [worker.stop(limit, now=grace == 0) for worker in self._workers.values()]
        await asyncio.gather(*stopping)
        await self._stack.aclose()

    async def _start(self) -> None:
        self._address = self._reserve(self._address)
        if self._probes:
            self._probes = self._reserve(self._probes)
        if self._metrics_address:
            self._metrics_address = await serve_metrics(
                self._stack, self._metrics_address, self.metrics
            )
        # The first worker checks the gateway and the certificates for all.
        first = await self._spawn(0, self.options)
        self._banner = await first.ready
        others = range(1, self.processes)
        await asyncio.gather(*(self._start_worker(number) for number in others))
        for number in range(self.processes):
            self._monitors.append(asyncio.create_task(self._monitor(number)))

    def _reserve(self, address: Address) -> Address:
        address, sockets = reserve(address)
        for each in sockets:
            self._stack.callback(each.close)
        return address

    async def _start_worker(self, number: int) -> None:
        worker = await self._spawn(number, replace(self.options, wait=None))
        await worker.ready

    async def _spawn(self, number: int, options: Options) -> "_Worker":
        probes = str(self._probes or "")
        own = replace(options, listen=str(self._address), probes=probes, metrics="")
        worker = await _Worker.spawn(own)
        self._workers[number] = worker
        return worker

    async def _monitor(self, number: int) -> None:
        """Restart a worker whenever it ends."""
        wait = 0.0
        while True:
            try:
                worker = self._workers[number]
                await worker.process.wait()
                uptime = time.monotonic() - worker.started
                self._record_end(worker, uptime)
                wait = 0.0 if uptime > STEADY_SECONDS else wait
                await asyncio.sleep(wait)
                wait = min(max(2 * wait, MIN_WAIT_SECONDS), MAX_WAIT_SECONDS)
                self._restarts += 1
                await self._start_worker(number)
                log.info("worker started pid=%d", self._workers[number].process.pid)
            except Exception as error:  # tries again
                log.error("worker start failed error=%s", error)

    def _record_end(self, worker: "_Worker", uptime: float) -> None:
        """Keep the worker's counters, and log its end: a drain (status 0) is not an error."""
        self._ended.add(worker.metrics, gauges=False)
        worker.metrics = ""
        status = worker.process.returncode
        level = logging.ERROR if status else logging.INFO
        log.log(
            level, "worker ended pid=%d status=%s uptime=%.1fs", worker.process.pid, status, uptime
        )

    async def metrics(self) -> str:
        """The metrics of all processes, summed."""
        workers = [*self._workers.values()]
        await asyncio.gather(*(worker.update_metrics() for worker in workers))
        merged = Merged([self._ended.text(), *(worker.metrics for worker in workers)])
        alive = sum(worker.process.returncode is None for worker in workers)
        return merged.text() + (
            "# HELP smg_proto_workers Running processes.\n"
            "# TYPE smg_proto_workers gauge\n"
            f"smg_proto_workers {alive}\n"
            "# HELP smg_proto_worker_restarts_total Restarts of processes.\n"
            "# TYPE smg_proto_worker_restarts_total counter\n"
            f"smg_proto_worker_restarts_total {self._restarts}\n"
        )


class _Worker:
    """The supervisor's side of one worker."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.started = time.monotonic()
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.metrics = ""  # as last received
        self._updated = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def spawn(cls, options: Options) -> "_Worker":
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from smg_proto.frontdoor._worker import main; sys.exit(main())"
        )
        # A session of its own: Ctrl-C then reaches only the supervisor, which drains its workers.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            limit=1 << 26,
        )
        worker = cls(process)
        assert process.stdin
        process.stdin.write(Settings(options, log.getEffectiveLevel()).packed())
        return worker

    async def update_metrics(self) -> None:
        """Request the worker's metrics. The last ones stay if it does not reply in time."""
        self._updated.clear()
        self._send("metrics")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._updated.wait(), METRICS_SECONDS)

    async def stop(self, limit: float, *, now: bool) -> None:
        self._send("drain")
        if now:
            self._send("stop")
        try:
            await asyncio.wait_for(self.process.wait(), limit)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()
        await asyncio.wait({self._reading})

    def _send(self, command: str) -> None:
        assert self.process.stdin
        if self.process.returncode is None:
            self.process.stdin.write(f"{command}\n".encode())

    async def _read(self) -> None:
        assert self.process.stdout
        problem = "a worker ended during startup; see the log"
        try:
            async for line in self.process.stdout:
                reply: dict[str, Any] = json.loads(line)
                if "metrics" in reply:
                    self.metrics = reply["metrics"]
                    self._updated.set()
                elif "ready" in reply:
                    self.ready.set_result(reply["ready"])
                else:
                    problem = reply["failed"]
        finally:
            self._updated.set()
            if not self.ready.done():
                self.ready.set_exception(OptionsError(problem))
                self.ready.exception()  # mark as retrieved: there may be no waiter


def processes_of(text: str) -> int:
    """Parse --processes: `auto` is one for each core that this process may use."""
    if text == "auto":
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_PROCESSES:
        return int(text)
    raise OptionsError(
        f'invalid --processes "{text}": must be auto or a whole number from 1 to {MAX_PROCESSES}'
    )
