"""FakeOpenEngine: `openengine.v1` over the built-in model.

It follows the comments of the contract. Unlike the fakes of vLLM and SGLang, it was not compared
with a real server, which needs a GPU.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

import grpc

from smg_proto import __version__, openengine_pb2_grpc
from smg_proto import openengine_pb2 as pb
from smg_proto.testing._engine.base import Context, FakeEngine
from smg_proto.testing._engine.checks import (
    Rejected,
    check_prompt,
    check_sampling,
    fitting_json,
    grammar,
)
from smg_proto.testing._engine.load import MAX_RUNNING, Running
from smg_proto.testing._engine.requests import MAX_LOGPROBS
from smg_proto.testing._generation import Piece, Sampling, Step, score
from smg_proto.testing._kv_cache import BLOCK_SIZE
from smg_proto.testing._model import EOS
from smg_proto.testing._scripting import Answer

_MAX_SEQUENCES = 16
_REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "abort": pb.FINISH_REASON_CANCELLED,
}
_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class FakeOpenEngine(
    FakeEngine, openengine_pb2_grpc.InferenceServicer, openengine_pb2_grpc.ControlServicer
):
    """Generation, abort, load, health, and information about the server and the model.

    It has no LoRA adapters and no KV sessions. The RPCs for adapters and for KV cache events are
    UNIMPLEMENTED. `script` and `record` work as in FakeVllmEngine.
    """

    @property
    def services(self) -> list[str]:
        """Full names of the services."""
        return ["openengine.v1.Inference", "openengine.v1.Control"]

    def add_to_server(self, server: grpc.aio.Server) -> None:
        openengine_pb2_grpc.add_InferenceServicer_to_server(self, server)
        openengine_pb2_grpc.add_ControlServicer_to_server(self, server)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        messages = partial(self._messages, request)
        async for message in self._generated(
            "Generate", request, request.request_id, messages, context
        ):
            yield message

    async def _messages(
        self, request: pb.GenerateRequest, answer: Answer | None, running: Running
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        self._check(request, running)
        prompt = self._prompt(request)
        sampling = _sampling(request, None if answer is None else answer.written())
        check_sampling(sampling)
        count = request.sampling.num_sequences if request.sampling.num_sequences else 1
        if count > _MAX_SEQUENCES:
            raise Rejected(f"num_sequences must be at most {_MAX_SEQUENCES}")
        usage = pb.Usage(prompt_tokens=len(prompt), cached_prompt_tokens=self._admit(prompt))
        if request.response.return_prompt_logprobs:
            yield pb.GenerateResponse(
                request_id=request.request_id, prompt=self._scored(request.response, prompt)
            )
        unfinished = count
        async for index, pieces in self._sequences(prompt, sampling, running, count=count):
            usage.completion_tokens += len(pieces)
            if pieces:
                output = self._output(request.response, index, pieces)
                yield pb.GenerateResponse(request_id=request.request_id, token=output)
            if not pieces or pieces[-1].finish_reason:
                unfinished -= 1
                finished = _finished(index, pieces[-1:])
                if answer is not None and answer.finish_reason:
                    unknown = pb.FINISH_REASON_UNSPECIFIED
                    finished.reason = _REASONS.get(answer.finish_reason, unknown)
                last = pb.GenerateResponse(request_id=request.request_id, finished=finished)
                if not unfinished:
                    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
                    last.usage.CopyFrom(usage)
                yield last

    def _check(self, request: pb.GenerateRequest, running: Running) -> None:
        if not request.request_id:
            raise Rejected("request_id is required")
        others = self._meter.running - {running}
        if any(other.request_id == request.request_id for other in others):
            message = "a request with this request_id is in flight"
            raise Rejected(message, grpc.StatusCode.ALREADY_EXISTS)
        if request.model not in ("", self.name):
            message = f"model {request.model!r} is not served"
            raise Rejected(message, grpc.StatusCode.NOT_FOUND)
        if request.lora_name:
            raise Rejected("the engine has no LoRA adapters", _PRECONDITION)
        if request.media:
            raise Rejected("the model does not support media", _PRECONDITION)
        if request.kv.HasField("session"):
            message = "the KV session does not exist"
            raise Rejected(message, grpc.StatusCode.NOT_FOUND)

    def _prompt(self, request: pb.GenerateRequest) -> list[int]:
        match request.WhichOneof("input"):
            case "prompt":
                prompt = self.model.tokenizer.encode(request.prompt)
            case "token_ids":
                prompt = list(request.token_ids.ids)
            case None:
                raise Rejected("prompt or token_ids is required")
        check_prompt(prompt, self.model)
        return prompt

    def _scored(self, options: pb.ResponseOptions, prompt: Sequence[int]) -> pb.PromptOutput:
        count = _candidates(options.prompt_candidates)
        first = pb.TokenInfo(token_id=prompt[0], token=self._text(prompt[0]))
        rest = (
            self._token(step, logprob=True, candidates=count)
            for step in score(self.model, prompt, max(count, 1))
        )
        return pb.PromptOutput(tokens=[first, *rest][options.prompt_logprob_start :])

    def _output(
        self, options: pb.ResponseOptions, index: int, pieces: Sequence[Piece]
    ) -> pb.TokenOutput:
        output = pb.TokenOutput(output_index=index, text="".join(piece.text for piece in pieces))
        count = _candidates(options.output_candidates)
        for piece in pieces:
            logprob = options.return_output_logprobs
            output.tokens.append(self._token(piece.step, logprob=logprob, candidates=count))
        return output

    def _token(self, step: Step, *, logprob: bool, candidates: int) -> pb.TokenInfo:
        info = pb.TokenInfo(token_id=step.token, token=self._text(step.token))
        if logprob:
            info.logprob = step.logprob
            info.rank = 1 + sum(value > step.logprob for _, value in step.top)
            for rank, (token, value) in enumerate(step.top[:candidates], start=1):
                info.candidates.add(
                    token_id=token, logprob=value, token=self._text(token), rank=rank
                )
        return info

    def _text(self, token: int) -> str:
        return self.model.tokenizer.decode([token], skip_special=False)

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        await self._receive_unary("Abort", request, context)
        match request.WhichOneof("target"):
            case "request_id":
                found = self._abort(request.request_id)
            case "all_requests":
                found = self._abort(*(one.request_id for one in self._meter.running))
            case "kv_session":
                found = False  # there are no KV sessions
            case None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "target is required")
        done = pb.ABORT_STATUS_ABORTED if found else pb.ABORT_STATUS_ALREADY_FINISHED
        return pb.AbortResponse(status=done)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.ServerInfo:
        await self._receive_unary("GetServerInfo", request, context)
        return pb.ServerInfo(
            engine_name="fake",
            engine_version=__version__,
            engine_role=pb.ENGINE_ROLE_AGGREGATED,
            instance_id="fake",
            supported_models=[self.name],
            parallelism=pb.ParallelismInfo(tensor_parallel_size=1, data_parallel_size=1),
            kv_connector=pb.KvConnectorInfo(enabled=False),
            schema_release="0.1.0",
            capacity=pb.DeploymentCapacity(
                kv_block_size=BLOCK_SIZE,
                total_kv_blocks=self._cache.capacity // BLOCK_SIZE,
                max_running_requests=MAX_RUNNING,
                max_loras=0,
            ),
        )

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.ModelInfo:
        await self._receive_unary("GetModelInfo", request, context)
        if request.model not in ("", self.name):
            message = f"model {request.model!r} is not served"
            await context.abort(grpc.StatusCode.NOT_FOUND, message)
        logprobs = pb.LogprobCapabilities(
            supported=True,
            candidate_selection_modes=[pb.CANDIDATE_TOKEN_SELECTION_MODE_TOP_N],
            max_top_n=MAX_LOGPROBS,
        )
        guided = pb.GuidedDecodingCapabilities(
            supported=True,
            modes=[
                pb.GUIDED_DECODING_MODE_JSON_SCHEMA,
                pb.GUIDED_DECODING_MODE_CHOICE,
                pb.GUIDED_DECODING_MODE_JSON_OBJECT,
            ],
        )
        return pb.ModelInfo(
            model_id=self.name,
            served_model_name=self.name,
            max_context_length=self.model.context_length,
            supports_text_input=True,
            supports_token_ids_input=True,
            generation=pb.GenerationCapabilities(
                prompt_logprobs=logprobs,
                output_logprobs=logprobs,
                guided_decoding=guided,
                max_num_sequences=_MAX_SEQUENCES,
                supports_stop_in_output=True,
            ),
            supports_lora=False,
            supports_multimodal=False,
        )

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.LoadInfo:
        await self._receive_unary("GetLoad", request, context)
        blocks = self._cache.capacity // BLOCK_SIZE
        return pb.LoadInfo(
            instance_id="fake",
            timestamp_unix_nanos=time.time_ns(),
            running_requests=len(self._meter.running),
            queued_requests=0,
            active_kv_sessions=0,
            used_kv_blocks=self._cache.used_tokens // BLOCK_SIZE,
            total_kv_blocks=blocks,
        )

    async def Health(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        await self._receive_unary("Health", request, context)
        state = pb.HEALTH_STATE_READY if self.healthy else pb.HEALTH_STATE_NOT_READY
        names = ["grpc", "model", *(["inference_probe"] if request.include_inference_probe else [])]
        checks = [pb.HealthCheck(name=name, state=state) for name in names]
        return pb.HealthResponse(state=state, checks=checks)


def _sampling(request: pb.GenerateRequest, replacement: str | None) -> Sampling:
    """Unset parameters have the model's defaults: temperature 1, up to the end of the context."""
    options, stopping = request.sampling, request.stopping
    conditions = stopping.conditions
    sampling = Sampling(
        max_tokens=stopping.max_tokens if stopping.HasField("max_tokens") else None,
        top_k=max(options.top_k, 0),
        min_p=options.min_p,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        seed=options.seed,
        min_tokens=stopping.min_tokens,
        stop=tuple(one.stop_text for one in conditions if one.HasField("stop_text")),
        stop_token_ids=tuple(
            one.stop_token_id for one in conditions if one.HasField("stop_token_id")
        ),
        include_stop=stopping.include_stop_in_output,
        ignore_eos=stopping.ignore_eos,
        logprobs=max(_candidates(request.response.output_candidates), 1),
        replacement=_constrained(request.guided) if replacement is None else replacement,
    )
    if options.HasField("temperature"):
        sampling = replace(sampling, temperature=options.temperature)
    if options.HasField("top_p"):
        sampling = replace(sampling, top_p=options.top_p)
    if options.HasField("repetition_penalty"):
        sampling = replace(sampling, repetition_penalty=options.repetition_penalty)
    return sampling


def _constrained(guided: pb.GuidedDecoding) -> str | None:
    match guided.WhichOneof("guide"):
        case None:
            return None
        case "json_schema":
            return fitting_json(guided.json_schema)
        case "json_object":
            return fitting_json("")
        case "choice" if guided.choice.choices:
            return guided.choice.choices[0]
        case "choice":
            raise Rejected("choice must have at least one entry")
        case kind:
            raise grammar(kind)


def _candidates(options: pb.CandidateTokenSelection) -> int:
    if options.WhichOneof("selection") in ("token_ids", "all"):
        raise Rejected("only top_n is supported", _PRECONDITION)
    if options.top_n > MAX_LOGPROBS:
        raise Rejected(f"top_n must be at most {MAX_LOGPROBS}")
    return options.top_n


def _finished(index: int, last: Sequence[Piece]) -> pb.GenerationFinished:
    """How a sequence ended. Without a last piece, it was aborted."""
    finished = pb.GenerationFinished(output_index=index, reason=pb.FINISH_REASON_CANCELLED)
    if not last:
        return finished
    piece = last[0]
    finished.reason = _REASONS[piece.finish_reason]
    if isinstance(piece.matched, str):
        finished.stop_match.stop_text = piece.matched
    elif piece.matched is not None:
        finished.stop_match.stop_token_id = piece.matched
    elif piece.finish_reason == "stop" and piece.step.token in EOS:
        finished.stop_match.eos_token_id = piece.step.token
    return finished
