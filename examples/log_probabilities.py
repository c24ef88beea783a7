"""Print the probability of each token: python log_probabilities.py [TARGET]"""

import math
import sys

from smg_proto import connect, smg_pb2, smg_pb2_grpc
from smg_proto.build import user

request = smg_pb2.ChatRequest(
    model="demo-model", messages=[user("What is a contract?")], max_tokens=5, logprobs=2
)
with connect(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as channel:
    reply = smg_pb2_grpc.ChatServiceStub(channel).Chat(request)
for entry in reply.choices[0].logprobs:
    others = ", ".join(repr(other.token) for other in entry.top if other.token != entry.token)
    print(f"{entry.token!r:12} {math.exp(entry.logprob):6.1%}  rather than {others}")
