"""Several front doors as processes that share one port: started, restarted, drained together."""

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
# A worker that dies is started again at once; one that dies soon after its start has to wait.
STEADY_SECONDS = 60.0
SHORTEST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
# What a worker may take to tell its metrics, and to end after its drain.
METRICS_SECONDS = 2.0
END_SECONDS = 5.0


class Supervisor:
    """A front door of several processes, with the life cycle of a FrontDoor.

    The system spreads connections over the processes (SO_REUSEPORT). The supervisor itself serves
    nothing but /metrics, where the numbers of all processes are summed.
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
                raise OptionsError(f"{address} cannot be shared by processes: use HOST:PORT")
        if not hasattr(socket, "SO_REUSEPORT"):
            raise OptionsError("processes cannot share a port on this system: use --processes 1")
        self._stack = AsyncExitStack()
        self._workers: dict[int, _Worker] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ended = Merged()  # what workers counted that are gone
        self._restarts = 0
        self._stopping = False
        self._banner = ""

    def banner(self) -> str:
        """What is served, where, in front of what: one line."""
        banner = f"{self._banner}; {self.processes} processes"
        metrics = self._metrics_address
        return f"{banner}; metrics on port {metrics.port}" if metrics else banner

    async def start(self) -> None:
        """Start all processes; OptionsError if they cannot serve."""
        try:
            await self._start()
        except OSError as error:
            await self.stop(0)
            raise OptionsError(str(error)) from error
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Drain all processes; with grace 0 end them now."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()  # the workers stay; they are not started again
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
        # The first one looks at the upstream and at the certificates, and speaks for all.
        first = await self._spawn(0, self.options)
        self._banner = await first.ready
        others = range(1, self.processes)
        await asyncio.gather(*(self._begin(number) for number in others))
        for number in range(self.processes):
            self._keepers.append(asyncio.create_task(self._keep(number)))

    def _reserve(self, address: Address) -> Address:
        address, held = reserve(address)
        for each in held:
            self._stack.callback(each.close)
        return address

    async def _begin(self, number: int) -> None:
        worker = await self._spawn(number, replace(self.options, wait=None))
        await worker.ready

    async def _spawn(self, number: int, options: Options) -> "_Worker":
        probes = str(self._probes or "")
        own = replace(options, listen=str(self._address), probes=probes, metrics="")
        worker = await _Worker.spawn(own)
        self._workers[number] = worker
        return worker

    async def _keep(self, number: int) -> None:
        """Start a worker again whenever it ends."""
        wait = 0.0
        while True:
            try:
                worker = self._workers[number]
                await worker.process.wait()
                lived = time.monotonic() - worker.started
                self._note_end(worker, lived)
                wait = 0.0 if lived > STEADY_SECONDS else wait
                await asyncio.sleep(wait)
                wait = min(max(2 * wait, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
                self._restarts += 1
                await self._begin(number)
                log.info("worker started pid=%d", self._workers[number].process.pid)
            except Exception as error:  # it is tried again
                log.error("worker not started error=%s", error)

    def _note_end(self, worker: "_Worker", lived: float) -> None:
        """Keep what it counted; a drain that someone asked it for is no failure."""
        self._ended.add(worker.metrics, gauges=False)
        worker.metrics = ""
        status = worker.process.returncode
        level = logging.ERROR if status else logging.INFO
        log.log(
            level, "worker ended pid=%d status=%s lived=%.1fs", worker.process.pid, status, lived
        )

    async def metrics(self) -> str:
        """The numbers of all processes, summed."""
        workers = [*self._workers.values()]
        await asyncio.gather(*(worker.look() for worker in workers))
        merged = Merged([self._ended.text(), *(worker.metrics for worker in workers)])
        alive = sum(worker.process.returncode is None for worker in workers)
        return merged.text() + (
            "# HELP smg_proto_workers Processes that serve.\n"
            "# TYPE smg_proto_workers gauge\n"
            f"smg_proto_workers {alive}\n"
            "# HELP smg_proto_worker_restarts_total Processes started again.\n"
            "# TYPE smg_proto_worker_restarts_total counter\n"
            f"smg_proto_worker_restarts_total {self._restarts}\n"
        )


class _Worker:
    """The supervisor's side of one worker."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.started = time.monotonic()
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.metrics = ""  # as last told
        self._told = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def spawn(cls, options: Options) -> "_Worker":
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from smg_proto.frontdoor._worker import main; sys.exit(main())"
        )
        # A session of its own: Ctrl-C is for the supervisor, which drains its workers.
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

    async def look(self) -> None:
        """Have it tell its metrics; what it told last stays, if it does not."""
        self._told.clear()
        self._order("metrics")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._told.wait(), METRICS_SECONDS)

    async def stop(self, limit: float, *, now: bool) -> None:
        self._order("drain")
        if now:
            self._order("stop")
        try:
            await asyncio.wait_for(self.process.wait(), limit)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()
        await asyncio.wait({self._reading})

    def _order(self, word: str) -> None:
        assert self.process.stdin
        if self.process.returncode is None:
            self.process.stdin.write(f"{word}\n".encode())

    async def _read(self) -> None:
        assert self.process.stdout
        why = "a worker ended before it served; see the log"
        try:
            async for line in self.process.stdout:
                reply: dict[str, Any] = json.loads(line)
                if "metrics" in reply:
                    self.metrics = reply["metrics"]
                    self._told.set()
                elif "ready" in reply:
                    self.ready.set_result(reply["ready"])
                else:
                    why = reply["failed"]
        finally:
            self._told.set()
            if not self.ready.done():
                self.ready.set_exception(OptionsError(why))
                self.ready.exception()  # nobody may be waiting for it


def processes_of(text: str) -> int:
    """The value of --processes: auto is one for each core that this process may use."""
    if text == "auto":
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_PROCESSES:
        return int(text)
    raise OptionsError(
        f'invalid --processes "{text}": must be auto or a whole number from 1 to {MAX_PROCESSES}'
    )
