"""The old import path of smg_proto: the same modules under their old names.

Software that was built on `smg_grpc_proto` works unmodified; write `smg_proto` in new code.
"""

from typing import TYPE_CHECKING

from smg_proto import __version__ as __version__

if TYPE_CHECKING:
    from types import ModuleType


def __getattr__(name: str) -> "ModuleType":
    from importlib import import_module

    if not name.endswith(("_pb2", "_pb2_grpc")):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
