"""An MCP server with two tools, over HTTP on 127.0.0.1: `python mcp_server.py PORT`."""

import sys

from mcp.server.fastmcp import FastMCP


def get_weather(city: str) -> str:
    """How warm a city is."""
    return f"18 degrees in {city}"


def fail(city: str) -> str:
    """Goes wrong."""
    raise ValueError(f"no weather in {city}")


server = FastMCP("weather", host="127.0.0.1", port=int(sys.argv[1]))
server.add_tool(get_weather)
server.add_tool(fail)
server.run(transport="streamable-http")
