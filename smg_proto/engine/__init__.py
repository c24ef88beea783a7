"""One client for every engine contract. It detects which one a server speaks.

    async with smg_proto.engine.connect("host:50051") as engine:
        async for piece in engine.generate(prompt="One contract", max_tokens=16):
            print(piece.text, end="")

A plain `with` gives the sync client. The base install is enough.
"""

from typing import TYPE_CHECKING, Any

from smg_proto._channel import MetadataLike as Metadata
from smg_proto._channel import Pem
from smg_proto.engine._async.engine import AsyncEngine, AsyncPieceStream
from smg_proto.engine._connect import Connection, connect
from smg_proto.engine._errors import (
    AccessError,
    BusyError,
    ClosedError,
    DeadlineError,
    EngineError,
    FailedError,
    NoContractError,
    ParameterError,
    RequestError,
    Tried,
    UnavailableError,
    UnsupportedError,
)
from smg_proto.engine._request import GenerateParams
from smg_proto.engine._sync.engine import Engine, PieceStream
from smg_proto.engine._types import Choice, Completion, Health, Info, Load, Logprob, Piece, Usage

if TYPE_CHECKING:
    from smg_proto._tokens.decoder import TokenDecoder

__all__ = [
    "AccessError",
    "AsyncEngine",
    "AsyncPieceStream",
    "BusyError",
    "Choice",
    "ClosedError",
    "Completion",
    "Connection",
    "DeadlineError",
    "Engine",
    "EngineError",
    "FailedError",
    "GenerateParams",
    "Health",
    "Info",
    "Load",
    "Logprob",
    "Metadata",
    "NoContractError",
    "ParameterError",
    "Pem",
    "Piece",
    "PieceStream",
    "RequestError",
    "TokenDecoder",
    "Tried",
    "UnavailableError",
    "UnsupportedError",
    "Usage",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name == "TokenDecoder":  # loaded on first use: it imports modules that unpack archives
        from smg_proto._tokens.decoder import TokenDecoder

        return TokenDecoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
