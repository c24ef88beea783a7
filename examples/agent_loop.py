"""An agent: the model calls functions, in parallel if possible, until it replies with text.

python agent_loop.py [TARGET]
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from smg_proto import connect, smg_pb2, smg_pb2_grpc
from smg_proto.build import function_tool, tool_result, user
from smg_proto.streams import Stream


def get_weather(city: str) -> str:
    """Return the temperature."""
    return f"18 degrees in {city}"


functions = {"get_weather": get_weather}
request = smg_pb2.ChatRequest(
    model="demo-model",
    messages=[user("How warm is it? Ask get_weather.")],
    tools=[function_tool(function) for function in functions.values()],
)
with connect(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as channel:
    stub, pool = smg_pb2_grpc.ChatServiceStub(channel), ThreadPoolExecutor()
    while request.messages[-1].role != smg_pb2.ROLE_ASSISTANT:
        stream = Stream(stub.StreamChat(request))
        for text in stream.text_deltas:
            print(text, end="", flush=True)
        request.messages.append(stream.reply.choices[0].message)
        calls = request.messages[-1].tool_calls
        runs = [pool.submit(functions[c.name], **json.loads(c.arguments)) for c in calls]
        for call, run in zip(calls, runs, strict=True):
            print(f"{call.name}({call.arguments}): {run.result()}")
            request.messages.append(tool_result(call, run.result()))
