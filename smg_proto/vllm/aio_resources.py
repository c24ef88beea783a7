"""The async client's resources: `client.completions` and the others."""

from collections.abc import Sequence
from typing import Literal, overload

from typing_extensions import Unpack

from smg_proto import common_pb2
from smg_proto.vllm import calls
from smg_proto.vllm.aio_stream import AsyncGenerateStream, AsyncKvEventStream
from smg_proto.vllm.aio_transport import AsyncTransport
from smg_proto.vllm.build import CompletionParams, embed_requests
from smg_proto.vllm.bundle import BundleBuilder, TokenizerBundle
from smg_proto.vllm.options import CallParams
from smg_proto.vllm.params import Prompts
from smg_proto.vllm.reading import Waits
from smg_proto.vllm.results import Completion, EmbeddingResponse
from smg_proto.vllm.server_results import (
    HealthCheckResponse,
    Loads,
    ModelInfo,
    ModelList,
    Outcome,
    ServerInfo,
)


class AsyncResource:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


class AsyncCompletions(AsyncResource):
    @overload
    async def create(
        self,
        *,
        prompt: Prompts,
        stream: Literal[False] = False,
        **params: Unpack[CompletionParams],
    ) -> Completion: ...
    @overload
    async def create(
        self, *, prompt: Prompts, stream: Literal[True], **params: Unpack[CompletionParams]
    ) -> AsyncGenerateStream: ...
    @overload
    async def create(
        self, *, prompt: Prompts, stream: bool, **params: Unpack[CompletionParams]
    ) -> Completion | AsyncGenerateStream: ...
    async def create(
        self, *, prompt: Prompts, stream: bool = False, **params: Unpack[CompletionParams]
    ) -> Completion | AsyncGenerateStream:
        """Continue a prompt, or each of several: choice i of prompt p has index p * n + i."""
        transport = self._transport
        call, asked, decoder = transport.check(stream, params)
        if asked.params.use_model_defaults and transport.host.model is None:
            await transport.model_info(call)
        plan = transport.plan(prompt, call, asked, decoder, stream)
        timeout = plan.options.timeout
        if stream:
            readers = await transport.generate(plan, Waits.of_stream(timeout))
            return AsyncGenerateStream(plan, readers, transport.model_name)
        readers = await transport.generate(plan, Waits(whole=timeout.call))
        try:
            for reader, part in zip(readers, plan.parts, strict=True):
                async for message in reader:
                    part.answer.add(message)
                part.answer.check_complete(part.request.request_id)
        except BaseException as error:
            for reader in readers:
                reader.close()
            plan.end(error)
            raise
        plan.initial_metadata = await readers[0].initial_metadata()
        plan.trailing_metadata = await readers[0].trailing_metadata()
        plan.model = plan.model or await transport.model_name()
        plan.end()
        return plan.completion()


class AsyncEmbeddings(AsyncResource):
    async def create(
        self, *, input: Prompts, request_id: str | None = None, **params: Unpack[CallParams]
    ) -> EmbeddingResponse:
        """Embed one input or several: token ids, or text if the client has a decoder."""
        requests = embed_requests(input, request_id, self._transport.decoder)
        answers = await self._transport.many([calls.embed(request) for request in requests], params)
        return EmbeddingResponse.from_grpc_responses(answers, await self._transport.model_name())


class AsyncModels(AsyncResource):
    async def retrieve(self, **params: Unpack[CallParams]) -> ModelInfo:
        """Describe the model that the server runs."""
        return await self._transport.model_info(params)

    async def list(self, **params: Unpack[CallParams]) -> ModelList:
        """The same: an engine has one model. `data` is the list that OpenAI's API has."""
        return await self._transport.unary(calls.model_list(), params)


class AsyncHealth(AsyncResource):
    async def check(self, **params: Unpack[CallParams]) -> HealthCheckResponse:
        return await self._transport.unary(calls.health_check(), params)

    async def server_info(self, **params: Unpack[CallParams]) -> ServerInfo:
        return await self._transport.unary(calls.server_info(), params)

    async def abort(self, request_ids: str | Sequence[str], **params: Unpack[CallParams]) -> None:
        """End requests from elsewhere, such as another process. Unknown ids are ignored."""
        await self._transport.unary(calls.abort(request_ids), params)


class AsyncLoadsResource(AsyncResource):
    async def retrieve(
        self,
        *,
        dp_rank: int | None = None,
        include: Sequence[str] = (),
        **params: Unpack[CallParams],
    ) -> Loads:
        """The present load of each data-parallel rank."""
        return await self._transport.unary(calls.loads(dp_rank, include), params)


class AsyncTokenizerResource(AsyncResource):
    async def download(self, **params: Unpack[CallParams]) -> TokenizerBundle:
        """The server's tokenizer files, checked against their hash."""
        options = self._transport.options_of(params)
        waits = Waits.of_stream(options.timeout)
        builder = BundleBuilder()
        async for chunk in await self._transport.reader(
            "GetTokenizer", common_pb2.GetTokenizerRequest(), options, waits, options.metadata
        ):
            builder.add(chunk)
        return builder.build()


class AsyncKvEvents(AsyncResource):
    async def subscribe(
        self,
        *,
        start_sequence_number: int = 0,
        load_records_before_first_batch: bool = True,
        **params: Unpack[CallParams],
    ) -> AsyncKvEventStream:
        """Follow the KV cache. A silent server is no error: waits are limited if asked only."""
        options = self._transport.options_of(params)
        waits = Waits.of_stream(options.timeout) if "timeout" in params else Waits()
        request = calls.kv_events(start_sequence_number, load_records_before_first_batch)
        return AsyncKvEventStream(
            await self._transport.reader(
                "SubscribeKvEvents", request, options, waits, options.metadata
            )
        )


class AsyncAdmin(AsyncResource):
    async def flush_cache(self, timeout_s: float = 0.0, **params: Unpack[CallParams]) -> Outcome:
        """Drop the prefix cache; refused while requests run, for `timeout_s` seconds at most."""
        return await self._transport.unary(calls.flush_cache(timeout_s), params)

    async def start_profile(self, **params: Unpack[CallParams]) -> Outcome:
        """Start vLLM's profiler, with the options that vLLM was launched with."""
        return await self._transport.unary(calls.start_profile(), params)

    async def stop_profile(self, **params: Unpack[CallParams]) -> Outcome:
        """Stop the profiler and write its traces, which can take minutes."""
        return await self._transport.unary(calls.stop_profile(), params)
