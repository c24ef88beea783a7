"""The front door: every service of smg.v1, served from a gateway's HTTP API.

    from smg_proto.gateway import FrontDoor, Options

    async with FrontDoor(Options(upstream="http://127.0.0.1:30000", listen="127.0.0.1:0")) as door:
        print(door.port)
        await door.wait()

`smg-proto serve` is this as a command. Needs the extra `gateway`.
"""

from smg_proto.gateway.options import Options, OptionsError
from smg_proto.gateway.server import FrontDoor

__all__ = ["FrontDoor", "Options", "OptionsError"]
