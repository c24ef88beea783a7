"""grpc-requests by reflection: prints a reply, a stream, and the reason of an error."""

import sys

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_requests import Client
from grpc_status import rpc_status

SERVICE = "smg.v1.CompletionService"
client = Client.get_by_endpoint(sys.argv[1])
request = {"model": "demo-model", "prompt": "One contract", "max_tokens": 8}
print(client.request(SERVICE, "Complete", request)["text"])
events = client.request(SERVICE, "StreamComplete", request)
print("".join(event.get("delta", {}).get("text", "") for event in events))
try:
    client.request(SERVICE, "Complete", {"model": "nope", "prompt": "x"})
except grpc.RpcError as error:
    (detail,) = rpc_status.from_call(error).details
    info = ErrorInfo()
    assert detail.Unpack(info)
    print(error.code().name, info.reason)
