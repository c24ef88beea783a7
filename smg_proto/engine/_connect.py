"""connect() and Connection, for sync and async programs."""

from types import TracebackType
from typing import TYPE_CHECKING, Literal

from smg_proto._channel import ChannelOptions, MetadataLike, Pem
from smg_proto.engine._async.engine import AsyncEngine, async_open
from smg_proto.engine._config import Settings, settings
from smg_proto.engine._contracts import CONTRACTS
from smg_proto.engine._errors import ClosedError, ParameterError
from smg_proto.engine._sync.engine import Engine
from smg_proto.engine._sync.engine import open as open_engine

if TYPE_CHECKING:
    from smg_proto._tokens.decoder import TokenDecoder


class Connection:
    """A connection to an engine: `async with` gives an AsyncEngine, `with` an Engine.

    Entering it detects which contract the server speaks. Leaving it closes the connection.
    """

    def __init__(self, _settings: Settings) -> None:
        self._settings = _settings
        self._async_engine: AsyncEngine | None = None
        self._engine: Engine | None = None

    async def __aenter__(self) -> AsyncEngine:
        self._check_unused()
        self._async_engine = await async_open(self._settings)
        return self._async_engine

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._async_engine is not None
        await self._async_engine.aclose()

    def __enter__(self) -> Engine:
        self._check_unused()
        self._engine = open_engine(self._settings)
        return self._engine

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._engine is not None
        self._engine.close()

    def _check_unused(self) -> None:
        if self._async_engine is not None or self._engine is not None:
            raise ClosedError("a connection can be entered only once; call connect() again")


def connect(
    target: str,
    *,
    contract: str | None = None,
    timeout: float | None = 10.0,
    token: str | None = None,
    metadata: MetadataLike | None = None,
    secure: bool | None = None,
    ca_certificate: Pem | None = None,
    client_certificate: Pem | None = None,
    client_key: Pem | None = None,
    server_name: str | None = None,
    max_message_bytes: int | None = None,
    channel_options: ChannelOptions | None = None,
    decoder: "TokenDecoder | Literal['server'] | None" = None,
) -> Connection:
    """Connect to an engine at HOST:PORT, [IPV6]:PORT or unix:PATH, whichever contract it speaks.

    contract: skips detection. timeout: seconds for each call that generates nothing; generate() and
    complete() take their own. token: sent as "authorization: Bearer", never in clear text to
    another machine. secure: use TLS; a certificate, as PEM or a file, also turns it on.
    max_message_bytes: limit for requests and replies; None: no limit. decoder: adds text to
    contracts that carry only token ids; "server" downloads the server's tokenizer, which needs the
    extra `decode`. None: no text for those contracts.

    ParameterError: an argument is wrong. Nothing is sent before the `with`.
    """
    if contract is not None and contract not in CONTRACTS:
        raise ParameterError("contract", f"must be one of {', '.join(CONTRACTS)}")
    return Connection(
        settings(
            target,
            contract=contract,
            timeout=timeout,
            token=token,
            metadata=metadata,
            secure=secure,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            server_name=server_name,
            max_message_bytes=max_message_bytes,
            channel_options=channel_options,
            decoder=decoder,
        )
    )
