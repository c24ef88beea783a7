"""The gateway runs the tools of an MCP server: python mcp_tools.py [TARGET [SERVER_URL]]"""

import sys

from smg_proto import connect, smg_pb2, smg_pb2_grpc
from smg_proto.build import text_of
from smg_proto.streams import Stream

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
url = sys.argv[2] if len(sys.argv) > 2 else "http://localhost:9000/mcp"
server = smg_pb2.McpTool(server_label="weather", server_url=url, allowed_tools=["get_weather"])
request = smg_pb2.CreateResponseRequest(
    model="demo-model",
    input="How warm is Oslo? Ask get_weather.",
    tools=[smg_pb2.Tool(mcp=server)],
)
with connect(target) as channel:
    stream = Stream(smg_pb2_grpc.ResponseServiceStub(channel).StreamResponse(request))
    for event in stream:
        call = event.item_end.item.tool_call
        if call.server_label:
            result = call.error.message or call.output
            print(f"{call.server_label}: {call.name}({call.arguments}): {result}")
    print(text_of(stream.reply))
