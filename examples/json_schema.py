"""Stream a reply that fits a JSON schema, then parse it: python json_schema.py [TARGET]"""

import json
import sys

from smg_proto import connect, smg_pb2, smg_pb2_grpc
from smg_proto.build import json_output, text_of, user
from smg_proto.streams import Stream

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}
request = smg_pb2.ChatRequest(
    model="demo-model",
    messages=[user("How warm is Paris?")],
    output_format=json_output(SCHEMA),
)
with connect(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as channel:
    stream = Stream(smg_pb2_grpc.ChatServiceStub(channel).StreamChat(request))
    for text in stream.text_deltas:
        print(text, end="", flush=True)
    print("\ndegrees:", json.loads(text_of(stream.reply))["degrees"])
