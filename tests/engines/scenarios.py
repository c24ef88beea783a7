"""What every engine is asked for, through smg_proto.engine, whatever contract it speaks.

A scenario fails with an AssertionError or an EngineError where an engine does otherwise;
deviations.json says which ones may, and why.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import async_eventually

from engines.running import Engine
from smg_proto.engine import (
    AsyncEngine,
    Completion,
    EngineError,
    RequestError,
    UnsupportedError,
    connect,
)

Scenario = Callable[[Engine], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
ENDS_SERVER: set[str] = set()

PROMPT = [300, 301, 302]
TEXT = "One contract"
# Most outputs soon have one of these.
LETTERS = ["e", "a", "o", " "]
PATIENCE = 60.0  # seconds


def scenario(function: Callable[[AsyncEngine, Engine], Awaitable[None]]) -> Scenario:
    async def run(engine: Engine) -> None:
        async with connect(engine.target, timeout=PATIENCE) as client:
            await function(client, engine)

    SCENARIOS[function.__name__] = run
    return run


async def greedy(client: AsyncEngine, count: int = 8, **more: Any) -> Completion:
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": count, "temperature": 0} | more
    return await client.complete(timeout=PATIENCE, **sent)


async def words(client: AsyncEngine) -> dict[str, Any]:
    """A prompt that is continued with text, where the contract has any."""
    try:
        result = await client.complete(prompt=TEXT, max_tokens=4, timeout=PATIENCE)
    except (UnsupportedError, RequestError):
        return {"token_ids": PROMPT}
    return {"prompt": TEXT} if result.text else {"token_ids": PROMPT}


@scenario
async def unary(client: AsyncEngine, engine: Engine) -> None:
    result = await greedy(client, ignore_eos=True)
    assert len(result.token_ids) == 8
    assert result.choices[0].finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(PROMPT), 8)


@scenario
async def stream(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 8, "ignore_eos": True}
    pieces = [piece async for piece in client.generate(**sent, timeout=PATIENCE)]
    assert sum(len(piece.token_ids) for piece in pieces) == 8
    assert len([piece for piece in pieces if piece.token_ids]) > 1
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    usage = pieces[-1].usage
    assert pieces[-1].finish_reason == "length" and usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(PROMPT), 8)


@scenario
async def stream_equals_unary(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 16, "temperature": 0}
    pieces = [piece async for piece in client.generate(**sent, timeout=PATIENCE)]
    ids = tuple(token for piece in pieces for token in piece.token_ids)
    assert ids == (await greedy(client, 16)).token_ids


@scenario
async def token_ids(client: AsyncEngine, engine: Engine) -> None:
    result = (await greedy(client)).token_ids
    assert result and all(0 <= token < engine.vocabulary for token in result)
    assert (await greedy(client)).token_ids == result


@scenario
async def text(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"prompt": TEXT, "max_tokens": 16, "temperature": 0}
    result = await client.complete(**sent, timeout=PATIENCE)
    assert result.text, "no text"
    pieces = [piece async for piece in client.generate(**sent, timeout=PATIENCE)]
    assert "".join(piece.text or "" for piece in pieces) == result.text


@scenario
async def tokenizer(client: AsyncEngine, engine: Engine) -> None:
    decoder = await client.tokenizer()
    assert decoder.decode(decoder.encode(TEXT)) == TEXT
    sent: dict[str, Any] = {"prompt": TEXT, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    async with connect(engine.target, decoder="server", timeout=PATIENCE) as decoding:
        assert decoding.has_text
        result = await decoding.complete(**sent, timeout=PATIENCE)
        pieces = [piece async for piece in decoding.generate(**sent, timeout=PATIENCE)]
    assert result.text == decoder.decode(result.token_ids)
    assert "".join(piece.text or "" for piece in pieces) == result.text
    plain = await greedy(client, 16, token_ids=decoder.encode(TEXT), ignore_eos=True)
    assert (plain.text, plain.token_ids) == (None, result.token_ids)


@scenario
async def cancel(client: AsyncEngine, engine: Engine) -> None:
    before = engine.aborts()
    engine.pace(0.02)
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 1000, "ignore_eos": True}
    async with client.generate(**sent, timeout=PATIENCE) as pieces:
        async for piece in pieces:
            if piece.token_ids:
                break
    await async_eventually(lambda: engine.aborts() == before + 1, "an abort in the engine")
    await async_eventually(lambda: engine.running() == 0, "the engine has nothing to do")


@scenario
async def abort_by_id(client: AsyncEngine, engine: Engine) -> None:
    before = engine.aborts()
    engine.pace(0.02)
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 1000, "ignore_eos": True}
    reason = None
    async with client.generate(**sent, timeout=PATIENCE) as pieces:
        async for piece in pieces:
            if piece.token_ids and reason is None:
                reason = ""
                await client.abort(pieces.request_id)
            reason = piece.finish_reason or reason
    assert reason == "abort"
    await async_eventually(lambda: engine.aborts() == before + 1, "an abort in the engine")
    await client.abort("of-no-request")


@scenario
async def stop_string(client: AsyncEngine, engine: Engine) -> None:
    sent = await words(client)
    sent |= {"max_tokens": 64, "ignore_eos": True, "stop": LETTERS, "timeout": PATIENCE}
    result = await client.complete(**sent)
    assert result.choices[0].finish_reason == "stop"
    assert result.choices[0].matched_stop in LETTERS
    assert not any(letter in (result.text or "") for letter in LETTERS)


@scenario
async def stop_token(client: AsyncEngine, engine: Engine) -> None:
    ids = (await greedy(client, ignore_eos=True)).token_ids
    stop, first = ids[3], ids.index(ids[3])
    result = await greedy(client, ignore_eos=True, stop_token_ids=[stop])
    assert result.choices[0].finish_reason == "stop"
    assert result.choices[0].matched_stop == stop
    assert result.token_ids in (ids[:first], ids[: first + 1])


@scenario
async def n(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 6, "ignore_eos": True, "n": 3}
    for result in (
        await client.complete(**sent, timeout=PATIENCE),
        await collected(client, **sent),
    ):
        assert [choice.index for choice in result.choices] == [0, 1, 2]
        assert [len(choice.token_ids) for choice in result.choices] == [6, 6, 6]
        assert {choice.finish_reason for choice in result.choices} == {"length"}
        assert result.usage.completion_tokens == 18


async def collected(client: AsyncEngine, **sent: Any) -> Completion:
    """The same as complete(), from a stream."""
    from smg_proto.engine._fold import Fold

    pieces = client.generate(**sent, timeout=PATIENCE)
    fold = Fold(pieces.request_id)
    async for piece in pieces:
        fold.add(piece)
    return fold.completion()


@scenario
async def seed(client: AsyncEngine, engine: Engine) -> None:
    async def drawn(number: int) -> tuple[int, ...]:
        return (await greedy(client, 12, temperature=1.0, seed=number)).token_ids

    first = await drawn(5)
    assert await drawn(5) == first, "the same seed, another output"
    assert {await drawn(number) for number in range(6, 12)} != {first}


@scenario
async def logprobs(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"ignore_eos": True, "logprobs": 2}
    result = (await greedy(client, **sent)).choices[0]
    streamed = (
        await collected(client, token_ids=PROMPT, max_tokens=8, temperature=0, **sent)
    ).choices[0]
    for choice in (result, streamed):
        assert [one.token_id for one in choice.logprobs] == list(choice.token_ids)
        assert all(one.logprob <= 1e-4 and 1 <= len(one.top) <= 3 for one in choice.logprobs)
    close = zip(result.logprobs, streamed.logprobs, strict=True)
    assert all(abs(one.logprob - other.logprob) < 1e-3 for one, other in close)


@scenario
async def prompt_logprobs(client: AsyncEngine, engine: Engine) -> None:
    result = await greedy(client, 2, ignore_eos=True, prompt_logprobs=2)
    streamed = await collected(client, token_ids=PROMPT, max_tokens=2, prompt_logprobs=2)
    for completion in (result, streamed):
        first, *rest = completion.prompt_logprobs
        assert first is None
        assert [one.token_id for one in rest if one] == PROMPT[1:]
        assert all(one and one.logprob <= 1e-4 and 1 <= len(one.top) <= 3 for one in rest)
    assert not (await greedy(client, 2)).prompt_logprobs


@scenario
async def structured_json(client: AsyncEngine, engine: Engine) -> None:
    sent = await words(client)
    # No room for white space, of which a model with random weights has no end.
    schema = {"enum": [7, 8]}
    result = await client.complete(**sent, max_tokens=64, json_schema=schema, timeout=PATIENCE)
    assert result.choices[0].finish_reason == "stop"
    if result.text:
        assert json.loads(result.text) in (7, 8)


@scenario
async def structured_choice(client: AsyncEngine, engine: Engine) -> None:
    sent = await words(client)
    result = await client.complete(
        **sent, max_tokens=64, choice=["left", "right"], timeout=PATIENCE
    )
    assert result.choices[0].finish_reason == "stop"
    assert result.text in ("left", "right") or not result.text


@scenario
async def max_tokens(client: AsyncEngine, engine: Engine) -> None:
    for count in (1, 5, 33):
        result = await greedy(client, count, ignore_eos=True)
        assert (len(result.token_ids), result.choices[0].finish_reason) == (count, "length")


@scenario
async def min_tokens(client: AsyncEngine, engine: Engine) -> None:
    result = await greedy(client, 60, min_tokens=50)
    assert 50 <= len(result.token_ids) <= 60


@scenario
async def bad_parameters(client: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(RequestError):
        await greedy(client, temperature=9)
    assert (await greedy(client)).token_ids


@scenario
async def unknown_model(client: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(RequestError) as caught:
        await greedy(client, model="no-such-model")
    assert caught.value.code == "NOT_FOUND"


@scenario
async def prompt_too_long(client: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(RequestError):
        await greedy(client, token_ids=[300] * (engine.context + 5))
    assert (await greedy(client)).token_ids


@scenario
async def long_stream(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 1000, "ignore_eos": True}
    result = await collected(client, **sent)
    assert len(result.token_ids) == 1000


@scenario
async def twenty_at_once(client: AsyncEngine, engine: Engine) -> None:
    prompts = [[300 + number, 301, 302] for number in range(20)]
    alone = [(await greedy(client, token_ids=prompt)).token_ids for prompt in prompts]
    together = await asyncio.gather(*(greedy(client, token_ids=prompt) for prompt in prompts))
    assert [result.token_ids for result in together] == alone


@scenario
async def slow_reader(client: AsyncEngine, engine: Engine) -> None:
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 200, "ignore_eos": True}
    ids: list[int] = []
    async for piece in client.generate(**sent, temperature=0, timeout=PATIENCE):
        ids += piece.token_ids
        if len(ids) < 20:
            await asyncio.sleep(0.01)
    assert tuple(ids) == (await greedy(client, 200, ignore_eos=True)).token_ids


@scenario
async def server_stops(client: AsyncEngine, engine: Engine) -> None:
    engine.pace(0.02)
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 1000, "ignore_eos": True}
    with pytest.raises(EngineError) as caught:
        async for piece in client.generate(**sent, timeout=PATIENCE):
            if piece.token_ids:
                await asyncio.to_thread(engine.stop)
    assert caught.value.code in ("UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN")
    with pytest.raises(EngineError):
        await greedy(client)


ENDS_SERVER.add("server_stops")


@scenario
async def health(client: AsyncEngine, engine: Engine) -> None:
    assert (await client.health()).serving


@scenario
async def info(client: AsyncEngine, engine: Engine) -> None:
    result = await client.info()
    assert (client.contract, result.contract) == (engine.contract, engine.contract)
    assert result.model == engine.model
    assert result.context_length == engine.context


@scenario
async def load(client: AsyncEngine, engine: Engine) -> None:
    engine.pace(0.02)
    sent: dict[str, Any] = {"token_ids": PROMPT, "max_tokens": 1000, "ignore_eos": True}

    async def running(count: int) -> bool:
        return (await client.load()).running == count

    async with client.generate(**sent, timeout=PATIENCE) as pieces:
        await pieces.__anext__()
        await async_eventually(lambda: running(1), "a load of one")
    await async_eventually(lambda: running(0), "a load of none")


@scenario
async def lora_refused(client: AsyncEngine, engine: Engine) -> None:
    with pytest.raises((RequestError, UnsupportedError)):
        await greedy(client, lora="no-such-adapter")
    assert (await greedy(client)).token_ids


@scenario
async def message_over_4_mib(client: AsyncEngine, engine: Engine) -> None:
    ids = (await greedy(client, ignore_eos=True)).token_ids
    other = next(token for token in range(300, engine.vocabulary) if token not in ids)
    # Bytes that each takes on the wire, at least; in openengine.v1 each is a message of its own.
    each = 5 if engine.contract == "openengine.v1" else 2
    many = [other] * ((4 << 20) // each + 1)
    assert (await greedy(client, ignore_eos=True, stop_token_ids=many)).token_ids == ids


async def tls(engine: Engine) -> None:
    assert engine.tls, "no TLS"
    target, roots = engine.tls
    async with connect(target, ca_certificate=roots, timeout=PATIENCE) as client:
        assert (await greedy(client)).token_ids
    with pytest.raises(EngineError) as caught:
        async with connect(target, timeout=PATIENCE):
            pass
    assert caught.value.code == "UNAVAILABLE"


SCENARIOS["tls"] = tls
