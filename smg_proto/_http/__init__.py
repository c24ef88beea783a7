"""A gateway's HTTP API: requests, events, and what they mean in smg.v1.

The front door and the OpenAI backend of smg_proto.llm share it. Needs aiohttp.
"""
