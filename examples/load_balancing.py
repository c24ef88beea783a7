"""Distribute calls over several front doors: python load_balancing.py [TARGET]

TARGET names all of them: dns:///front-door:50051 if the name has several addresses, or
ipv4:10.0.0.1:50051,10.0.0.2:50051. A call that one of them did not start is retried on another.
"""

import sys
from importlib.resources import files

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
service_config = (files("smg_proto") / "service_config.json").read_text(encoding="utf-8")

with grpc.insecure_channel(target, options=[("grpc.service_config", service_config)]) as channel:
    stub = smg_pb2_grpc.CompletionServiceStub(channel)
    for seed in range(6):
        request = smg_pb2.CompletionRequest(
            model="demo-model", prompt="One contract", max_tokens=12, seed=seed
        )
        print(stub.Complete(request, timeout=30).text)
