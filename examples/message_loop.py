"""An agent with MessageService: the model calls functions until it replies with text.

python message_loop.py [TARGET]
"""

import json
import sys

from smg_proto import connect, smg_pb2, smg_pb2_grpc
from smg_proto.build import function_tool, text_of


def get_weather(city: str) -> str:
    """Return the temperature."""
    return f"18 degrees in {city}"


tools, pb = [function_tool(get_weather)], smg_pb2
request = pb.CreateMessageRequest(model="demo-model", max_tokens=500, tools=tools)
request.turns.add(role=pb.ROLE_USER).blocks.add(text="How warm is it? Ask get_weather.")
with connect(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as channel:
    stub = smg_pb2_grpc.MessageServiceStub(channel)
    while (reply := stub.CreateMessage(request)).finish_reason == "tool_calls":
        request.turns.add(role=pb.ROLE_ASSISTANT, blocks=reply.blocks)
        results = request.turns.add(role=pb.ROLE_USER).blocks
        for call in (block.tool_call for block in reply.blocks if block.HasField("tool_call")):
            result = get_weather(**json.loads(call.arguments))
            print(f"{call.name}({call.arguments}): {result}")
            results.add(tool_result=pb.ToolResult(call_id=call.id, content=result))
    print(text_of(reply))
