"""Makes the calls of a client, with its settings, over a connection shared with its copies."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Final, Literal, TypeVar

from google.protobuf.message import Message
from typing_extensions import Self

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import Metadata
from smg_proto._tokens.bundle import BundleBuilder
from smg_proto.vllm._async.call import AsyncCall, Limits, async_gather_calls
from smg_proto.vllm._async.connection import AsyncConnection
from smg_proto.vllm._async.stream import AsyncRun
from smg_proto.vllm._bundle import TokenizerBundle
from smg_proto.vllm._completion import ChunkT, Job, ResultT
from smg_proto.vllm._config import (
    CALL_PARAMS,
    AsyncToken,
    Options,
    async_check_token,
    flag,
    merge_metadata,
    split,
    text,
)
from smg_proto.vllm._errors import (
    VLLMGrpcCancelledError,
    VLLMGrpcClosedError,
    VLLMGrpcConnectionError,
    VLLMGrpcError,
    VLLMGrpcFailedPreconditionError,
    VLLMGrpcInternalError,
    VLLMGrpcTimeoutError,
    VLLMGrpcUnimplementedError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._inference import engine_reply
from smg_proto.vllm._params import UNKNOWN_PARAMETER
from smg_proto.vllm._telemetry import log_call, log_generate, log_no_tokenizer
from smg_proto.vllm._tokenizer import BY_SERVER, TokenDecoder, local_decoder
from smg_proto.vllm._types import ModelInfo
from smg_proto.vllm._wait import AsyncOnce, Late, async_run_blocking

T = TypeVar("T")
Decoding = TokenDecoder | Literal["server"] | None

_NO_BUNDLE: Final = (
    VLLMGrpcFailedPreconditionError,
    VLLMGrpcInternalError,
    VLLMGrpcUnimplementedError,
)
_LABEL_WAIT: Final = 0.25  # seconds
_TRANSIENT: Final = (VLLMGrpcConnectionError, VLLMGrpcCancelledError, VLLMGrpcClosedError)


def check_decoder(value: object) -> Decoding:
    if value == "server":
        return "server"
    if value is None or isinstance(value, TokenDecoder):
        return value
    raise VLLMGrpcValidationError("decoder", 'must be a TokenDecoder, "server" or None')


class AsyncCaller:
    def __init__(
        self,
        connection: AsyncConnection,
        options: Options,
        token: AsyncToken | None,
        decoder: object,
    ) -> None:
        self.connection = connection
        self.options = options
        self.token = token
        self.decoder = check_decoder(decoder)
        # Fetched in the background. A permanent error is a result too.
        self._model = AsyncOnce[ModelInfo | None]()
        self._tokenizer = AsyncOnce[TokenDecoder | Exception]()
        self._check_token()

    def _check_token(self) -> None:
        where = None if self.connection.given is not None else self.connection.address
        async_check_token(self.token, where)

    def changed(self, params: Mapping[str, Any]) -> Self:
        """A copy with other settings, over the same connection."""
        other = copy.copy(self)
        call = {name: value for name, value in params.items() if name in CALL_PARAMS}
        other.options = self.options.changed(call)
        for name, value in params.items():
            if name == "decoder":
                other.decoder = check_decoder(value)
            elif name == "token":
                other.token = value
            elif name not in CALL_PARAMS:
                raise VLLMGrpcValidationError(name, UNKNOWN_PARAMETER)
        other._check_token()
        return other

    def options_of(self, params: Mapping[str, Any]) -> Options:
        """The settings of one call."""
        self.connection.check()
        call, rest = split(params)
        if rest:
            raise VLLMGrpcValidationError(min(rest), UNKNOWN_PARAMETER)
        return self.options.changed(call)

    def arguments(
        self, stream: bool, params: Mapping[str, Any]
    ) -> tuple[Options, dict[str, Any], dict[str, Any], str | None]:
        """The arguments of `create`, checked: the settings of the call, the parameters of
        CallParams, the others that are set, and the request id."""
        self.connection.check()
        flag("stream", stream)
        call, given = split(params)
        request_id = given.pop("request_id", None)
        if request_id is not None:
            text("request_id", request_id)
        return self.options.changed(call), call, given, request_id

    # Calls.

    def call(
        self,
        rpc: str,
        request: Message,
        options: Options,
        limits: Limits,
        metadata: Metadata | None = None,
        request_id: str | None = None,
    ) -> AsyncCall[Any]:
        """An RPC, to be started by the caller."""
        return AsyncCall(
            self.connection,
            rpc,
            request,
            options,
            limits,
            self.token,
            options.metadata if metadata is None else metadata,
            request_id,
        )

    async def unary(
        self,
        rpc: str,
        request: Message,
        read: Callable[[Any], T],
        params: Mapping[str, Any],
        *,
        repeatable: bool = True,
        at_least: float = 0.0,
        ends: float | None = None,
    ) -> T:
        """Make a unary call. at_least: the minimum of the default time limit. ends: the deadline of
        a call that this one is part of."""
        options = self.options_of(params)
        if not repeatable:
            options = replace(options, max_retries=0)
        limits = Limits.of_call(options, time.monotonic(), at_least)
        if ends is not None:
            limits = Limits(ends=ends)
        log_call(rpc)
        return read(engine_reply(await self.call(rpc, request, options, limits).result()))

    async def embed(
        self, requests: Sequence[pb.EmbedRequest], options: Options, began: float
    ) -> list[pb.EmbedResponse]:
        """Make all calls concurrently. Each is retried separately; one that fails ends the
        others."""
        limits = Limits.of_call(options, began)
        calls: list[AsyncCall[pb.EmbedResponse]] = [
            self.call("Embed", request, options, limits, request_id=request.request_id)
            for request in requests
        ]
        if len(calls) == 1:
            return [await calls[0].result()]
        replies = dict[int, pb.EmbedResponse]()

        async def begin(number: int) -> None:
            await calls[number].begin()

        async def read(number: int) -> None:
            async for reply in calls[number]:
                replies[number] = reply

        await async_gather_calls(calls, begin, read)
        return [replies[number] for number in range(len(calls))]

    async def run(
        self, job: Job[ResultT, ChunkT], decoder: Decoding, stream: bool, began: float
    ) -> AsyncRun[ResultT, ChunkT]:
        """Start the calls of a job."""
        connection, options = self.connection, job.options
        if not job.model and connection.model is not None:
            job.model = connection.model.id
        if connection.telemetry is not None:
            span = connection.telemetry.begin(job.shape.operation, job.model, job.request)
            if span is not None:
                job.span = span
                job.metadata = merge_metadata(span.metadata(), job.metadata)
        of_kind = Limits.of_stream if stream else Limits.of_call
        limits = of_kind(options, began)
        requests = [part.request for part in job.parts]
        log_generate(requests)
        calls = [
            self.call("Generate", request, options, limits, job.metadata, request.request_id)
            for request in requests
        ]
        words = None
        if decoder == "server":
            found = self._tokenizer.value()
            if connection.inference:
                job.decode_with(None, served=True)
            elif found is None:
                words = self.server_decoder
            else:
                job.decode_with(found if isinstance(found, TokenDecoder) else None)
        else:
            job.decode_with(decoder)
        run = AsyncRun(connection, job, calls, words, self.label, stream)
        await run.begin()
        self.look_up(words=words is not None, name=not job.model)
        return run

    # Properties of the server.

    async def model_info(self, params: Mapping[str, Any], ends: float | None = None) -> ModelInfo:
        request = pb.GetModelInfoRequest()
        info = await self.unary("GetModelInfo", request, ModelInfo.from_grpc, params, ends=ends)
        self.connection.model = info
        return info

    async def _describe(self) -> ModelInfo | None:
        """Get the model. None: the server will never describe it."""
        try:
            return await self.model_info({})
        except VLLMGrpcError as error:
            if error.retryable or isinstance(error, _TRANSIENT):
                raise
            return None

    async def label(self, seconds: float | None) -> str:
        """The model's name, for results. As it is only a label, the client waits for it briefly,
        and only once if the server does not return it."""
        connection = self.connection
        if connection.model is None and not connection.nameless:
            try:
                patience = _LABEL_WAIT if seconds is None else min(_LABEL_WAIT, seconds)
                await self._model.get(self._describe, patience)
            except (Late, VLLMGrpcError):
                connection.nameless = True
        return connection.model.id if connection.model is not None else ""

    def look_up(self, *, words: bool, name: bool) -> None:
        """Fetch the tokenizer or the model's name in the background."""
        if words:
            self._tokenizer.begin(self._fetch)
        elif name and self.connection.model is None:
            self._model.begin(self._describe)

    async def download(self, params: Mapping[str, Any]) -> TokenizerBundle:
        options = self.options_of(params)
        limits = Limits.of_stream(options, time.monotonic())
        log_call("GetTokenizer")
        builder = BundleBuilder(TokenizerBundle)
        call = self.call("GetTokenizer", common_pb2.GetTokenizerRequest(), options, limits)
        await call.begin()
        try:
            async for chunk in call:
                builder.add(chunk)
        finally:
            call.close()
        return builder.build()

    async def _fetch(self) -> TokenDecoder | Exception:
        """Get the server's tokenizer, or a permanent error."""
        try:
            return await self._find()
        except Exception as error:
            if isinstance(error, _TRANSIENT) or getattr(error, "retryable", False):
                raise
            if not self.connection.inference:  # otherwise the server sends text
                log_no_tokenizer(str(error))
            return error

    async def _find(self) -> TokenDecoder:
        if find_spec("tokenizers") is None:
            raise ImportError(
                "decoding needs tokenizers: pip install 'smg-grpc-proto[client,decode]'"
            )
        info = await self._model.get(self._describe, None)
        server = None
        if info is not None and info.raw is not None and self.connection.given is None:
            described = info.raw.SerializeToString(deterministic=True)
            server = (self.connection.address.target, described)
        decoder = BY_SERVER.get(server) if server is not None else None
        if decoder is None:
            try:
                bundle = await self.download({})
            except _NO_BUNDLE:
                if info is None:
                    raise
                path = info.tokenizer_path or info.model_path
                decoder = await async_run_blocking(local_decoder, path)
            else:
                decoder = await async_run_blocking(TokenDecoder.from_bundle, bundle)
            if server is not None:
                BY_SERVER[server] = decoder
        return decoder

    async def server_decoder(self, seconds: float | None) -> TokenDecoder | None:
        """The server's tokenizer, or None if it does not have one. seconds: the time limit."""
        found = await self._tokenizer_within(seconds)
        return found if isinstance(found, TokenDecoder) else None

    async def required_decoder(self, seconds: float | None) -> TokenDecoder:
        """The server's tokenizer, or an error. After a permanent error, it tries again."""
        if isinstance(self._tokenizer.value(), Exception):
            self._tokenizer.forget()
        found = await self._tokenizer_within(seconds)
        if isinstance(found, TokenDecoder):
            return found
        raise found

    async def _tokenizer_within(self, seconds: float | None) -> TokenDecoder | Exception:
        try:
            return await self._tokenizer.get(self._fetch, seconds)
        except Late:
            self.connection.check()
            raise VLLMGrpcTimeoutError(
                "the server's tokenizer did not arrive within the time limit of the call; load it "
                "beforehand with tokenizer.decoder(), or use decoder=None for no text",
                code="DEADLINE_EXCEEDED",
            ) from None

    def forget_server(self) -> None:
        """Stop background work."""
        self._model.stop()
        self._tokenizer.stop()
