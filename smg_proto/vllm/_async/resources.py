"""The client's resources: `client.completions` and the others."""

import time
from collections.abc import Sequence
from typing import Any, Literal, overload

from typing_extensions import Unpack

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import sequence
from smg_proto.vllm._async.call import AsyncCall, Limits
from smg_proto.vllm._async.caller import AsyncCaller, check_decoder
from smg_proto.vllm._async.stream import AsyncChatStream, AsyncGenerateStream, AsyncKvEventStream
from smg_proto.vllm._bundle import TokenizerBundle
from smg_proto.vllm._chat import ChatRequest, ChatShape
from smg_proto.vllm._completion import CompletionShape, embed_requests, new_job, text_plans
from smg_proto.vllm._config import CallParams, duration, flag, split, text, whole
from smg_proto.vllm._errors import VLLMGrpcError, VLLMGrpcNotFoundError, VLLMGrpcValidationError
from smg_proto.vllm._params import (
    UNKNOWN_PARAMETER,
    ChatMessages,
    ChatParams,
    CompletionParams,
    CompletionRequest,
    EmbeddingParams,
    Prompts,
    parse_prompts,
    without_no_ops,
)
from smg_proto.vllm._tokenizer import TokenDecoder
from smg_proto.vllm._types import (
    ChatCompletion,
    Completion,
    EmbeddingResponse,
    HealthCheckResponse,
    Loads,
    ModelInfo,
    ModelList,
    Outcome,
    ServerInfo,
    embedding_response,
)
from smg_proto.vllm._wait import async_run_blocking


class AsyncResource:
    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller


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
        """Continue one or several prompts. Choice i of prompt p has the index p * n + i.

        None and NOT_GIVEN mean unset. Unset parameters are not sent: vLLM's plain defaults apply.

        prompt: text, a sequence of token ids, a TokenizedInput, or a list of these.
        stream: return chunks as they are generated.

        Sampling:
        temperature: 0 to 2; 0 is greedy. Unset: 1.
        top_p: keep the most likely tokens up to this total probability, above 0 to 1. Unset: 1.
        top_k: number of tokens to choose from; 0 or -1 is all. Unset: all.
        min_p: minimum probability relative to the most likely token, 0 to 1. Unset: 0.
        frequency_penalty, presence_penalty: -2 to 2; above 0 makes repetition rarer. Unset: 0.
        repetition_penalty: above 0; above 1 makes tokens of prompt and output rarer. Unset: 1.
        seed: makes the result reproducible; choice i of n uses seed + i. Unset: random.
        n: choices for each prompt, 1 to 16384. Unset: 1.
        logit_bias: a number for each token id, added to the token's logit.
        use_model_defaults: apply the model's own generation config to unset parameters, like
            vLLM's HTTP server. Unset: False.
        sampling_params: a SamplingParams instead of single values.

        Length and stops:
        max_tokens: maximum tokens of a choice, at least 1. Unset: up to the end of the context.
        min_tokens: number of tokens before an end token or a stop takes effect. Unset: 0.
        stop: a string or a list of strings that end a choice. The text is cut there.
        stop_token_ids: token ids that end a choice, besides the model's end tokens.
        ignore_eos: continue after the model's end token. Unset: False.
        include_stop_str_in_output: keep the stop string in the text. Unset: False.
        skip_special_tokens: omit special tokens from the text. Unset: True.
        spaces_between_special_tokens: affects only stop strings. Unset: True.
        truncate_prompt_tokens: keep only this many last tokens of a text prompt; -1 keeps all.
            Unset: -1.

        Output:
        logprobs: number of candidates for each token; 0 returns only the token's own logprob. The
            server rejects more than its --max-logprobs, 20 by default. Unset: no logprobs.
        prompt_logprobs: the same for the prompt. Unset: no logprobs.
        structured_outputs: a constraint on the output, as StructuredOutputs.
        grammar_from_first_token: apply the constraint to reasoning too. Unset: False.
        stream_options: include_usage adds a last chunk with the usage, continuous_usage_stats
            adds the usage to every chunk.
        decoder: fills in text for this call: a TokenDecoder, "server", or None for no text.

        Media and engine:
        media_refs: MediaRef objects that the server downloads; the prompt must be token ids.
        mm_inputs: media as tensors, in MultimodalInputs messages.
        kv_transfer_params: for vLLM's KV connector, a mapping or JSON text.
        data_parallel_rank: the rank that must serve the request, from 0.

        The call:
        request_id: identifies the request in logs and for abort. Unset: random.
        model: a label for the result. Unset: the server's name of its model, once it is known.
        timeout: seconds or a Timeout; None is no limit. Unset: the client's.
        max_retries: retries after UNAVAILABLE or RESOURCE_EXHAUSTED. Unset: the client's.
        metadata, extra_headers: gRPC metadata, added to the client's.
        traceparent: W3C trace context. wait_for_ready: wait for the connection.

        For compatibility with OpenAI's library, these are accepted and have no effect: user,
        best_of=1 (or n), echo=False, suffix="", extra_query={}, extra_body={}.
        """
        began = time.monotonic()
        caller = self._caller
        options, call, given, request_id = caller.arguments(stream, params)
        decoder = check_decoder(params.get("decoder", caller.decoder))
        given.pop("decoder", None)
        request = CompletionRequest.of(given)
        if request.use_model_defaults:
            info = caller.connection.model
            if info is None:
                ends = Limits.of_call(options, began).ends
                info = await caller.model_info(call, ends)
            request = request.with_defaults(info.default_sampling_params)
        inputs = parse_prompts(prompt)
        plans = text_plans(inputs, request)
        shape = CompletionShape(plans, request.n)
        job = new_job(inputs, request, plans, shape, request_id, stream, options)
        run = await caller.run(job, decoder, stream, began)
        return AsyncGenerateStream(run) if stream else await run.collect()


class AsyncChat(AsyncResource):
    @property
    def completions(self) -> "AsyncChatCompletions":
        return AsyncChatCompletions(self._caller)


class AsyncChatCompletions(AsyncResource):
    @overload
    async def create(
        self,
        *,
        messages: ChatMessages,
        stream: Literal[False] = False,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion: ...
    @overload
    async def create(
        self, *, messages: ChatMessages, stream: Literal[True], **params: Unpack[ChatParams]
    ) -> AsyncChatStream: ...
    @overload
    async def create(
        self, *, messages: ChatMessages, stream: bool, **params: Unpack[ChatParams]
    ) -> ChatCompletion | AsyncChatStream: ...
    async def create(
        self, *, messages: ChatMessages, stream: bool = False, **params: Unpack[ChatParams]
    ) -> ChatCompletion | AsyncChatStream:
        """Reply to messages, rendered with the chat template of the server's tokenizer.

        Needs the extra `chat`. Reasoning and tool calls stay in the text, in the model's own
        syntax: the gateway parses them, this client does not.

        messages: OpenAI's messages, with text content; assistant messages may have tool_calls.
        stream: return chunks as they are generated.
        tools: OpenAI's tools, for templates that list them.
        tool_choice: "auto" or "none". To force a call, use the gateway, or structured_outputs.
        response_format: OpenAI's, of type "text", "json_object" or "json_schema".
        chat_template: replaces the tokenizer's template. chat_template_kwargs: more variables for
            the template, such as {"enable_thinking": False}.
        add_generation_prompt: begin the assistant's turn. Unset: True.
        continue_final_message: continue the last message instead. Unset: False.
        max_tokens, max_completion_tokens: maximum tokens of a choice. Unset: up to the end of the
            context.
        logprobs: True for the logprob of each token. top_logprobs: number of candidates besides.
        use_model_defaults: apply the model's own generation config to unset parameters, like
            vLLM's HTTP server. Unset: True.

        As for completions.create: temperature, top_p, top_k, min_p, frequency_penalty,
        presence_penalty, repetition_penalty, seed, n, logit_bias, min_tokens, stop,
        stop_token_ids, ignore_eos, include_stop_str_in_output, skip_special_tokens,
        spaces_between_special_tokens, prompt_logprobs, structured_outputs,
        grammar_from_first_token, stream_options, kv_transfer_params, data_parallel_rank,
        request_id, model, timeout, max_retries, metadata, extra_headers, traceparent,
        wait_for_ready, user, store=False, extra_query={}, extra_body={}.
        """
        began = time.monotonic()
        caller = self._caller
        options, call, given, request_id = caller.arguments(stream, params)
        chat = ChatRequest.of(messages, given)
        limits = (Limits.of_stream if stream else Limits.of_call)(options, began)
        first = limits.first_message
        until = [end for end in (limits.ends, None if first is None else began + first) if end]
        ends = min(until, default=None)
        decoder = caller.decoder
        if decoder is None:
            raise VLLMGrpcValidationError("decoder", "must not be None: chat needs a tokenizer")
        if not isinstance(decoder, TokenDecoder):
            left = None if ends is None else max(ends - time.monotonic(), 0.0)
            decoder = await caller.required_decoder(left)
        request = chat.request
        if chat.model_defaults is not False:
            info = caller.connection.model
            try:
                info = info or await caller.model_info(call, ends)
            except VLLMGrpcError:
                if chat.model_defaults:
                    raise
            if info is not None:
                request = request.with_defaults(info.default_sampling_params)
        inputs = [await async_run_blocking(chat.prompt, decoder)]
        plans = text_plans(inputs, request)
        job = new_job(inputs, request, plans, ChatShape(decoder), request_id, stream, options)
        run = await caller.run(job, decoder, stream, began)
        return AsyncChatStream(run) if stream else await run.collect()


class AsyncEmbeddings(AsyncResource):
    async def create(
        self, *, input: Prompts, **params: Unpack[EmbeddingParams]
    ) -> EmbeddingResponse:
        """Embed one or several inputs: token ids, or text, which needs the tokenizer.

        model: a label for the result. request_id: identifies the request. Those of every call:
        timeout, max_retries, metadata, extra_headers, traceparent, wait_for_ready. These have no
        effect: user, encoding_format="float", extra_query={}, extra_body={}.
        """
        began = time.monotonic()
        caller = self._caller
        call, given = split(params)
        options = caller.options_of(call)
        given = without_no_ops(given)
        request_id = given.pop("request_id", None)
        model = given.pop("model", None)
        if model is not None:
            text("model", model)
        if given:
            CompletionRequest(**given)  # raises an error with advice, if there is any
            raise VLLMGrpcValidationError(min(given), UNKNOWN_PARAMETER)
        decoder = caller.decoder if isinstance(caller.decoder, TokenDecoder) else None
        texts = any(isinstance(one, str) for one in sequence(input) or [input])
        if texts and caller.decoder == "server":
            ends = Limits.of_call(options, began).ends
            decoder = await caller.server_decoder(None if ends is None else ends - time.monotonic())
        requests = await async_run_blocking(embed_requests, input, request_id, decoder)
        caller.look_up(words=False, name=model is None)
        replies = await caller.embed(requests, options, began)
        return embedding_response(replies, model or await caller.label(None))


class AsyncModels(AsyncResource):
    async def retrieve(self, model: str | None = None, **params: Unpack[CallParams]) -> ModelInfo:
        """Describe the server's model. model: NOT_FOUND if its name differs."""
        info = await self._caller.model_info(params)
        if model is not None and model not in (info.id, info.model_path):
            raise VLLMGrpcNotFoundError(
                "the server has another model; see models.list()", code="NOT_FOUND"
            )
        return info

    async def list(self, **params: Unpack[CallParams]) -> ModelList:
        """The models of the server. An engine has one."""
        return ModelList.of(await self._caller.model_info(params))


class AsyncHealth(AsyncResource):
    async def check(self, **params: Unpack[CallParams]) -> HealthCheckResponse:
        """Check whether the engine is healthy."""
        return await self._caller.unary(
            "HealthCheck", pb.HealthCheckRequest(), HealthCheckResponse.from_grpc, params
        )

    async def server_info(self, **params: Unpack[CallParams]) -> ServerInfo:
        """Describe the server's configuration."""
        return await self._caller.unary(
            "GetServerInfo", pb.GetServerInfoRequest(), ServerInfo.from_grpc, params
        )

    async def abort(self, request_ids: str | Sequence[str], **params: Unpack[CallParams]) -> None:
        """End requests, even those of another process. Unknown ids are ignored."""
        ids = [request_ids] if isinstance(request_ids, str) else sequence(request_ids)
        if not ids:
            raise VLLMGrpcValidationError("request_ids", "must be one or more request ids")
        for one in ids:
            text("request_ids", one)
        request = pb.AbortRequest(request_ids=ids)
        await self._caller.unary("Abort", request, bool, params)


class AsyncLoadsResource(AsyncResource):
    async def retrieve(
        self,
        *,
        dp_rank: int | None = None,
        include: Sequence[str] = (),
        **params: Unpack[CallParams],
    ) -> Loads:
        """The current load of each data-parallel rank."""
        if dp_rank is not None:
            dp_rank = whole("dp_rank", dp_rank, 0, 2**31 - 1)
        sections = sequence(include)
        if sections is None or not all(isinstance(one, str) for one in sections):
            raise VLLMGrpcValidationError("include", "must be a list of section names")
        request = pb.GetLoadsRequest(dp_rank=dp_rank, include=sections)
        return await self._caller.unary("GetLoads", request, Loads.from_grpc, params)


class AsyncTokenizerResource(AsyncResource):
    async def download(self, **params: Unpack[CallParams]) -> TokenizerBundle:
        """The server's tokenizer files, checked against their hash."""
        return await self._caller.download(params)

    async def decoder(self) -> TokenDecoder:
        """The server's tokenizer, which also fills in text. Raises an error if the server does not
        send one and its path is not a directory on this machine."""
        return await self._caller.required_decoder(None)


class AsyncKvEvents(AsyncResource):
    async def subscribe(
        self,
        *,
        start_sequence_number: int = 0,
        load_records_before_first_batch: bool = True,
        **params: Unpack[CallParams],
    ) -> AsyncKvEventStream:
        """Subscribe to changes of the KV cache. Waits for events have a time limit only if one is
        set for the call or the client."""
        caller = self._caller
        options = caller.options_of(params)
        request = common_pb2.SubscribeKvEventsRequest(
            start_sequence_number=whole(
                "start_sequence_number", start_sequence_number, 0, 2**64 - 1
            ),
            load_records_before_first_batch=flag(
                "load_records_before_first_batch", load_records_before_first_batch
            ),
        )
        limits = Limits()
        if options.timeout_given:
            limits = Limits.of_stream(options, time.monotonic())
        call: AsyncCall[Any] = caller.call("SubscribeKvEvents", request, options, limits)
        await call.begin()
        return AsyncKvEventStream(caller.connection, call)


class AsyncAdmin(AsyncResource):
    async def flush_cache(self, timeout_s: float = 0.0, **params: Unpack[CallParams]) -> Outcome:
        """Drop the prefix cache. While requests run, the server retries for up to `timeout_s`
        seconds."""
        patience = duration("timeout_s", timeout_s)
        request = common_pb2.FlushCacheRequest(timeout_s=patience)
        return await self._caller.unary(
            "FlushCache", request, Outcome.from_grpc, params, at_least=patience + 5
        )

    async def start_profile(self, **params: Unpack[CallParams]) -> Outcome:
        """Start vLLM's profiler, with the options that vLLM was launched with. INTERNAL without
        --profiler-config."""
        request = common_pb2.StartProfileRequest()
        return await self._caller.unary(
            "StartProfile", request, Outcome.from_grpc, params, repeatable=False
        )

    async def stop_profile(self, **params: Unpack[CallParams]) -> Outcome:
        """Stop the profiler and write its traces, which can take minutes. The default time limit is
        at least ten minutes."""
        request = common_pb2.StopProfileRequest()
        return await self._caller.unary(
            "StopProfile", request, Outcome.from_grpc, params, repeatable=False, at_least=600
        )
