"""What sync and async readers of a stream share."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from smg_proto.vllm.errors import VLLMGrpcTimeoutError
from smg_proto.vllm.options import Attempts, Timeout

M_co = TypeVar("M_co", covariant=True)


class SyncCall(Protocol[M_co]):
    """What a sync stub returns for a server stream; grpc has no public type for it."""

    def __next__(self) -> M_co: ...
    def cancel(self) -> object: ...
    def initial_metadata(self) -> Any: ...
    def trailing_metadata(self) -> Any: ...


class AsyncCall(Protocol[M_co]):
    """The same of an async stub, whose own type is not generic at run time."""

    def __aiter__(self) -> AsyncIterator[M_co]: ...
    def cancel(self) -> object: ...
    async def initial_metadata(self) -> Any: ...
    async def trailing_metadata(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the messages of one call may take. Limits of waits, and of the whole."""

    first_message: float | None = None
    idle: float | None = None
    whole: float | None = None

    @classmethod
    def of_stream(cls, timeout: Timeout) -> "Waits":
        return cls(timeout.first_message, timeout.idle, timeout.stream)

    @property
    def shortest(self) -> float:
        return min((s for s in (self.first_message, self.idle) if s is not None), default=math.inf)

    def deadline(self, attempts: Attempts) -> float | None:
        """What gRPC is told. A limit of a wait is not told: it would end a healthy stream."""
        return None if self.whole is None else attempts.remaining()

    def late(self, begun: bool, attempts: Attempts) -> VLLMGrpcTimeoutError:
        seconds, name = (
            (self.idle, "Timeout.idle") if begun else (self.first_message, "Timeout.first_message")
        )
        which = "further" if begun else "first"
        return VLLMGrpcTimeoutError(
            f"no {which} message within {seconds:g} s ({name})",
            code="DEADLINE_EXCEEDED",
            request_id=attempts.request_id,
        )
