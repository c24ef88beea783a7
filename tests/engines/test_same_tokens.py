"""The same weights say the same in every engine: vLLM and MLX, asked by the same client."""

import pytest

from engines.conftest import Running
from smg_proto.engine import connect
from smg_proto.testing._corpus import sentences
from smg_proto.testing._tokenizer import tokenizer

PROMPTS = [sentence[: 12 + number] for number, sentence in enumerate(list(sentences())[:20])]


async def output(target: str) -> list[tuple[int, ...]]:
    """The greedy tokens of each prompt, from an engine that may be at work on all at once."""
    async with connect(target, timeout=120) as engine:
        sent = [
            await engine.complete(
                token_ids=tokenizer().encode(prompt), max_tokens=16, temperature=0, ignore_eos=True
            )
            for prompt in PROMPTS
        ]
    return [result.token_ids for result in sent]


@pytest.mark.vllm_cpu
@pytest.mark.timeout(1200)
async def test_vllm_and_mlx_generate_the_same_greedy_tokens(running: Running) -> None:
    mlx = await output(running("mlx").target)
    assert len(mlx) == 20 and len(set(mlx)) == 20
    assert await output(running("vllm-cpu").target) == mlx
