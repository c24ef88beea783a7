"""Stream an answer that fits a JSON schema, then read it: python json_schema.py [TARGET]"""

import json
import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}
target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
schema = smg_pb2.JsonSchema(schema_json=json.dumps(SCHEMA))
request = smg_pb2.ChatRequest(
    model="demo-model",
    messages=[smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content="How warm is Paris?")],
    output_format=smg_pb2.OutputFormat(json_schema=schema),
)
with grpc.insecure_channel(target) as channel:
    text = ""
    for event in smg_pb2_grpc.ChatServiceStub(channel).StreamChat(request):
        print(event.delta.content, end="", flush=True)
        text += event.delta.content
print("\ndegrees:", json.loads(text)["degrees"])
