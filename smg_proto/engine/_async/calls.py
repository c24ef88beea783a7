"""Calls over one channel, and the errors they raise."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from smg_proto.engine._config import Settings
from smg_proto.engine._contracts.base import Call, Reader
from smg_proto.engine._errors import ClosedError, FailedError, from_status
from smg_proto.engine._pairs import AsyncFailures, async_being_cancelled, async_run_blocking
from smg_proto.engine._types import Piece

if TYPE_CHECKING:
    from smg_proto._tokens.decoder import TokenDecoder

# Raised when a reply that breaks its contract is read.
_INVALID_REPLY = (AttributeError, LookupError, TypeError, ValueError)


class AsyncCaller:
    def __init__(self, settings: Settings, channel: grpc.aio.Channel) -> None:
        self.target: str = settings.target
        self.closed: bool = False
        self._settings = settings
        self._channel: Any = channel

    async def replies(self, calls: Sequence[Call]) -> list[Any]:
        """Make unary calls, one after another."""
        replies: list[Any] = []
        for call in calls:
            self.check_open()
            method = self._method(self._channel.unary_unary, call)
            timeout, metadata = self._settings.timeout, self._settings.metadata
            try:
                replies.append(await method(call.request, timeout=timeout, metadata=metadata))
            except AsyncFailures as error:
                raise self.failure(error, self.closed) from error
        return replies

    async def tokenizer(self, call: Call) -> "TokenDecoder":
        """Download the server's tokenizer."""
        from smg_proto._tokens.bundle import BundleBuilder
        from smg_proto._tokens.decoder import TokenDecoder
        from smg_proto.engine._decoding import TokenizerBundle

        builder = BundleBuilder(TokenizerBundle)
        chunks = self.stream(call, self._settings.timeout, ())
        try:
            async for chunk in chunks:
                builder.add(chunk)
        except AsyncFailures as error:
            raise self.failure(error, self.closed) from error
        finally:
            chunks.cancel()
        return await async_run_blocking(TokenDecoder.from_bundle, builder.build())

    def stream(self, call: Call, timeout: float | None, metadata: Sequence[Any]) -> Any:
        """Start a streaming call."""
        self.check_open()
        method = self._method(self._channel.unary_stream, call)
        metadata = (*self._settings.metadata, *metadata)
        return method(call.request, timeout=timeout, metadata=metadata)

    def _method(self, kind: Any, call: Call) -> Any:
        return kind(
            call.path,
            request_serializer=type(call.request).SerializeToString,
            response_deserializer=call.reply.FromString,
        )

    async def aclose(self) -> None:
        self.closed = True
        await self._channel.close()

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"{self.target}: the connection has been closed")

    def failure(self, error: BaseException, closed: bool) -> BaseException:
        """The exception to raise for a failed call. `closed`: whether this side closed it."""
        if isinstance(error, grpc.RpcError):
            status: Any = error
            code, details = status.code().name, status.details() or ""
            if not (closed and code == "CANCELLED"):
                return from_status(code, details, self.target)
        elif not closed or async_being_cancelled():
            return error
        return ClosedError(f"{self.target}: closed by this side")


class AsyncGeneration:
    """One request and its stream."""

    def __init__(
        self, caller: AsyncCaller, call: Call, reader: Reader, params: dict[str, Any]
    ) -> None:
        self.request_id: str = params["request_id"]
        self._caller = caller
        self._call = call
        self._reader = reader
        self._timeout: float | None = params.get("timeout")
        self._metadata: Sequence[Any] = params.get("metadata", ())
        self._left = set(range(params.get("n", 1)))
        self._closed = False
        self._running: Any = None

    async def pieces(self) -> AsyncIterator[Piece]:
        caller, unfinished, read = self._caller, self._left, self._reader.read
        if self._closed:
            raise ClosedError(f"{caller.target}: the stream has been closed")
        running = caller.stream(self._call, self._timeout, self._metadata)
        self._running = running
        if self._closed:  # by another thread in the meantime
            running.cancel()
        try:
            async for message in running:
                for piece in read(message):
                    if piece.finish_reason is not None:
                        unfinished.discard(piece.index)
                    yield piece
            for piece in self._reader.end(sorted(unfinished)):
                unfinished.discard(piece.index)
                yield piece
            if unfinished:
                what = f"the stream ended before {len(unfinished)} of its sequences did"
                raise FailedError(f"{caller.target}: {what}")
        except AsyncFailures as error:
            raise caller.failure(error, self._closed or caller.closed) from error
        except _INVALID_REPLY as error:
            raise FailedError(f"{caller.target}: a reply breaks its contract") from error
        finally:
            running.cancel()

    def cancel(self) -> None:
        """End the call. Code that waits for it gets a ClosedError."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
