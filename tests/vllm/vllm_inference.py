"""A server of vLLM's own protocol over the fake engine: it takes vllm.Inference requests for what
vllm-rs takes them for, and sends text as vllm-rs does."""

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.json_format import MessageToJson

from smg_proto import vllm_control_pb2 as control
from smg_proto import vllm_control_pb2_grpc, vllm_inference_pb2_grpc
from smg_proto import vllm_engine_pb2 as pb
from smg_proto import vllm_inference_pb2 as inference
from smg_proto._tokens.text import ChoiceText, TextPlan
from smg_proto.testing import FakeVllmEngine
from smg_proto.vllm import TokenDecoder

REASONS = {"length": 1, "stop": 2, "abort": 3}


class InferenceEngine(FakeVllmEngine):
    """As `vllm serve --grpc-port`: vllm.Inference and vllm.Control, and no VllmEngine."""

    at_end = False  # the last tokens come with the end of their choice, as vllm-rs sends them

    def __init__(self, decoder: TokenDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.taken: list[tuple[str, inference.GenerateRequest]] = []

    @property
    def services(self) -> list[str]:
        return ["vllm.Inference", "vllm.Control"]

    def add_to_server(self, server: grpc.aio.Server) -> None:
        vllm_inference_pb2_grpc.add_InferenceServicer_to_server(_Inference(self), server)
        vllm_control_pb2_grpc.add_ControlServicer_to_server(_Control(self), server)


def engine_request(sent: inference.GenerateRequest) -> pb.GenerateRequest:
    """What the engine is to do for a request."""
    sampling, decoding, stopping = sent.sampling, sent.decoding, sent.stopping
    reply = sent.response
    made = pb.SamplingParams(
        temperature=sent.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed if sampling.HasField("seed") else None,
        n=sampling.num_sequences,
        presence_penalty=decoding.presence_penalty,
        frequency_penalty=decoding.frequency_penalty,
        repetition_penalty=decoding.repetition_penalty,
        logit_bias=dict(decoding.logit_bias),
        max_tokens=stopping.max_new_tokens or None,
        min_tokens=stopping.min_new_tokens,
        stop=stopping.stop_strings,
        stop_token_ids=stopping.stop_token_ids,
        include_stop_str_in_output=stopping.include_stop_strings,
        ignore_eos=stopping.ignore_eos,
        skip_special_tokens=reply.skip_special_tokens,
        spaces_between_special_tokens=True,
        logprobs=_count(reply.output_candidates) if reply.output_logprobs else None,
        prompt_logprobs=_count(reply.prompt_candidates) if reply.prompt_logprobs else None,
        truncate_prompt_tokens=sent.truncate_prompt_tokens or None,
        grammar_from_first_token=sent.engine_reasoning_gate.reasoning_ended,
    )
    form = decoding.WhichOneof("structured_output")
    if form == "choice":
        made.choice.choices.extend(decoding.choice.choices)
    elif form is not None:
        setattr(made, "json_schema" if form == "json" else form, getattr(decoding, form))
    request = pb.GenerateRequest(request_id=sent.request_id, sampling_params=made, stream=True)
    if sent.HasField("text"):
        request.text = sent.text
    else:
        request.tokenized.input_ids.extend(sent.token_ids.ids)
    if sent.kv.HasField("kv_transfer_params"):
        request.kv_transfer_params_json = MessageToJson(sent.kv.kv_transfer_params)
    return request


def _count(candidates: inference.CandidateTokens) -> int:
    return -1 if candidates.all else candidates.top_n


class _Inference(vllm_inference_pb2_grpc.InferenceServicer):
    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine

    async def Generate(
        self, request: inference.GenerateRequest, context: Any
    ) -> inference.GenerateResponse:
        self._engine.taken.append(("Generate", request))
        whole = inference.GenerateResponse()
        async for message in self._messages(request, context):
            if message.HasField("prompt_info"):
                whole.prompt_info.CopyFrom(message.prompt_info)
            else:
                text = whole.outputs.text
                whole.outputs.MergeFrom(message.outputs)  # lists are joined
                whole.outputs.text = text + message.outputs.text
        return whole

    async def GenerateStream(
        self, request: inference.GenerateRequest, context: Any
    ) -> AsyncIterator[inference.GenerateResponse]:
        self._engine.taken.append(("GenerateStream", request))
        async for message in self._messages(request, context):
            yield message

    async def _messages(
        self, request: inference.GenerateRequest, context: Any
    ) -> AsyncIterator[inference.GenerateResponse]:
        sent = engine_request(request)
        params = sent.sampling_params
        plan = TextPlan(
            params.skip_special_tokens,
            params.stop,
            params.stop_token_ids,
            params.include_stop_str_in_output,
            sent.text or sent.tokenized.input_ids[-8:],
            bool(params.stop and params.min_tokens),
        )
        texts: dict[int, ChoiceText] = {}
        result = False
        last: inference.SequenceOutput | None = None
        async for message in self._engine.Generate(sent, context):
            ends = message.HasField("complete")
            if self._engine.at_end:
                if ends and last is not None:
                    _finish(last, message.complete, texts[message.complete.index])
                if last is not None:
                    yield inference.GenerateResponse(outputs=last)
                last = None
                if ends:
                    continue
            found = message.complete if ends else message.chunk
            if not result:
                result = True
                yield inference.GenerateResponse(prompt_info=_prompt(found))
            text = texts.setdefault(found.index, plan.new(self._engine.decoder))
            output = inference.SequenceOutput(index=found.index)
            if not ends:
                output.token_ids.extend(message.chunk.token_ids)
                output.num_tokens = len(output.token_ids)
                output.text = text.feed(list(output.token_ids))
                output.logprobs.extend(found.output_logprobs.token_logprobs)
                _add(output.candidate_tokens, found.output_logprobs.top_logprobs)
            else:
                _finish(output, message.complete, text)
            if self._engine.at_end:
                last = output
            else:
                yield inference.GenerateResponse(outputs=output)


def _finish(
    output: inference.SequenceOutput, complete: pb.GenerateComplete, text: ChoiceText
) -> None:
    output.finish_info.CopyFrom(_end(complete))
    output.text += text.finish(complete.finish_reason, _stop(complete))


def _prompt(found: pb.GenerateComplete | pb.GenerateStreamChunk) -> inference.PromptInfo:
    logprobs = found.input_logprobs
    made = inference.PromptInfo(
        num_prompt_tokens=found.prompt_tokens,
        token_ids=logprobs.token_ids,
        logprobs=[one.value for one in logprobs.token_logprobs],
    )
    _add(made.candidate_tokens, logprobs.top_logprobs)
    return made


def _add(to: Any, candidates: Any) -> None:
    for one in candidates:
        pairs = zip(one.token_ids, one.values, strict=True)
        to.add(tokens=[{"id": token, "logprob": value} for token, value in pairs])


def _stop(complete: pb.GenerateComplete) -> int | str | None:
    which = complete.WhichOneof("matched_stop")
    return getattr(complete, which) if which is not None else None


def _end(complete: pb.GenerateComplete) -> inference.FinishInfo:
    made = inference.FinishInfo(
        num_output_tokens=complete.completion_tokens,
        finish_reason=REASONS[complete.finish_reason],  # type: ignore[arg-type]
        num_cached_tokens=complete.cached_tokens,
    )
    stop = _stop(complete)
    if isinstance(stop, str):
        made.stop_string = stop
    elif stop is not None:
        made.stop_token_id = stop
    if complete.kv_transfer_params_json:
        made.kv_transfer_params.update(json.loads(complete.kv_transfer_params_json))
    return made


class _Control(vllm_control_pb2_grpc.ControlServicer):
    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine

    async def GetModelInfo(self, request: Any, context: Any) -> control.ModelInfo:
        return control.ModelInfo(
            model_id="/no/such/path", served_model_name=self._engine.name, supports_text_input=True
        )

    async def GetServerInfo(self, request: Any, context: Any) -> control.ServerInfo:
        parallel = control.ParallelismInfo(data_parallel_size=2)
        return control.ServerInfo(
            kv_block_size=16, max_running_requests=8, parallelism=parallel, proto_version="0.6.0"
        )

    async def Abort(self, request: control.AbortRequest, context: Any) -> control.AbortResponse:
        await self._engine.Abort(pb.AbortRequest(request_ids=request.request_ids), context)
        return control.AbortResponse()
