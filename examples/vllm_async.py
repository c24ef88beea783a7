"""Send several requests at once, and stop reading one early: python vllm_async.py [TARGET]"""

import asyncio
import sys

from smg_proto.vllm import AsyncVLLMGrpcClient, Timeout, VLLMGrpcError

TARGET = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"


async def main() -> None:
    # A stream has no time limit, but 30 seconds without a message end it.
    timeout = Timeout(call=120, first_message=60, idle=30)
    async with AsyncVLLMGrpcClient(target=TARGET, timeout=timeout) as client:
        prompts = ["The quick", "One contract", "A token is"]
        batch = await client.completions.create(prompt=prompts, max_tokens=8)
        for prompt, choice in zip(prompts, batch.choices, strict=True):
            print(f"{prompt!r} -> {choice.text!r}")

        async with await client.completions.create(prompt="The quick", stream=True) as stream:
            async for chunk in stream:
                if stream.usage.completion_tokens > 8:
                    break  # leaving the loop ends the request in the engine
                print(chunk.choices[0].text, end="", flush=True)
        print()

        try:
            await client.completions.create(prompt="The quick", temperature=9)
        except VLLMGrpcError as error:
            print(f"{type(error).__name__}: {error}")


asyncio.run(main())
