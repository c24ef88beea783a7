"""A user's program over the vLLM client, sync and async."""

import asyncio

from smg_proto.testing import run_vllm_engine
from smg_proto.vllm import (
    AsyncGenerateStream,
    AsyncVLLMGrpcClient,
    Completion,
    CompletionChunk,
    GenerateStream,
    MediaRef,
    SamplingParams,
    StructuredOutputs,
    Timeout,
    TokenDecoder,
    TokenizedInput,
    VLLMGrpcClient,
    VLLMGrpcError,
    VLLMGrpcValidationError,
)


def read(stream: GenerateStream) -> str:
    text = ""
    with stream:
        for chunk in stream:
            text += chunk.choices[0].text or ""
    return text


def sync(target: str) -> None:
    with VLLMGrpcClient(target=target, timeout=Timeout(call=60, idle=10)) as client:
        decoder = TokenDecoder.from_client(client)
        able = client.with_options(decoder=decoder, max_retries=1, metadata={"x-team": "a"})
        whole: Completion = able.completions.create(prompt="the quick", max_tokens=4, n=1)
        stream: GenerateStream = able.completions.create(
            prompt=[1, 2, 3],
            stream=True,
            max_tokens=4,
            stop=["zzz"],
            logit_bias={7: -1.0},
            stream_options={"include_usage": False},
        )
        text: str = read(stream)
        reason: str | None = whole.choices[0].finish_reason
        assert text and reason
        several = able.completions.create(
            prompt=["one", "two"], sampling_params=SamplingParams(max_tokens=1, seed=3)
        )
        assert [choice.index for choice in several.choices] == [0, 1]
        either: Completion | GenerateStream = able.completions.create(
            prompt=TokenizedInput(input_ids=[5]), stream=bool(text), max_tokens=1
        )
        assert not isinstance(either, Completion)
        vector: list[float] = client.embeddings.create(input=[1, 2]).data[0].embedding
        name: str = client.models.retrieve(timeout=5).id
        running: int = client.loads.retrieve().active_requests
        assert vector and name and running >= 0
        try:
            client.completions.create(
                prompt=[1],
                structured_outputs=StructuredOutputs(regex="a+", grammar="b"),
                media_refs=[MediaRef(url="u", modality="image")],
            )
        except VLLMGrpcValidationError as error:
            assert error.param == "structured_outputs"


async def asynchronous(target: str) -> None:
    async with AsyncVLLMGrpcClient(target=target, token=None) as client:
        whole: Completion = await client.completions.create(prompt="the quick", max_tokens=4)
        stream: AsyncGenerateStream = await client.completions.create(
            prompt="the quick", stream=True, max_tokens=4
        )
        chunks: list[CompletionChunk] = [chunk async for chunk in stream]
        final: Completion = await stream.get_final_completion()
        assert final.choices[0].token_ids == whole.choices[0].token_ids and chunks
        assert await client.is_healthy(timeout=5)
        subscription = await client.kv_events.subscribe()
        await subscription.close()
        try:
            await client.health.abort([])
        except VLLMGrpcError as error:
            code: str | None = error.code
            assert code == "INVALID_ARGUMENT" and not error.retryable


with run_vllm_engine() as address:
    sync(address)
    asyncio.run(asynchronous(address))
