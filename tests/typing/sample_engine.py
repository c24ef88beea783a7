"""The engine client, sync and asyncio, as a user writes it. Runs as it is."""

import asyncio

from smg_proto.engine import (
    AsyncEngine,
    Completion,
    Engine,
    EngineError,
    GenerateParams,
    NoContractError,
    Piece,
    UnsupportedError,
    connect,
)
from smg_proto.testing import run_vllm_engine

PARAMS: GenerateParams = {"token_ids": [300, 301], "max_tokens": 4, "temperature": 0}


def sync_program(engine: Engine) -> str:
    completion: Completion = engine.complete(token_ids=[300, 301], max_tokens=4, n=2)
    assert [choice.index for choice in completion.choices] == [0, 1]
    with engine.generate(**PARAMS) as stream:
        pieces: list[Piece] = list(stream)
    ids: tuple[int, ...] = pieces[0].token_ids
    assert ids and pieces[-1].usage is not None
    try:
        engine.complete(prompt="Once", lora="adapter")
    except UnsupportedError as error:
        return f"{error.contract} {error.what}"
    return ""


async def async_program(engine: AsyncEngine) -> int:
    completion = await engine.complete(**PARAMS)
    count = 0
    async for piece in engine.generate(**PARAMS):
        count += len(piece.token_ids)
    info, load, health = await engine.info(), await engine.load(), await engine.health()
    assert info.context_length and load.running == 0 and health.serving
    await engine.abort("nobody")
    assert count == completion.usage.completion_tokens
    return count


async def main(target: str) -> None:
    async with connect(target, token="key", metadata={"tenant": "a"}) as engine:
        assert await async_program(engine) == 4


if __name__ == "__main__":
    with run_vllm_engine() as address:
        with connect(address, timeout=30) as client:
            assert sync_program(client) == "vllm.grpc.engine lora"
        asyncio.run(main(address))
    try:
        with connect(address, timeout=1):
            pass
    except NoContractError as error:
        print(error.tried)
    except EngineError as error:
        assert error.code == "UNAVAILABLE"
