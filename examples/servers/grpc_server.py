"""A server of LLMService, and a call to it that prints each token: python grpc_server.py

With --serve it serves on port 50051 until it is interrupted.
"""

import sys

import grpc

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.llm import LLMGRPCAdapter


def main() -> None:
    if "--serve" in sys.argv:
        LLMGRPCAdapter({"port": 50051}).run()
        return
    with LLMGRPCAdapter({"port": 0}) as adapter, grpc.insecure_channel(adapter.address) as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        for reply in stub.Generate(llm_pb2.GenerateRequest(prompt="Hello from the server!")):
            print(reply.token, flush=True)


if __name__ == "__main__":
    main()
