"""Several prompts in one call: indexes, order, limits, failures."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from support import async_eventually
from vllm_kit import Both, chunk, complete

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    Timeout,
    VLLMGrpcClosedError,
    VLLMGrpcError,
    VLLMGrpcInternalError,
    VLLMGrpcTimeoutError,
    _wait,
)

PROMPTS: list[Any] = ["the quick brown", [5, 6, 7], "one two"]


class Gated(FakeVllmEngine):
    """Sends one token and, for the first prompt, the next only when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        first = request.request_id.endswith("-0")
        for number in range(20):
            while first and number and not self.gate.is_set():
                await asyncio.sleep(0.005)
            yield chunk(30 + number)
        yield complete(49)


@pytest.fixture
def gated() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine(Gated()) as address:
        yield address
        assert isinstance(address.servicer, Gated)
        address.servicer.gate.set()


def test_prompts_do_not_wait_for_each_other(both: Both, gated: Address[FakeVllmEngine]) -> None:
    """One is complete while another has hardly begun."""
    stream: Any = both.stream(both.make(gated, decoder=None), prompt=["slow", "quick", "quick"])
    ended: list[int] = []
    while len(ended) < 2:  # for ever, if the slow one has to go on first
        found = both.next(stream).choices[0]
        if found.finish_reason:
            ended.append(found.index)
    assert sorted(ended) == [1, 2]
    assert isinstance(gated.servicer, Gated)
    gated.servicer.gate.set()
    final = both.run(stream.get_final_completion())
    assert [c.token_ids for c in final.choices] == [[*range(30, 50)]] * 3


def test_each_prompt_has_its_own_limits(both: Both, gated: Address[FakeVllmEngine]) -> None:
    client = both.make(gated, decoder=None, timeout=Timeout(first_message=20, idle=0.4))
    with pytest.raises(VLLMGrpcTimeoutError, match="no further message"):
        both.each(both.stream(client, prompt=["slow", "quick"]))


def test_every_chunk_says_which_choice_it_belongs_to(both: Both, client: Any) -> None:
    sent: dict[str, Any] = {"max_tokens": 5, "n": 2, "seed": 1}
    chunks = both.chunks(client, prompt=PROMPTS, **sent)
    alone = [both.create(client, prompt=prompt, **sent) for prompt in PROMPTS]
    whole = both.create(client, prompt=PROMPTS, **sent)
    final = both.final(client, prompt=PROMPTS, **sent)
    for index in range(6):
        expected = alone[index // 2].choices[index % 2]
        mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
        ids = [token for choice in mine for token in choice.token_ids]
        assert ids == expected.token_ids
        assert "".join(choice.text or "" for choice in mine) == expected.text
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == ["length"]
        for result in (whole, final):
            choice = result.choices[index]
            assert (choice.index, choice.token_ids) == (index, ids)
            assert choice.text == expected.text
    assert whole.usage is not None and whole.usage.completion_tokens == 30
    assert whole.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_one_failing_prompt_ends_the_others(
    stream: bool, failing: int, both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    engine.script.add(
        Fault(grpc.StatusCode.INTERNAL, after=1 if stream else 0),
        rpc="Generate",
        when=lambda r: str(getattr(r, "request_id", "")).endswith(f"-{failing}"),
    )
    read = both.final if stream else both.create
    with pytest.raises(VLLMGrpcInternalError) as caught:
        read(client, prompt=["a", "b", "c"], max_tokens=2000)  # 40 s, left alone
    # The error is kept, and with it all that the frames of its traceback hold.
    both.eventually(lambda: engine.record.counters.running == 0)
    assert (caught.value.request_id or "").endswith(f"-{failing}")


def test_a_failing_input_ends_the_other_embeddings(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(
        Fault(grpc.StatusCode.INTERNAL),
        rpc="Embed",
        when=lambda r: 3 in r.tokenized.input_ids,
    )
    engine.script.add(Fault(delay=3600.0), rpc="Embed", times=None)
    both.run(client.models.retrieve())
    with pytest.raises(VLLMGrpcInternalError):
        both.run(client.embeddings.create(input=[[1], [2], [3]]))
    assert client._connection.calls == set()


@pytest.mark.parametrize("what", ["completions", "embeddings"])
def test_a_call_that_cannot_be_begun_ends_the_others(
    what: str, both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    sent = 0

    def token() -> str:
        nonlocal sent
        sent += 1
        if sent == 3:
            raise RuntimeError("no more tokens")
        return "t"

    client = both.make(address, token=token, decoder=None)
    engine.token_delay = 3600.0
    engine.script.add(Fault(delay=3600.0), rpc="Embed", times=None)
    inputs = {"prompt" if what == "completions" else "input": [[1], [2], [3]]}
    with pytest.raises(RuntimeError, match="no more"):
        both.run(getattr(client, what).create(model="m", **inputs))
    assert client._connection.calls == set()


def test_a_busy_server_is_asked_again_for_each_prompt(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    client = both.make(address, initial_backoff=0.01, max_backoff=0.02)
    for read in (both.create, both.final):
        engine.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="Generate", times=2)
        result = read(client, prompt=["a", "b", "c"], max_tokens=2)
        assert [c.finish_reason for c in result.choices] == ["length"] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_there_is_a_bound_to_the_calls_in_flight(
    stream: bool,
    both: Both,
    client: Any,
    engine: FakeVllmEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_wait, "AT_ONCE", 3)
    most = 0

    def look(request: Any) -> bool:
        nonlocal most
        most = max(most, engine.record.counters.running)
        return False

    engine.script.add(Fault(), rpc="Generate", when=look, times=None)
    engine.token_delay = 0.005
    read = both.final if stream else both.create
    result = read(client, prompt=[[20 + number] for number in range(12)], max_tokens=3)
    assert [c.index for c in result.choices] == [*range(12)]
    assert {len(c.token_ids) for c in result.choices} == {3}
    assert 2 <= most <= 3


async def test_no_task_outlives_a_call_that_failed(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    async with AsyncVLLMGrpcClient(target=address, decoder=None, max_retries=0) as client:
        await client.models.retrieve()
        engine.script.add(
            Fault(grpc.StatusCode.INTERNAL),
            rpc="Generate",
            when=lambda r: r.request_id.endswith("-2"),
        )
        with pytest.raises(VLLMGrpcError):
            await client.completions.create(prompt=["a", "b", "c"], max_tokens=2000)
        ours = [task for task in asyncio.all_tasks() if "_AioCall" not in repr(task)]
        assert ours == [asyncio.current_task()]


async def test_no_task_outlives_a_stream_that_is_left_unread(
    address: Address[FakeVllmEngine],
) -> None:
    async with AsyncVLLMGrpcClient(target=address, decoder=None) as client:
        stream: Any = await client.completions.create(
            prompt=[[1], [2]], max_tokens=2000, ignore_eos=True, stream=True
        )
        await anext(stream)
        merge = stream._run._merge
        await async_eventually(merge._found.full)  # both tasks wait for the reader
        stream.cancel()
        await async_eventually(lambda: all(task.done() for task in merge._tasks))
        with pytest.raises(VLLMGrpcClosedError):
            await anext(stream)


def test_an_array_is_a_prompt(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    """Of numpy and the like: what has tolist()."""

    class Array:
        def __init__(self, values: Any) -> None:
            self._values = values

        def tolist(self) -> Any:
            return self._values

    class Number:
        def __index__(self) -> int:
            return 2

    result = both.create(client, prompt=Array([5, 6, 7]), max_tokens=Number(), n=Number(), seed=1)
    assert [len(c.token_ids) for c in result.choices] == [2, 2]
    several = both.create(client, prompt=Array([[5], [6]]), max_tokens=1)
    assert [c.index for c in several.choices] == [0, 1]
