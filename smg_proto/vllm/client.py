"""The sync client."""

import copy
import time
from types import TracebackType

import grpc
from typing_extensions import Self, Unpack

from smg_proto.vllm.base import ClientCore, ClientParams
from smg_proto.vllm.connection import AsyncToken, Token
from smg_proto.vllm.decode import TokenDecoder
from smg_proto.vllm.errors import VLLMGrpcClosedError, VLLMGrpcError
from smg_proto.vllm.options import CallParams, Options
from smg_proto.vllm.resources import (
    Admin,
    Completions,
    Embeddings,
    Health,
    KvEvents,
    LoadsResource,
    Models,
    TokenizerResource,
)
from smg_proto.vllm.transport import Transport


class SyncParams(ClientParams, total=False):
    token: Token | None


class VLLMGrpcClient(ClientCore[grpc.Channel, Token]):
    __doc__ = f"A client of vLLM's gRPC server. {ClientCore.__doc__}"

    def _start(
        self, options: Options, decoder: TokenDecoder | None, token: AsyncToken | None
    ) -> None:
        self._transport = Transport(self._host, options, decoder, token)

    def with_options(self, **changes: Unpack[SyncParams]) -> Self:
        """A client over the same channel with other settings. Closing it leaves the channel."""
        other = copy.copy(self)
        other._owner = False
        other._transport = self._transport.changed(changes)
        return other

    @property
    def completions(self) -> Completions:
        return Completions(self._transport)

    @property
    def embeddings(self) -> Embeddings:
        return Embeddings(self._transport)

    @property
    def models(self) -> Models:
        return Models(self._transport)

    @property
    def health(self) -> Health:
        return Health(self._transport)

    @property
    def loads(self) -> LoadsResource:
        return LoadsResource(self._transport)

    @property
    def tokenizer(self) -> TokenizerResource:
        return TokenizerResource(self._transport)

    @property
    def kv_events(self) -> KvEvents:
        return KvEvents(self._transport)

    @property
    def admin(self) -> Admin:
        return Admin(self._transport)

    def is_healthy(self, **params: Unpack[CallParams]) -> bool:
        """Whether the engine answers and says that it lives; any failure of a call means no."""
        try:
            return self.health.check(**params).healthy
        except VLLMGrpcClosedError:
            raise
        except VLLMGrpcError:
            return False

    def wait_for_ready(self, timeout: float = 60.0, poll_interval: float = 1.0) -> bool:
        """Ask until the engine is healthy. False: not within `timeout` seconds."""
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > 0:
            if self.is_healthy(timeout=min(left, max(poll_interval, 1.0)), max_retries=0):
                return True
            time.sleep(max(min(poll_interval, ends - time.monotonic()), 0))
        return False

    def close(self) -> None:
        """End all calls and close the channel, if it is this client's own."""
        if self._owner and not self._host.closed:
            self._host.closed = True
            if self._host.given is None:
                self._transport.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
