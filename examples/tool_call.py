"""Let the model call a function, and send it the result: python tool_call.py [TARGET]"""

import json
import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
    "required": ["city"],
}


def get_weather(city: str) -> str:
    return f"18 degrees in {city}"


target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
question = "How warm is it? Ask get_weather."
weather = smg_pb2.Tool(
    function=smg_pb2.FunctionTool(name="get_weather", parameters_json=json.dumps(PARAMETERS))
)
request = smg_pb2.ChatRequest(
    model="demo-model",
    messages=[smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content=question)],
    tools=[weather],
)
with grpc.insecure_channel(target) as channel:
    stub = smg_pb2_grpc.ChatServiceStub(channel)
    reply = stub.Chat(request).choices[0]
    while reply.finish_reason == "tool_calls":
        request.messages.append(reply.message)
        for call in reply.message.tool_calls:
            print(f"{call.name}({call.arguments})")
            result = get_weather(**json.loads(call.arguments))
            request.messages.add(role=smg_pb2.ROLE_TOOL, tool_call_id=call.id, content=result)
        reply = stub.Chat(request).choices[0]
    print(reply.message.content)
