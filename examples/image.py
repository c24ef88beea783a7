"""Ask about an image, at a URL or in a file: python image.py [TARGET [FILE]]"""

import sys
from pathlib import Path

from smg_proto import connect, smg_pb2, smg_pb2_grpc
from smg_proto.build import image, text_of, user

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
picture = image(Path(sys.argv[2])) if len(sys.argv) > 2 else image("https://example.org/cat.png")
message = user("What is in this picture?", picture)
with connect(target) as channel:
    chat = smg_pb2_grpc.ChatServiceStub(channel)
    print(text_of(chat.Chat(smg_pb2.ChatRequest(model="demo-model", messages=[message]))))
