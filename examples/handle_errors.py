"""Read the code, reason and invalid fields of an error: python handle_errors.py [TARGET]"""

import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc
from smg_proto.errors import from_rpc_error

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"

with grpc.insecure_channel(target) as channel:
    stub = smg_pb2_grpc.CompletionServiceStub(channel)
    for request in (
        smg_pb2.CompletionRequest(model="demo-model", prompt="Hello", temperature=5),
        smg_pb2.CompletionRequest(model="no-such-model", prompt="Hello"),
    ):
        try:
            stub.Complete(request, timeout=10)
        except grpc.RpcError as error:
            problem = from_rpc_error(error)
            print(f"{problem.code.name}, {problem.reason}: {problem.message}")
            for violation in problem.field_violations:
                print(f"  {violation.field}: {violation.description}")
            if problem.retry_after is not None:
                print(f"  try again in {problem.retry_after.total_seconds()} s")
