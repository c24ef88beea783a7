"""connectrpc and protobuf-py: prints a reply, a stream, and the reason of an error."""

import re
import sys

import pyqwest
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType
from smg.v1.completion_connect import CompletionServiceClientSync
from smg.v1.completion_pb import CompletionRequest

# gRPC needs HTTP/2, which this client takes in clear text only when it is told so.
http = pyqwest.SyncClient(pyqwest.SyncHTTPTransport(http_version=pyqwest.HTTPVersion.HTTP2))
client = CompletionServiceClientSync(
    f"http://{sys.argv[1]}", protocol=ProtocolType.GRPC, http_client=http
)
request = CompletionRequest(model="demo-model", prompt="One contract", max_tokens=8)
print(client.complete(request).text)
events = [event.event for event in client.stream_complete(request)]
print("".join(event.value.text for event in events if event and event.field == "delta"))
try:
    client.complete(CompletionRequest(model="nope", prompt="x"))
except ConnectError as error:
    (detail,) = error.details
    assert detail.type_name == "google.rpc.ErrorInfo"
    reason = re.search(rb"[A-Z]+_[A-Z_]+", detail.message_bytes)
    assert reason
    print(error.code.name, reason[0].decode())
