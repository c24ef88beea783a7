"""The async client."""

import asyncio
import copy
import time
from types import TracebackType

import grpc
from typing_extensions import Self, Unpack

from smg_proto.vllm.aio_resources import (
    AsyncAdmin,
    AsyncCompletions,
    AsyncEmbeddings,
    AsyncHealth,
    AsyncKvEvents,
    AsyncLoadsResource,
    AsyncModels,
    AsyncTokenizerResource,
)
from smg_proto.vllm.aio_transport import AsyncChannel, AsyncTransport
from smg_proto.vllm.base import ClientCore, ClientParams
from smg_proto.vllm.connection import AsyncToken
from smg_proto.vllm.decode import TokenDecoder
from smg_proto.vllm.errors import VLLMGrpcClosedError, VLLMGrpcError
from smg_proto.vllm.options import CallParams, Options


class AsyncParams(ClientParams, total=False):
    token: AsyncToken | None


class AsyncVLLMGrpcClient(ClientCore[grpc.aio.Channel, AsyncToken]):
    __doc__ = f"An async client of vLLM's gRPC server. {ClientCore.__doc__}"

    def _start(
        self, options: Options, decoder: TokenDecoder | None, token: AsyncToken | None
    ) -> None:
        self._transport = AsyncTransport(self._host, options, decoder, token)
        self._transport.opened = AsyncChannel()

    def with_options(self, **changes: Unpack[AsyncParams]) -> Self:
        """A client over the same channel with other settings. Closing it leaves the channel."""
        other = copy.copy(self)
        other._owner = False
        other._transport = self._transport.changed(changes)
        return other

    @property
    def completions(self) -> AsyncCompletions:
        return AsyncCompletions(self._transport)

    @property
    def embeddings(self) -> AsyncEmbeddings:
        return AsyncEmbeddings(self._transport)

    @property
    def models(self) -> AsyncModels:
        return AsyncModels(self._transport)

    @property
    def health(self) -> AsyncHealth:
        return AsyncHealth(self._transport)

    @property
    def loads(self) -> AsyncLoadsResource:
        return AsyncLoadsResource(self._transport)

    @property
    def tokenizer(self) -> AsyncTokenizerResource:
        return AsyncTokenizerResource(self._transport)

    @property
    def kv_events(self) -> AsyncKvEvents:
        return AsyncKvEvents(self._transport)

    @property
    def admin(self) -> AsyncAdmin:
        return AsyncAdmin(self._transport)

    async def is_healthy(self, **params: Unpack[CallParams]) -> bool:
        """Whether the engine answers and says that it lives; any failure of a call means no."""
        try:
            return (await self.health.check(**params)).healthy
        except VLLMGrpcClosedError:
            raise
        except VLLMGrpcError:
            return False

    async def wait_for_ready(self, timeout: float = 60.0, poll_interval: float = 1.0) -> bool:
        """Ask until the engine is healthy. False: not within `timeout` seconds."""
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > 0:
            if await self.is_healthy(timeout=min(left, max(poll_interval, 1.0)), max_retries=0):
                return True
            await asyncio.sleep(max(min(poll_interval, ends - time.monotonic()), 0))
        return False

    async def close(self) -> None:
        """End all calls and close the channel, if it is this client's own."""
        if self._owner and not self._host.closed:
            self._host.closed = True
            if self._host.given is None:
                await self._transport.opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
