"""The same weights say the same in every engine: vLLM and MLX, asked by the same client."""

import pytest

from engines.conftest import Running
from smg_proto.engine import connect
from smg_proto.testing._corpus import sentences
from smg_proto.testing._tokenizer import tokenizer

PROMPTS = [sentence[: 12 + number] for number, sentence in enumerate(list(sentences())[:20])]


async def said(target: str) -> list[tuple[int, ...]]:
    """The greedy tokens of each prompt, from an engine that may be at work on all at once."""
    async with connect(target, timeout=120) as engine:
        asked = [
            await engine.complete(
                token_ids=tokenizer().encode(prompt), max_tokens=16, temperature=0, ignore_eos=True
            )
            for prompt in PROMPTS
        ]
    return [told.token_ids for told in asked]


@pytest.mark.vllm_cpu
@pytest.mark.timeout(1200)
async def test_vllm_and_mlx_generate_the_same_greedy_tokens(running: Running) -> None:
    mlx = await said(running("mlx").target)
    assert len(mlx) == 20 and len(set(mlx)) == 20
    assert await said(running("vllm-cpu").target) == mlx
