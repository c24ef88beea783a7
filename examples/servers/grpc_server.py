"""A server of LLMService, and a call to it that prints each token: python grpc_server.py

With --serve it goes on serving, until interrupted.
"""

import sys
from concurrent import futures

import grpc

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.llm import LLMService


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(), server)
    port = server.add_insecure_port("[::]:50051" if "--serve" in sys.argv else "[::]:0")
    server.start()
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        for reply in stub.Generate(llm_pb2.GenerateRequest(prompt="Hello from the server!")):
            print(reply.token, flush=True)
    if "--serve" in sys.argv:
        print(f"serving on [::]:{port}", flush=True)
        server.wait_for_termination()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
