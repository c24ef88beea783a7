"""The client: one connection, one contract."""

import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from smg_proto.engine._async.calls import AsyncCaller, AsyncGeneration
from smg_proto.engine._async.detect import Detected, async_detect
from smg_proto.engine._config import Settings
from smg_proto.engine._contracts import load
from smg_proto.engine._contracts.base import Contract, PromptReader
from smg_proto.engine._errors import FailedError
from smg_proto.engine._fold import Fold
from smg_proto.engine._request import GenerateParams, check, check_request_id
from smg_proto.engine._types import Completion, Health, Info, Load, Piece

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from smg_proto._tokens.decoder import TokenDecoder

log = logging.getLogger("smg_proto.engine")


class AsyncEngine:
    """A connected engine, from `connect()`. Calls may run concurrently.

    Every method raises an EngineError when it fails.
    """

    def __init__(
        self,
        _caller: AsyncCaller,
        _found: Detected,
        _contract: Contract,
        _facts: Any,
        _decoder: "TokenDecoder | None",
    ) -> None:
        self.target: str = _caller.target
        self.contract: str = _found.contracts[0]
        """The contract in use."""
        self.also: tuple[str, ...] = _found.contracts[1:]
        """Other contracts that the server speaks at this address."""
        self.has_text: bool = _contract.has_text or _decoder is not None
        """Whether a text prompt is continued with text. Other contracts return only token ids,
        unless a `decoder` adds text."""
        self._caller = _caller
        self._contract = _contract
        self._facts = _facts
        self._tokenizer: TokenDecoder | None = None
        self._decoder = _decoder  # only for a contract without text

    def generate(self, **params: "Unpack[GenerateParams]") -> "AsyncPieceStream":
        """Continue a prompt and stream the output. Leaving the stream ends the request.

        The request is checked at once, and sent when the first piece is requested.
        """
        return self._begin(params, stream=True)

    async def complete(self, **params: "Unpack[GenerateParams]") -> Completion:
        """Continue a prompt and return the complete output."""
        async with self._begin(params, stream=False) as stream:
            fold = Fold(stream.request_id)
            async for piece in stream:
                fold.add(piece)
        return fold.completion()

    async def tokenizer(self) -> "TokenDecoder":
        """The server's tokenizer, downloaded once. Needs the extra `decode`."""
        if self._tokenizer is None:
            self._tokenizer = await self._caller.tokenizer(self._contract.tokenizer_call())
        return self._tokenizer

    async def info(self) -> Info:
        """Describe the model and the server."""
        return self._contract.info(await self._caller.replies(self._contract.info_calls()))

    async def load(self) -> Load:
        """The engine's current load."""
        return self._contract.load(*await self._caller.replies([self._contract.load_call()]))

    async def health(self) -> Health:
        """Whether the engine can generate."""
        return self._contract.health(*await self._caller.replies([self._contract.health_call()]))

    async def abort(self, request_id: str) -> None:
        """End a request by its id. If you hold its stream, close the stream instead."""
        name = check_request_id("request_id", request_id)
        await self._caller.replies([self._contract.abort(name)])

    async def aclose(self) -> None:
        """Close the connection. Open streams end with a ClosedError."""
        await self._caller.aclose()

    def _begin(self, params: GenerateParams, stream: bool) -> "AsyncPieceStream":
        contract, decoder, checked = self._contract, self._decoder, check(params)
        if decoder is not None and "prompt" in checked:
            checked["token_ids"] = decoder.encode(checked.pop("prompt"))
        contract.check_supported(checked)
        call = contract.generate(checked, stream)
        reader = contract.reader(checked, stream, self._facts)
        if "prompt_logprobs" in checked:
            reader = PromptReader(reader, contract)
        if decoder is not None:
            from smg_proto.engine._decoding import DecodingReader

            reader = DecodingReader(reader, decoder, checked)
        return AsyncPieceStream(AsyncGeneration(self._caller, call, reader, checked))


class AsyncPieceStream:
    """The pieces of a generation. Leaving the `async with`, or dropping the stream, ends the
    request in the engine."""

    def __init__(self, _generation: AsyncGeneration) -> None:
        self.request_id: str = _generation.request_id
        """The request's id, for abort()."""
        self._generation = _generation
        self._pieces = _generation.pieces()  # holds no reference to this stream

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._pieces  # not self, which would add a call for every piece

    def __anext__(self) -> Awaitable[Piece]:
        return self._pieces.__anext__()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the request in the engine, if it is still running."""
        self._generation.cancel()


async def async_open(settings: Settings) -> AsyncEngine:
    """Connect, and detect what is needed before the first request."""
    channel = settings.address.async_channel()
    caller = AsyncCaller(settings, channel)
    try:
        if settings.contract is not None:
            detected = Detected((settings.contract,))
        else:
            detected = await async_detect(channel, settings)
        chosen, *others = detected.contracts
        if others:
            also = ",".join(others)
            log.warning(
                "several contracts found target=%s chosen=%s also=%s", settings.target, chosen, also
            )
        contract = load(chosen)
        facts_call, facts = contract.facts_call(), None
        if facts_call is not None:
            with suppress(FailedError):  # the reader then infers them from the replies
                facts = contract.facts(*await caller.replies([facts_call]))
        decoder = None if contract.has_text else settings.decoder
        if decoder == "server":
            decoder = await caller.tokenizer(contract.tokenizer_call())
    except BaseException:
        await caller.aclose()
        raise
    return AsyncEngine(caller, detected, contract, facts, decoder)
