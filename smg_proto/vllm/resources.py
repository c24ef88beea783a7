"""The sync client's resources: `client.completions` and the others."""

from collections.abc import Sequence
from typing import Literal, overload

from typing_extensions import Unpack

from smg_proto import common_pb2
from smg_proto.vllm import calls
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
from smg_proto.vllm.stream import GenerateStream, KvEventStream
from smg_proto.vllm.transport import Transport


class Resource:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class Completions(Resource):
    @overload
    def create(
        self,
        *,
        prompt: Prompts,
        stream: Literal[False] = False,
        **params: Unpack[CompletionParams],
    ) -> Completion: ...
    @overload
    def create(
        self, *, prompt: Prompts, stream: Literal[True], **params: Unpack[CompletionParams]
    ) -> GenerateStream: ...
    @overload
    def create(
        self, *, prompt: Prompts, stream: bool, **params: Unpack[CompletionParams]
    ) -> Completion | GenerateStream: ...
    def create(
        self, *, prompt: Prompts, stream: bool = False, **params: Unpack[CompletionParams]
    ) -> Completion | GenerateStream:
        """Continue a prompt, or each of several: choice i of prompt p has index p * n + i."""
        transport = self._transport
        call, asked, decoder = transport.check(stream, params)
        if asked.params.use_model_defaults and transport.host.model is None:
            transport.model_info(call)
        plan = transport.plan(prompt, call, asked, decoder, stream)
        timeout = plan.options.timeout
        if stream:
            readers = transport.generate(plan, Waits.of_stream(timeout))
            return GenerateStream(plan, readers, transport.model_name)
        readers = transport.generate(plan, Waits(whole=timeout.call))
        try:
            for reader, part in zip(readers, plan.parts, strict=True):
                for message in reader:
                    part.answer.add(message)
                part.answer.check_complete(part.request.request_id)
        except BaseException as error:
            for reader in readers:
                reader.close()
            plan.end(error)
            raise
        plan.initial_metadata = readers[0].initial_metadata()
        plan.trailing_metadata = readers[0].trailing_metadata()
        plan.model = plan.model or transport.model_name()
        plan.end()
        return plan.completion()


class Embeddings(Resource):
    def create(
        self, *, input: Prompts, request_id: str | None = None, **params: Unpack[CallParams]
    ) -> EmbeddingResponse:
        """Embed one input or several: token ids, or text if the client has a decoder."""
        requests = embed_requests(input, request_id, self._transport.decoder)
        answers = self._transport.many([calls.embed(request) for request in requests], params)
        return EmbeddingResponse.from_grpc_responses(answers, self._transport.model_name())


class Models(Resource):
    def retrieve(self, **params: Unpack[CallParams]) -> ModelInfo:
        """Describe the model that the server runs."""
        return self._transport.model_info(params)

    def list(self, **params: Unpack[CallParams]) -> ModelList:
        """The same: an engine has one model. `data` is the list that OpenAI's API has."""
        return self._transport.unary(calls.model_list(), params)


class Health(Resource):
    def check(self, **params: Unpack[CallParams]) -> HealthCheckResponse:
        return self._transport.unary(calls.health_check(), params)

    def server_info(self, **params: Unpack[CallParams]) -> ServerInfo:
        return self._transport.unary(calls.server_info(), params)

    def abort(self, request_ids: str | Sequence[str], **params: Unpack[CallParams]) -> None:
        """End requests from elsewhere, such as another process. Unknown ids are ignored."""
        self._transport.unary(calls.abort(request_ids), params)


class LoadsResource(Resource):
    def retrieve(
        self,
        *,
        dp_rank: int | None = None,
        include: Sequence[str] = (),
        **params: Unpack[CallParams],
    ) -> Loads:
        """The present load of each data-parallel rank."""
        return self._transport.unary(calls.loads(dp_rank, include), params)


class TokenizerResource(Resource):
    def download(self, **params: Unpack[CallParams]) -> TokenizerBundle:
        """The server's tokenizer files, checked against their hash."""
        options = self._transport.options_of(params)
        waits = Waits.of_stream(options.timeout)
        builder = BundleBuilder()
        for chunk in self._transport.reader(
            "GetTokenizer", common_pb2.GetTokenizerRequest(), options, waits, options.metadata
        ):
            builder.add(chunk)
        return builder.build()


class KvEvents(Resource):
    def subscribe(
        self,
        *,
        start_sequence_number: int = 0,
        load_records_before_first_batch: bool = True,
        **params: Unpack[CallParams],
    ) -> KvEventStream:
        """Follow the KV cache. A silent server is no error: waits are limited if asked only."""
        options = self._transport.options_of(params)
        waits = Waits.of_stream(options.timeout) if "timeout" in params else Waits()
        request = calls.kv_events(start_sequence_number, load_records_before_first_batch)
        return KvEventStream(
            self._transport.reader("SubscribeKvEvents", request, options, waits, options.metadata)
        )


class Admin(Resource):
    def flush_cache(self, timeout_s: float = 0.0, **params: Unpack[CallParams]) -> Outcome:
        """Drop the prefix cache; refused while requests run, for `timeout_s` seconds at most."""
        return self._transport.unary(calls.flush_cache(timeout_s), params)

    def start_profile(self, **params: Unpack[CallParams]) -> Outcome:
        """Start vLLM's profiler, with the options that vLLM was launched with."""
        return self._transport.unary(calls.start_profile(), params)

    def stop_profile(self, **params: Unpack[CallParams]) -> Outcome:
        """Stop the profiler and write its traces, which can take minutes."""
        return self._transport.unary(calls.stop_profile(), params)
