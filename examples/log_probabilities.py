"""How sure the model was of each token: python log_probabilities.py [TARGET]"""

import math
import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
request = smg_pb2.CompletionRequest(
    model="demo-model", prompt="One contract", max_tokens=5, logprobs=2, return_token_ids=True
)
with grpc.insecure_channel(target) as channel:
    reply = smg_pb2_grpc.CompletionServiceStub(channel).Complete(request)
for entry in reply.logprobs:
    others = ", ".join(repr(other.token) for other in entry.top if other.token != entry.token)
    print(f"{entry.token!r:12} {math.exp(entry.logprob):6.1%}  rather than {others}")
