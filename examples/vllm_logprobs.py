"""Get choices with logprobs, and JSON that fits a schema: python vllm_logprobs.py [TARGET]"""

import sys

from smg_proto.vllm import StructuredOutputs, VLLMGrpcClient

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

with VLLMGrpcClient(target=target) as client:
    completion = client.completions.create(
        prompt="The quick", max_tokens=4, n=2, temperature=0.9, seed=7, logprobs=2
    )
    for choice in completion.choices:
        assert choice.logprobs is not None
        for token, logprob in zip(
            choice.logprobs.tokens, choice.logprobs.token_logprobs, strict=True
        ):
            print(f"choice {choice.index}: {token!r} {logprob:.3f}")

    answer = client.completions.create(
        prompt="Who are you?",
        max_tokens=64,
        structured_outputs=StructuredOutputs(json_schema=schema),
    )
    print(answer.choices[0].text)
