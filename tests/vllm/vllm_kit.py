"""Both clients behind one face, so that each test holds for both, and an engine that sends what it
is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
from support import async_eventually, eventually

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import FakeVllmEngine
from smg_proto.vllm import (
    AsyncGenerateStream,
    AsyncVLLMGrpcClient,
    Completion,
    CompletionChunk,
    CompletionUsage,
    GenerateStream,
    VLLMGrpcClient,
)

NEVER = 600.0  # seconds that no test lives


class ScriptedEngine(FakeVllmEngine):
    """A fake engine whose Generate sends exactly these messages."""

    def __init__(self, messages: Sequence[pb.GenerateResponse] = ()) -> None:
        super().__init__()
        self.messages = list(messages)
        self.pause: Callable[[int], float] = lambda number: 0.0
        self.refusals: list[tuple[grpc.StatusCode, str]] = []  # for the next calls: with pushback
        self.ended_early = 0

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.record.note("Generate", request, context)
        await context.send_initial_metadata((("x-server", "scripted"),))
        context.set_trailing_metadata((("x-cost", "7"),))
        if self.refusals:
            status, pushback = self.refusals.pop(0)
            pairs = (("x-cost", "7"), ("grpc-retry-pushback-ms", pushback))
            await context.abort(status, "not now", pairs)
        try:
            for number, message in enumerate(self.messages):
                await asyncio.sleep(self.pause(number))
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            self.ended_early += 1
            raise


def chunk(*ids: int, index: int = 0, **more: Any) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        chunk=pb.GenerateStreamChunk(
            token_ids=ids, index=index, prompt_tokens=9, completion_tokens=len(ids), **more
        )
    )


def complete(
    *ids: int, index: int = 0, finish_reason: str = "stop", **more: Any
) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        complete=pb.GenerateComplete(
            output_ids=ids,
            index=index,
            finish_reason=finish_reason,
            prompt_tokens=9,
            completion_tokens=len(ids),
            **more,
        )
    )


def text_of(results: Sequence[Completion | CompletionChunk]) -> str:
    """The text of the first choices, of which none may lack it."""
    pieces = [result.choices[0].text for result in results if result.choices]
    assert None not in pieces
    return "".join(piece or "" for piece in pieces)


class Both:
    """A client of either kind. `make` and `call` hide whether something has to be awaited."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self.loop = asyncio.new_event_loop() if asynchronous else None
        self._clients: list[Any] = []

    def make(self, target: str, **settings: Any) -> Any:
        """A client, closed with the test."""
        kind: Any = AsyncVLLMGrpcClient if self.asynchronous else VLLMGrpcClient
        client = kind(target=target, **settings)
        self._clients.append(client)
        return client

    def run(self, what: Any) -> Any:
        """The result, awaited if need be."""
        if self.loop is None:
            return what

        async def wait() -> Any:
            return await what

        return self.loop.run_until_complete(wait())

    def eventually(self, condition: Callable[[], object]) -> None:
        """Wait until something holds; an event loop goes on meanwhile."""
        if self.loop is None:
            eventually(condition)
        else:
            self.loop.run_until_complete(async_eventually(condition))

    def create(self, client: Any, **params: Any) -> Completion:
        result = self.run(client.completions.create(**params))
        assert isinstance(result, Completion)
        return result

    def stream(self, client: Any, **params: Any) -> GenerateStream | AsyncGenerateStream:
        stream = self.run(client.completions.create(stream=True, **params))
        assert isinstance(stream, GenerateStream | AsyncGenerateStream)
        return stream

    def each(self, stream: Any, each: Callable[[Any], bool | None] = lambda _: None) -> list[Any]:
        """The items of a stream's own loop, left when `each` returns True."""
        items: list[Any] = []

        async def collect() -> None:
            async for item in stream:
                items.append(item)
                if each(item):
                    break

        if self.loop is not None:
            self.loop.run_until_complete(collect())
            return items
        for item in stream:
            items.append(item)
            if each(item):
                break
        return items

    def next(self, stream: Any) -> Any:
        return self.run(stream.__anext__() if self.asynchronous else stream.__next__())

    def chunks(self, client: Any, **params: Any) -> list[CompletionChunk]:
        return self.each(self.stream(client, **params))

    def final(self, client: Any, **params: Any) -> Completion:
        result: Completion = self.run(self.stream(client, **params).get_final_completion())
        return result

    def close(self) -> None:
        for client in self._clients:
            self.run(client.close())
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def sent(engine: FakeVllmEngine) -> pb.GenerateRequest:
    """The latest Generate request, as it arrived."""
    request = [r.request for r in engine.record.received if r.rpc == "Generate"][-1]
    assert isinstance(request, pb.GenerateRequest)
    return request


def metadata_of(engine: FakeVllmEngine, rpc: str) -> dict[str, str | bytes]:
    return dict([r.metadata for r in engine.record.received if r.rpc == rpc][-1])


def used(completion: Completion | CompletionChunk) -> CompletionUsage:
    assert completion.usage is not None
    return completion.usage
