"""The base of the engines' fakes: the model, the script, the record, and requests in flight."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from smg_proto.testing._engine.checks import Rejected
from smg_proto.testing._engine.load import LoadMeter, Running
from smg_proto.testing._generation import Piece, Sampling, generate
from smg_proto.testing._kv_cache import KvCache
from smg_proto.testing._model import Model, model
from smg_proto.testing._scripting import Answer, Fault, Injected, Record, Script, interrupted

Context = grpc.aio.ServicerContext[Any, Any]
_M = TypeVar("_M")


class FakeEngine:
    """The part of a fake engine that does not depend on its contract."""

    generating: frozenset[str] = frozenset({"Generate"})  # RPCs that scripted answers apply to

    def __init__(
        self, *, name: str | None = None, token_delay: float = 0.0, tokens_per_chunk: int = 1
    ) -> None:
        self.model: Model = model()
        self.name: str = name or self.model.name
        self.token_delay = token_delay
        self.tokens_per_chunk = tokens_per_chunk
        self.healthy = True
        self.script: Script = Script(self.generating)
        self.record: Record = Record()
        self._cache = KvCache()
        self._meter = LoadMeter(self._cache)

    def _admit(self, prompt: Sequence[int]) -> int:
        """Add a prompt to the prefix cache. Returns how many of its tokens were cached already."""
        cached = self._cache.store(prompt)
        self._meter.prompts.append((len(prompt), cached))
        return cached

    async def _sequences(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        running: Running,
        *,
        count: int = 1,
        chunk: int | None = None,
    ) -> AsyncGenerator[tuple[int, list[Piece]], None]:
        """The next pieces of each sequence in turn, with its index. No pieces: it was aborted."""
        sources = {index: generate(self.model, prompt, sampling, index) for index in range(count)}
        while sources:
            for index, source in list(sources.items()):
                await asyncio.sleep(self.token_delay)
                if running.aborted:
                    for cut in sources:
                        yield cut, []
                    return
                pieces: list[Piece] = []
                for _ in range(chunk or self.tokens_per_chunk):
                    pieces.append(next(source))
                    self._meter.tokens.append(time.monotonic())
                    if pieces[-1].finish_reason:
                        del sources[index]
                        break
                yield index, pieces

    def _abort(self, *request_ids: str) -> bool:
        """Abort the requests with these ids. Returns whether there was one."""
        found = [one for one in self._meter.running if one.request_id in request_ids]
        for running in found:
            running.aborted = True
        return bool(found)

    @asynccontextmanager
    async def _status(self, context: Context) -> AsyncGenerator[None, None]:
        """End the call with the status of a rejection or a fault that is raised inside."""
        try:
            yield
        except Rejected as error:
            await context.abort(error.code, str(error))
        except Injected as error:
            status = error.fault.status
            if status not in (None, grpc.StatusCode.OK):
                await context.abort(status, error.fault.details)

    async def _generated(
        self,
        rpc: str,
        request: Message,
        request_id: str,
        messages: Callable[[Answer | None, Running], AsyncGenerator[_M, None]],
        context: Context,
    ) -> AsyncGenerator[_M, None]:
        """The messages of a generation request, which is recorded and counted."""
        fault = self._receive(rpc, request, context)
        answer = self.script.answer(rpc, request)
        async with self._status(context):
            with self._accounted(request_id) as running:
                async for message in interrupted(messages(answer, running), fault):
                    yield message

    @contextmanager
    def _accounted(self, request_id: str) -> Generator[Running, None, None]:
        """Count a request as started, and when it ends, by its outcome."""
        running = Running(request_id)
        counters = self.record.counters
        counters.started += 1
        self._meter.running.add(running)
        try:
            yield running
        except (asyncio.CancelledError, GeneratorExit):
            counters.cancelled += 1
            raise
        except BaseException:
            if running.aborted:
                counters.aborted += 1
            else:
                counters.failed += 1
            raise
        else:
            if running.aborted:
                counters.aborted += 1
            else:
                counters.finished += 1
        finally:
            self._meter.running.discard(running)

    def _receive(self, rpc: str, request: Message, context: Context) -> Fault | None:
        """Record a request. Returns its scripted fault."""
        self.record.note(rpc, request, context)
        return self.script.fault(rpc, request)

    async def _receive_unary(self, rpc: str, request: Message, context: Context) -> None:
        fault = self._receive(rpc, request, context)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            if fault.status is not None:
                await context.abort(fault.status, fault.details)
