"""A gateway's HTTP API: a client, and the mapping between its JSON and smg.v1.

Shared by the front door and the OpenAI backend of smg_proto.llm. Requires aiohttp.
"""
