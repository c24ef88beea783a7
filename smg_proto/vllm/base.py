"""The settings of a client, sync or async: one list of arguments for both."""

from typing import Generic, TypeVar

from smg_proto.vllm import log
from smg_proto.vllm.checks import seconds
from smg_proto.vllm.connection import (
    AsyncToken,
    ChannelOptions,
    Pem,
    address,
    default_timeout,
    default_token,
)
from smg_proto.vllm.core import ChannelT, Host
from smg_proto.vllm.decode import TokenDecoder
from smg_proto.vllm.options import (
    NOT_GIVEN,
    CallParams,
    MetadataLike,
    NotGiven,
    Options,
    Timeout,
    check_metadata,
    check_retries,
    check_traceparent,
    merge_metadata,
)

TokenT = TypeVar("TokenT", bound=AsyncToken)


class ClientParams(CallParams, total=False):
    """What `with_options` changes, besides the token."""

    decoder: TokenDecoder | None


class ClientCore(Generic[ChannelT, TokenT]):
    """Where the server is, and the defaults of all calls.

    Address: host and port, or target; else VLLM_GRPC_HOST, VLLM_GRPC_PORT, else localhost:9000.
    TLS: secure=True, or any certificate; else VLLM_GRPC_SECURE, else for port 443. Certificates
    are PEM content (bytes) or the path of a file.

    timeout: seconds for a unary call; of a stream, for the wait for each message, never for the
        whole. A Timeout sets these apart; None is no limit; else VLLM_GRPC_TIMEOUT, else 60.
    token: sent as bearer token; a function is asked before each try; else VLLM_GRPC_TOKEN.
    max_retries: of calls that failed with UNAVAILABLE or RESOURCE_EXHAUSTED before any message.
    channel: one of the caller's, which stays open. channel_options: they replace defaults by name.
    decoder: fills in text. telemetry: spans, where OpenTelemetry is installed.
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
        token: TokenT | None = None,
        metadata: MetadataLike = (),
        traceparent: str | None = None,
        max_retries: int = 2,
        initial_backoff: float = 0.5,
        max_backoff: float = 8.0,
        wait_for_ready: bool = False,
        channel: ChannelT | None = None,
        channel_options: ChannelOptions | None = None,
        decoder: TokenDecoder | None = None,
        telemetry: bool = True,
    ) -> None:
        log.set_up()
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
        seconds("initial_backoff", initial_backoff)
        seconds("max_backoff", max_backoff)
        headers = check_metadata(metadata)
        if traceparent is not None:
            trace = (("traceparent", check_traceparent(traceparent)),)
            headers = merge_metadata(headers, trace)
        options = Options(
            timeout=default_timeout(timeout),
            max_retries=check_retries(max_retries),
            metadata=headers,
            wait_for_ready=wait_for_ready,
            initial_backoff=initial_backoff,
            max_backoff=max_backoff,
        )
        self._host: Host[ChannelT] = Host(where, channel, telemetry)
        self._owner = True  # of the channel, which with_options copies only borrow
        self._start(options, decoder, default_token(token))

    def _start(
        self, options: Options, decoder: TokenDecoder | None, token: AsyncToken | None
    ) -> None:
        raise NotImplementedError

    @property
    def is_closed(self) -> bool:
        return self._host.closed

    @property
    def target(self) -> str:
        return self._host.address.target

    def __repr__(self) -> str:
        where = self._host.address
        return f"{type(self).__name__}({where.target!r}, secure={where.secure})"
