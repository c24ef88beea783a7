"""A thousand embeddings in one call, with room for long vectors: python embeddings.py [TARGET]"""

import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
inputs = [smg_pb2.EmbedInput(text=f"document {number}") for number in range(1000)]
request = smg_pb2.EmbedRequest(model="demo-model", inputs=inputs)
options = [("grpc.max_receive_message_length", 64 << 20)]  # gRPC takes 4 MiB otherwise

with grpc.insecure_channel(target, options=options) as channel:
    reply = smg_pb2_grpc.EmbeddingServiceStub(channel).Embed(request)
sizes = {len(embedding.values) for embedding in reply.embeddings}
print(f"{len(reply.embeddings)} vectors of {sizes}, {reply.usage.prompt_tokens} tokens")
