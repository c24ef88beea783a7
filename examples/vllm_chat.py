"""Chat with a model behind vLLM's gRPC server: python vllm_chat.py [TARGET]"""

import sys

from smg_proto.vllm import VLLMGrpcClient

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
messages = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Say hello."},
]

with VLLMGrpcClient(target=target) as client:
    stream = client.chat.completions.create(messages=messages, max_tokens=16, stream=True)
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    # To continue the conversation, send the reply unchanged.
    reply = stream.get_final_completion().choices[0].message
    question = {"role": "user", "content": "And again?"}
    second = client.chat.completions.create(messages=[*messages, reply, question], max_tokens=16)
    print(second.choices[0].message.content)
