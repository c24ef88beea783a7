"""Compute a thousand embeddings in one call, 6 MB of vectors: python embeddings.py [TARGET]"""

import sys

from smg_proto import connect, smg_pb2, smg_pb2_grpc

inputs = [smg_pb2.EmbedInput(text=f"document {number}") for number in range(1000)]
request = smg_pb2.EmbedRequest(model="demo-model", inputs=inputs, dimensions=1536)
with connect(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as channel:
    reply = smg_pb2_grpc.EmbeddingServiceStub(channel).Embed(request)
sizes = {len(embedding.values) for embedding in reply.embeddings}
print(f"{len(reply.embeddings)} vectors of {sizes}, {reply.usage.prompt_tokens} tokens")
