"""FakeVllm: vLLM's own services, `vllm.Inference` and `vllm.Control`, over the built-in model."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import partial

import grpc

from smg_proto import vllm_control_pb2 as control
from smg_proto import vllm_control_pb2_grpc, vllm_inference_pb2_grpc
from smg_proto import vllm_inference_pb2 as pb
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

_REASONS = {
    "stop": pb.FinishInfo.STOP,
    "length": pb.FinishInfo.LENGTH,
    "abort": pb.FinishInfo.ABORTED,
}
_NO_LORA = Rejected("engine was not started with LoRA enabled", grpc.StatusCode.FAILED_PRECONDITION)


class FakeVllm(
    FakeEngine, vllm_inference_pb2_grpc.InferenceServicer, vllm_control_pb2_grpc.ControlServicer
):
    """vLLM's own frontend: generation, abort, and information about the server and the model.

    LoRA and sleeping are off, as in a vLLM that was started without them. The other RPCs of Control
    are UNIMPLEMENTED. `script` and `record` work as in FakeVllmEngine.
    """

    generating: frozenset[str] = frozenset({"Generate", "GenerateStream"})

    @property
    def services(self) -> list[str]:
        """Full names of the services."""
        return ["vllm.Inference", "vllm.Control"]

    def add_to_server(self, server: grpc.aio.Server) -> None:
        vllm_inference_pb2_grpc.add_InferenceServicer_to_server(self, server)
        vllm_control_pb2_grpc.add_ControlServicer_to_server(self, server)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        combined = pb.GenerateResponse()
        text, tokens = "", 0
        async for message in self._run("Generate", request, context):
            combined.MergeFrom(message)
            text += message.outputs.text
            tokens += message.outputs.num_tokens
        combined.outputs.text, combined.outputs.num_tokens = text, tokens
        return combined

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        async for message in self._run("GenerateStream", request, context):
            yield message

    async def _run(
        self, rpc: str, request: pb.GenerateRequest, context: Context
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        messages = partial(self._messages, request)
        async for message in self._generated(rpc, request, request.request_id, messages, context):
            yield message

    async def _messages(
        self, request: pb.GenerateRequest, answer: Answer | None, running: Running
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        prompt = self._prompt(request)
        sampling = _sampling(request, None if answer is None else answer.written())
        check_sampling(sampling)
        cached = self._admit(prompt)
        yield pb.GenerateResponse(prompt_info=self._prompt_info(request, prompt))
        made = 0
        async for _, pieces in self._sequences(prompt, sampling, running):
            made += len(pieces)
            output = _output(request.response, pieces)
            if not pieces or pieces[-1].finish_reason:
                output.finish_info.CopyFrom(_finish_info(pieces[-1:], made, cached))
                if answer is not None and answer.finish_reason:
                    reason = _REASONS.get(answer.finish_reason, pb.FinishInfo.NOT_FINISHED)
                    output.finish_info.finish_reason = reason
            yield pb.GenerateResponse(outputs=output)

    def _prompt(self, request: pb.GenerateRequest) -> list[int]:
        if request.model not in ("", self.name):
            raise Rejected(f"model `{request.model}` not found", grpc.StatusCode.NOT_FOUND)
        if request.lora_name:
            raise _NO_LORA
        if request.media:
            raise Rejected("the built-in model does not support media")
        match request.WhichOneof("prompt"):
            case "text":
                prompt = self.model.tokenizer.encode(request.text)
            case "token_ids":
                prompt = list(request.token_ids.ids)
            case None:
                raise Rejected("prompt is required")
        if request.truncate_prompt_tokens:
            prompt = prompt[-request.truncate_prompt_tokens :]
        check_prompt(prompt, self.model)
        return prompt

    def _prompt_info(self, request: pb.GenerateRequest, prompt: Sequence[int]) -> pb.PromptInfo:
        options = request.response
        info = pb.PromptInfo(num_prompt_tokens=len(prompt))
        if options.prompt_token_ids:
            info.token_ids.extend(prompt)
        if options.prompt_logprobs:
            count = _candidates(options.prompt_candidates)
            info.logprobs.append(0.0)  # no token precedes the first
            info.ranks.append(0)
            info.candidate_tokens.add()
            for step in score(self.model, prompt, max(count, 1)):
                info.logprobs.append(step.logprob)
                info.ranks.append(_rank(step))
                info.candidate_tokens.append(_candidate_info(step, count))
        return info

    async def Abort(self, request: control.AbortRequest, context: Context) -> control.AbortResponse:
        await self._receive_unary("Abort", request, context)
        self._abort(*filter(None, request.request_ids))
        return control.AbortResponse()

    async def GetServerInfo(
        self, request: control.GetServerInfoRequest, context: Context
    ) -> control.ServerInfo:
        await self._receive_unary("GetServerInfo", request, context)
        return control.ServerInfo(
            engine_version="0.33.0",
            api_version="vllm",
            instance_id="fake",
            parallelism=control.ParallelismInfo(
                tensor_parallel_size=1,
                pipeline_parallel_size=1,
                data_parallel_size=1,
                decode_context_parallel_size=1,
                world_size=1,
                data_parallel_size_local=1,
            ),
            max_model_len=self.model.context_length,
            kv_block_size=BLOCK_SIZE,
            total_kv_blocks=self._cache.capacity // BLOCK_SIZE,
            max_running_requests=MAX_RUNNING,
            rl_capabilities=control.RlCapabilities(),
            proto_version="0.6.0",
        )

    async def GetModelInfo(
        self, request: control.GetModelInfoRequest, context: Context
    ) -> control.ModelInfo:
        await self._receive_unary("GetModelInfo", request, context)
        return control.ModelInfo(
            model_id=self.name,
            served_model_name=self.name,
            supports_text_input=True,
            supports_token_ids_input=True,
        )

    async def ListLoras(
        self, request: control.ListLorasRequest, context: Context
    ) -> control.ListLorasResponse:
        await self._receive_unary("ListLoras", request, context)
        await context.abort(_NO_LORA.code, str(_NO_LORA))

    async def IsPaused(
        self, request: control.IsPausedRequest, context: Context
    ) -> control.IsPausedResponse:
        await self._receive_unary("IsPaused", request, context)
        return control.IsPausedResponse(paused=False)

    async def IsSleeping(
        self, request: control.IsSleepingRequest, context: Context
    ) -> control.IsSleepingResponse:
        await self._receive_unary("IsSleeping", request, context)
        return control.IsSleepingResponse(sleeping=False)


def _sampling(request: pb.GenerateRequest, replacement: str | None) -> Sampling:
    """Unset parameters have the server's defaults: greedy, up to the end of the context."""
    sampling, decoding, stopping = request.sampling, request.decoding, request.stopping
    if sampling.num_sequences > 1:
        raise Rejected("num_sequences > 1 is not supported")
    return Sampling(
        max_tokens=stopping.max_new_tokens or None,
        temperature=request.temperature,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        frequency_penalty=decoding.frequency_penalty,
        presence_penalty=decoding.presence_penalty,
        repetition_penalty=decoding.repetition_penalty or 1.0,
        logit_bias=tuple(sorted(decoding.logit_bias.items())),
        seed=sampling.seed,
        min_tokens=stopping.min_new_tokens,
        stop=tuple(stopping.stop_strings),
        stop_token_ids=tuple(stopping.stop_token_ids),
        include_stop=stopping.include_stop_strings,
        ignore_eos=stopping.ignore_eos,
        skip_special=not request.response.HasField("skip_special_tokens")
        or request.response.skip_special_tokens,
        logprobs=max(_candidates(request.response.output_candidates), 1),
        replacement=_constrained(decoding) if replacement is None else replacement,
    )


def _constrained(decoding: pb.DecodingParameters) -> str | None:
    match decoding.WhichOneof("structured_output"):
        case None:
            return None
        case "json":
            return fitting_json(decoding.json)
        case "json_object":
            return fitting_json("")
        case "choice":
            return decoding.choice.choices[0]
        case kind:
            raise grammar(kind)


def _candidates(options: pb.CandidateTokens) -> int:
    """The number of candidates to list at each position."""
    kind = options.WhichOneof("select")
    if kind in ("all", "token_ids"):
        raise Rejected("the built-in model supports only top_n")
    if options.top_n > MAX_LOGPROBS:
        raise Rejected(
            f"requested logprobs of {options.top_n}, which is greater than max allowed: "
            f"{MAX_LOGPROBS}"
        )
    return options.top_n


def _output(options: pb.ResponseOptions, pieces: Sequence[Piece]) -> pb.SequenceOutput:
    output = pb.SequenceOutput(num_tokens=len(pieces))
    if not options.HasField("output_text") or options.output_text:
        output.text = "".join(piece.text for piece in pieces)
    if options.output_token_ids:
        output.token_ids.extend(piece.step.token for piece in pieces)
    if options.output_logprobs:
        count = _candidates(options.output_candidates)
        for piece in pieces:
            output.logprobs.append(piece.step.logprob)
            output.ranks.append(_rank(piece.step))
            output.candidate_tokens.append(_candidate_info(piece.step, count))
    return output


def _rank(step: Step) -> int:
    return 1 + sum(value > step.logprob for _, value in step.top)


def _candidate_info(step: Step, count: int) -> pb.CandidateTokenInfo:
    info = pb.CandidateTokenInfo()
    for rank, (token, value) in enumerate(step.top[:count], start=1):
        info.tokens.add(id=token, logprob=value, rank=rank)
    return info


def _finish_info(last: Sequence[Piece], made: int, cached: int) -> pb.FinishInfo:
    """How a sequence ended. Without a last piece, it was aborted."""
    info = pb.FinishInfo(num_output_tokens=made, num_cached_tokens=cached)
    if not last:
        info.finish_reason = pb.FinishInfo.ABORTED
        return info
    piece = last[0]
    info.finish_reason = _REASONS[piece.finish_reason]
    if isinstance(piece.matched, str):
        info.stop_string = piece.matched
    elif piece.matched is not None:
        info.stop_token_id = piece.matched
    elif piece.finish_reason == "stop" and piece.step.token in EOS:
        info.eos_token_id = piece.step.token
    return info
