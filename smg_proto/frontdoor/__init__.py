"""The front door: a gRPC server for every service of smg.v1, in front of a gateway's HTTP API.

    from smg_proto.frontdoor import FrontDoor, Options

    async with FrontDoor(Options(upstream="http://127.0.0.1:30000", listen="127.0.0.1:0")) as door:
        print(door.port)
        await door.wait()

`smg-proto serve` runs it as a command. Requires the extra `serve`.
"""

try:
    import aiohttp as _aiohttp  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as _error:
    raise ImportError(
        f"smg_proto.frontdoor needs {_error.name}: pip install 'smg-grpc-proto[serve]'"
    ) from None

from smg_proto._http.upstream import Timeouts
from smg_proto.frontdoor._options import Options, OptionsError, Tls
from smg_proto.frontdoor._server import FrontDoor

__all__ = ["FrontDoor", "Options", "OptionsError", "Timeouts", "Tls"]
