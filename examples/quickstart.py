"""Complete a prompt, first as a whole and then as a stream: python quickstart.py [TARGET]"""

import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"

with grpc.insecure_channel(target) as channel:
    stub = smg_pb2_grpc.CompletionServiceStub(channel)
    request = smg_pb2.CompletionRequest(
        model="demo-model", prompt="One contract", max_tokens=24, temperature=0.7
    )
    try:
        response = stub.Complete(request)
        print(request.prompt + response.text)
        print(f"finish reason: {response.finish_reason}")
        print(f"tokens: {response.prompt_tokens} + {response.completion_tokens}")

        for event in stub.StreamComplete(request):
            print(event.delta.text, end="", flush=True)
        print()
    except grpc.RpcError as e:
        sys.exit(f"{e.code()}: {e.details()}")
