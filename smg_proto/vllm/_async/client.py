"""The async client."""

import copy
import time
from types import TracebackType
from typing import Any, Literal, cast

import grpc
from typing_extensions import Self, Unpack

from smg_proto._channel import ChannelOptions, MetadataLike, Pem
from smg_proto.vllm._async.caller import AsyncCaller
from smg_proto.vllm._async.connection import AsyncConnection
from smg_proto.vllm._async.resources import (
    AsyncAdmin,
    AsyncChat,
    AsyncCompletions,
    AsyncEmbeddings,
    AsyncHealth,
    AsyncKvEvents,
    AsyncLoadsResource,
    AsyncModels,
    AsyncTokenizerResource,
)
from smg_proto.vllm._config import (
    MAX_RETRIES,
    NOT_GIVEN,
    AsyncToken,
    CallParams,
    NotGiven,
    Options,
    Timeout,
    address,
    check_metadata,
    check_traceparent,
    default_timeout,
    default_token,
    duration,
    flag,
    merge_metadata,
    seconds,
    whole,
)
from smg_proto.vllm._errors import VLLMGrpcClosedError, VLLMGrpcError, VLLMGrpcValidationError
from smg_proto.vllm._params import AsyncClientParams
from smg_proto.vllm._telemetry import set_up_logging
from smg_proto.vllm._tokenizer import TokenDecoder
from smg_proto.vllm._wait import AsyncPause


class AsyncVLLMGrpcClient:
    """An async client of vLLM's gRPC servers with OpenAI's interface.

    host, port, or target: the address of the server. Unset: VLLM_GRPC_HOST and VLLM_GRPC_PORT, or
        localhost:9000.
    secure: use TLS. Unset: VLLM_GRPC_SECURE, or for port 443, or with one of the certificates.
    ca_certificate, client_certificate, client_key: PEM content (bytes) or the path of a file.
    server_name: the name in the server's certificate, if it differs from the host.
    timeout: seconds for a unary call, and for each message of a stream but not the whole stream. A
        Timeout distinguishes these; None is no limit. Unset: VLLM_GRPC_TIMEOUT, or 60.
    token: a bearer token, or a function called before each try. Unset: VLLM_GRPC_TOKEN.
    metadata, traceparent: sent with every call.
    max_retries: retries of a call that fails with UNAVAILABLE or RESOURCE_EXHAUSTED before its
        first message, after initial_backoff seconds, which double up to max_backoff.
    wait_for_ready: let calls wait for the connection instead of failing without one.
    decoder: fills in text. "server": the server's tokenizer, fetched once, concurrently with the
        first request. None: results have no text.
    channel: your own channel, which stays open. channel_options replace defaults by name.
    max_send_message_length, max_receive_message_length: bytes; -1 is no limit.
    telemetry: make spans if OpenTelemetry is installed and configured.
    protocol: "engine" is vllm.grpc.engine (vllm serve --grpc); "inference" is vLLM's own protocol,
        vllm.Inference (--grpc-port). "auto": the first, or the second if the server lacks it.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        target: str | None = None,
        secure: bool | None = None,
        timeout: float | Timeout | NotGiven | None = NOT_GIVEN,
        max_send_message_length: int = -1,
        max_receive_message_length: int = -1,
        ca_certificate: Pem | None = None,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        server_name: str | None = None,
        token: AsyncToken | None = None,
        metadata: MetadataLike = (),
        traceparent: str | None = None,
        max_retries: int = 2,
        initial_backoff: float = 0.5,
        max_backoff: float = 8.0,
        wait_for_ready: bool = False,
        channel: grpc.aio.Channel | None = None,
        channel_options: ChannelOptions | None = None,
        decoder: TokenDecoder | Literal["server"] | None = "server",
        telemetry: bool = True,
        protocol: Literal["auto", "engine", "inference"] = "auto",
    ) -> None:
        set_up_logging()
        where = address(
            host,
            port,
            target=target,
            secure=secure,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            server_name=server_name,
            max_send_message_length=max_send_message_length,
            max_receive_message_length=max_receive_message_length,
            channel_options=channel_options,
        )
        if channel is not None and not isinstance(cast(Any, channel), grpc.aio.Channel):
            raise VLLMGrpcValidationError("channel", "must be a grpc.aio.Channel")
        headers = check_metadata(metadata)
        if traceparent is not None:
            trace = (("traceparent", check_traceparent(traceparent)),)
            headers = merge_metadata(headers, trace)
        limits, given = default_timeout(timeout)
        options = Options(
            timeout=limits,
            timeout_given=given,
            max_retries=whole("max_retries", max_retries, 0, MAX_RETRIES),
            metadata=headers,
            wait_for_ready=flag("wait_for_ready", wait_for_ready),
            initial_backoff=seconds("initial_backoff", initial_backoff) or 0.0,
            max_backoff=seconds("max_backoff", max_backoff) or 0.0,
        )
        if protocol not in ("auto", "engine", "inference"):
            raise VLLMGrpcValidationError("protocol", 'must be "auto", "engine" or "inference"')
        spans = flag("telemetry", telemetry)
        self._connection = AsyncConnection(where, channel, spans, protocol)
        self._caller = AsyncCaller(self._connection, options, default_token(token), decoder)
        self._owns_connection = True  # unlike copies

    def with_options(self, **changes: Unpack[AsyncClientParams]) -> Self:
        """A copy with other settings, over the same connection, which its close() leaves open."""
        other = copy.copy(self)
        other._owns_connection = False
        other._caller = self._caller.changed(changes)
        return other

    copy = with_options

    @property
    def completions(self) -> AsyncCompletions:
        """Continue prompts."""
        return AsyncCompletions(self._caller)

    @property
    def chat(self) -> AsyncChat:
        """Reply to messages: `chat.completions.create(messages=…)`."""
        return AsyncChat(self._caller)

    @property
    def embeddings(self) -> AsyncEmbeddings:
        """Compute embeddings."""
        return AsyncEmbeddings(self._caller)

    @property
    def models(self) -> AsyncModels:
        """Describe the model."""
        return AsyncModels(self._caller)

    @property
    def health(self) -> AsyncHealth:
        """Check the engine, describe the server, end requests."""
        return AsyncHealth(self._caller)

    @property
    def loads(self) -> AsyncLoadsResource:
        """Get the load of the engine."""
        return AsyncLoadsResource(self._caller)

    @property
    def tokenizer(self) -> AsyncTokenizerResource:
        """Get the server's tokenizer."""
        return AsyncTokenizerResource(self._caller)

    @property
    def kv_events(self) -> AsyncKvEvents:
        """Subscribe to changes of the KV cache."""
        return AsyncKvEvents(self._caller)

    @property
    def admin(self) -> AsyncAdmin:
        """Flush the prefix cache, control the profiler."""
        return AsyncAdmin(self._caller)

    @property
    def is_closed(self) -> bool:
        return self._connection.closed

    @property
    def target(self) -> str:
        return self._connection.address.target

    async def is_healthy(self, **params: Unpack[CallParams]) -> bool:
        """Whether the engine reports that it is healthy. False if the call fails; errors of a token
        function are raised."""
        try:
            return (await self.health.check(**params)).healthy
        except (VLLMGrpcClosedError, VLLMGrpcValidationError):
            raise
        except VLLMGrpcError:
            return False

    async def wait_for_ready(self, timeout: float = 60.0, poll_interval: float = 1.0) -> bool:
        """Wait until the engine is healthy. False if it is not within `timeout` seconds."""
        pause = duration("poll_interval", poll_interval)
        ends = time.monotonic() + duration("timeout", timeout)
        while (left := ends - time.monotonic()) > 0:
            if await self.is_healthy(timeout=min(left, max(pause, 1.0)), max_retries=0):
                return True
            await AsyncPause().sleep(max(min(pause, ends - time.monotonic()), 0))
        return False

    async def close(self) -> None:
        """End all calls, and close the channel unless you passed it. Has no effect on a copy."""
        if self._owns_connection:
            self._caller.forget_server()
            await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        where = self._connection.address
        return f"{type(self).__name__}({where.target!r}, secure={where.secure})"
