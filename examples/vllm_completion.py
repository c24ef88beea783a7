"""Complete a prompt with vLLM, as a whole and as a stream: python vllm_completion.py [TARGET]"""

import sys

from smg_proto.vllm import VLLMGrpcClient

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"

with VLLMGrpcClient(target=target) as client:
    completion = client.completions.create(prompt="The quick brown", max_tokens=16)
    choice = completion.choices[0]
    print(f"{completion.model}: {choice.text!r}, ended by {choice.finish_reason}")
    print(completion.usage)

    stream = client.completions.create(prompt="The quick brown", max_tokens=16, stream=True)
    for chunk in stream:
        print(chunk.choices[0].text, end="", flush=True)
    print()
    print(stream.get_final_completion().usage)
