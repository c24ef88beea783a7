"""Fakes of the gateway's contracts for SGLang, TensorRT-LLM, MLX and TokenSpeed.

They say what the comments of the contracts say, over the built-in model. TLS is on at a port of its
own.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from certificates import Authority

from engines.running import Engine, Engines, Start
from smg_proto import common_pb2
from smg_proto import mlx_engine_pb2 as mlx
from smg_proto import mlx_engine_pb2_grpc as mlx_grpc
from smg_proto import sglang_scheduler_pb2 as sglang
from smg_proto import sglang_scheduler_pb2_grpc as sglang_grpc
from smg_proto import tokenspeed_scheduler_pb2 as tokenspeed
from smg_proto import tokenspeed_scheduler_pb2_grpc as tokenspeed_grpc
from smg_proto import trtllm_service_pb2 as trtllm
from smg_proto import trtllm_service_pb2_grpc as trtllm_grpc
from smg_proto._serving.loop import LoopThread
from smg_proto.testing._generation import Sampling, Step, generate, score
from smg_proto.testing._json_schema import smallest_text
from smg_proto.testing._model import EOS, Model, model


class Refused(Exception):
    """Ends a request with INVALID_ARGUMENT."""


@dataclass(eq=False)
class Sequence:
    """One sequence of a request: what was made, and what was not sent yet."""

    index: int
    prompt: int
    made: list[Step] = field(default_factory=list[Step])
    sent: int = 0
    reason: str = ""
    matched: str | int | None = None

    @property
    def new(self) -> list[Step]:
        return self.made[self.sent :]


@dataclass(eq=False)
class Request:
    """A request as the model takes it."""

    request_id: str
    prompt: list[int]
    sampling: Sampling
    n: int
    stream: bool
    aborted: bool = False


class Fake:
    """What the four have in common. A subclass translates."""

    contract: str
    pb: Any
    abort_reason = "abort"

    def __init__(self) -> None:
        self.model: Model = model()
        self.token_delay = 0.0
        self.aborts = 0
        self.running: set[Request] = set()
        self.requests: list[Any] = []

    def requested(self, request: Any) -> Request:
        raise NotImplementedError

    def chunk(self, request: Any, sequence: Sequence) -> Any:
        raise NotImplementedError

    def complete(self, request: Any, sequence: Sequence, stream: bool) -> Any:
        raise NotImplementedError

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        try:
            requested = self.requested(request)
            self.check(requested)
        except Refused as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self.running.add(requested)
        ended = False
        try:
            async for message in self.messages(request, requested):
                yield message
            ended = not requested.aborted
        finally:
            self.running.discard(requested)
            self.aborts += not ended

    def check(self, requested: Request) -> None:
        if not all(token < self.model.tokenizer.vocab_size for token in requested.prompt):
            raise Refused("the prompt has a token id outside the vocabulary")
        if not requested.prompt or len(requested.prompt) >= self.model.context_length:
            raise Refused("the prompt is empty, or does not fit the context")
        if not 0 <= requested.sampling.temperature <= 2:
            raise Refused("temperature must be from 0 to 2")

    async def messages(self, request: Any, requested: Request) -> AsyncIterator[Any]:
        sequences = [Sequence(index, len(requested.prompt)) for index in range(requested.n)]
        sources = [
            generate(self.model, requested.prompt, requested.sampling, s.index) for s in sequences
        ]
        going = list(zip(sequences, sources, strict=True))
        while going:
            for sequence, source in list(going):
                await asyncio.sleep(self.token_delay)
                if requested.aborted:
                    for cut, _ in going:
                        cut.reason = self.abort_reason
                    going.clear()
                    break
                piece = next(source)
                sequence.made.append(piece.step)
                sequence.reason, sequence.matched = piece.finish_reason, piece.matched
                if requested.stream:
                    yield self.chunk(request, sequence)
                if piece.finish_reason:
                    going.remove((sequence, source))
                    if requested.stream:
                        yield self.complete(request, sequence, True)
                else:
                    sequence.sent = len(sequence.made)
        if requested.aborted and not self.abort_reason:
            return
        for sequence in sequences:
            if not requested.stream or sequence.reason == self.abort_reason:
                yield self.complete(request, sequence, requested.stream)

    def mark(self, *ids: str) -> bool:
        found = [requested for requested in self.running if requested.request_id in ids]
        for requested in found:
            requested.aborted = True
        return bool(found)

    async def Abort(self, request: Any, context: Any) -> Any:
        found = self.mark(request.request_id)
        return self.pb.AbortResponse(success=found, message="")

    async def GetTokenizer(
        self, request: common_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        bundle, half = self.model.tokenizer.bundle, len(self.model.tokenizer.bundle) // 2
        yield common_pb2.GetTokenizerChunk(data=bundle[:half])
        sha256 = self.model.tokenizer.bundle_sha256
        yield common_pb2.GetTokenizerChunk(data=bundle[half:], sha256=sha256)

    async def HealthCheck(self, request: Any, context: Any) -> Any:
        return self.pb.HealthCheckResponse(healthy=True, message="OK")

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        return self.pb.GetModelInfoResponse(
            served_model_name=self.model.name,
            max_context_length=self.model.context_length,
            vocab_size=self.model.tokenizer.vocab_size,
            eos_token_ids=sorted(EOS),
        )

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        return self.pb.GetServerInfoResponse()

    async def GetLoads(self, request: Any, context: Any) -> Any:
        load = self.pb.SchedulerLoad(num_running_reqs=len(self.running), token_usage=0.25)
        return self.pb.GetLoadsResponse(loads=[load, self.pb.SchedulerLoad(token_usage=0.5)])


def constrained(params: Any) -> str | None:
    """The text that the constraint leads to."""
    match params.WhichOneof("constraint"):
        case "json_schema":
            return smallest_text(params.json_schema)
        case "regex":
            return str(params.regex)  # a text that matches, as long as it is a plain one
        case None:
            return None
        case kind:
            raise Refused(f"no grammar backend for {kind}")


def logprobs(pb: Any, steps: list[Step], top: int) -> Any:
    return pb.OutputLogProbs(
        token_logprobs=[step.logprob for step in steps],
        token_ids=[step.token for step in steps],
        top_logprobs=[
            pb.TopLogProbs(
                values=[value for _, value in step.top[:top]],
                token_ids=[token for token, _ in step.top[:top]],
            )
            for step in steps
        ],
    )


def prompt_logprobs(pb: Any, prompt: list[int], top: int) -> Any:
    steps = [*score(model(), prompt, max(top, 1))]
    given = logprobs(pb, steps, top)
    return pb.InputLogProbs(
        token_ids=prompt,
        token_logprobs=[
            pb.InputTokenLogProb(),
            *(pb.InputTokenLogProb(value=step.logprob) for step in steps),
        ],
        top_logprobs=[pb.TopLogProbs(), *given.top_logprobs],
    )


def match(message: Any, sequence: Sequence, text: str, token: str) -> Any:
    """Name what has ended a sequence."""
    if isinstance(sequence.matched, str):
        setattr(message, text, sequence.matched)
    elif sequence.matched is not None:
        setattr(message, token, sequence.matched)
    return message


class FakeScheduler(Fake):
    """Of SGLang's kind: totals in chunks, and `complete` repeats the last of them."""

    def requested(self, request: Any) -> Request:
        if getattr(request, "lora_id", ""):
            raise Refused("no such adapter is loaded")
        params = request.sampling_params
        sampling = self.sampling(request, params)
        ids = list(request.tokenized.input_ids)
        return Request(request.request_id, ids, sampling, max(params.n, 1), request.stream)

    def sampling(self, request: Any, params: Any) -> Sampling:
        return Sampling(
            max_tokens=params.max_new_tokens if params.HasField("max_new_tokens") else None,
            temperature=params.temperature,
            top_p=params.top_p or 1.0,
            top_k=max(params.top_k, 0),
            min_p=params.min_p,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            repetition_penalty=params.repetition_penalty or 1.0,
            logit_bias=tuple((int(token), bias) for token, bias in params.logit_bias.items()),
            seed=getattr(params, "sampling_seed", 0),
            min_tokens=params.min_new_tokens,
            stop=tuple(params.stop),
            stop_token_ids=tuple(params.stop_token_ids),
            ignore_eos=params.ignore_eos,
            logprobs=request.top_logprobs_num if request.return_logprob else None,
            replacement=constrained(params),
        )

    def ids(self, request: Any, sequence: Sequence, steps: list[Step]) -> list[Step]:
        return steps

    def logprobs(self, request: Any, steps: list[Step]) -> Any:
        if not request.return_logprob:
            return None
        return logprobs(self.pb, steps, request.top_logprobs_num)

    def chunk(self, request: Any, sequence: Sequence) -> Any:
        steps = self.ids(request, sequence, sequence.new)
        chunk = self.pb.GenerateStreamChunk(
            token_ids=[step.token for step in steps],
            prompt_tokens=sequence.prompt,
            completion_tokens=len(sequence.made),
            output_logprobs=self.logprobs(request, steps),
            index=sequence.index,
        )
        return self.pb.GenerateResponse(request_id=request.request_id, chunk=chunk)

    def complete(self, request: Any, sequence: Sequence, stream: bool) -> Any:
        steps = self.ids(request, sequence, sequence.new if stream else sequence.made)
        complete = self.pb.GenerateComplete(
            output_ids=[step.token for step in steps],
            finish_reason=sequence.reason,
            prompt_tokens=sequence.prompt,
            completion_tokens=len(sequence.made),
            output_logprobs=self.logprobs(request, steps),
            index=sequence.index,
        )
        if getattr(request, "logprob_start_len", -1) == 0 and self.pb is sglang:
            prompt, top = list(request.tokenized.input_ids), request.top_logprobs_num
            complete.input_logprobs.CopyFrom(prompt_logprobs(self.pb, prompt, top))
        match(complete, sequence, "matched_stop_str", "matched_token_id")
        return self.pb.GenerateResponse(request_id=request.request_id, complete=complete)


class FakeSglangScheduler(FakeScheduler, sglang_grpc.SglangSchedulerServicer):
    contract = "sglang.grpc.scheduler"
    pb = sglang

    def complete(self, request: Any, sequence: Sequence, stream: bool) -> Any:
        message = super().complete(request, sequence, stream)
        if not stream:
            message.complete.index = 0  # as the published servicer leaves it
        return message


class FakeTokenSpeed(FakeScheduler, tokenspeed_grpc.TokenSpeedSchedulerServicer):
    contract = "tokenspeed.grpc.scheduler"
    pb = tokenspeed

    def sampling(self, request: Any, params: Any) -> Sampling:
        sampling = super().sampling(request, params)
        # Here a parameter that is unset is the engine's own default.
        if not params.HasField("temperature"):
            sampling = Sampling(**{**vars(sampling), "temperature": 1.0})
        return sampling

    def ids(self, request: Any, sequence: Sequence, steps: list[Step]) -> list[Step]:
        """Without the stop token, at the end."""
        cut = isinstance(sequence.matched, int) and not request.sampling_params.no_stop_trim
        return [s for s in steps if not (cut and s is sequence.made[-1])]

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in super().Generate(request, context):
            if message.complete.finish_reason == "abort":
                await context.abort(grpc.StatusCode.ABORTED, "aborted")
            yield message


class FakeTrtllm(Fake, trtllm_grpc.TrtllmServiceServicer):
    """`complete` has all tokens, also in a stream, without the stop."""

    contract = "trtllm"
    pb = trtllm
    abort_reason = "cancelled"

    def requested(self, request: trtllm.GenerateRequest) -> Request:
        config, guide = request.sampling_config, request.guided_decoding
        if not request.max_tokens:
            raise Refused("max_tokens must be at least 1")
        replacement = None
        if guide.guide:
            if guide.guide_type == guide.GUIDE_TYPE_JSON_SCHEMA:
                replacement = smallest_text(guide.guide)
            elif guide.guide_type == guide.GUIDE_TYPE_JSON:
                replacement = smallest_text("")
            elif guide.guide_type == guide.GUIDE_TYPE_REGEX:
                replacement = guide.guide
            else:
                raise Refused("no such guide")
        output = request.output_config
        sampling = Sampling(
            max_tokens=request.max_tokens,
            temperature=config.temperature if config.HasField("temperature") else 1.0,
            top_p=config.top_p or 1.0,
            top_k=config.top_k,
            min_p=config.min_p,
            frequency_penalty=config.frequency_penalty,
            presence_penalty=config.presence_penalty,
            repetition_penalty=config.repetition_penalty or 1.0,
            seed=config.seed,
            min_tokens=config.min_tokens,
            stop=tuple(request.stop),
            stop_token_ids=tuple(request.stop_token_ids),
            ignore_eos=request.ignore_eos,
            logprobs=output.logprobs if output.HasField("logprobs") else None,
            replacement=replacement,
        )
        ids = list(request.tokenized.input_token_ids)
        n = max(config.num_return_sequences, 1)
        return Request(request.request_id, ids, sampling, n, request.streaming)

    def scored_prompt(self, request: Any) -> list[Any]:
        if not request.output_config.HasField("prompt_logprobs"):
            return []
        top = request.output_config.prompt_logprobs
        steps = score(self.model, list(request.tokenized.input_token_ids), max(top, 1))
        return self.listed([*steps], top)

    def scored(self, request: Any, steps: list[Step]) -> list[Any]:
        if not request.output_config.HasField("logprobs"):
            return []
        return self.listed(steps, request.output_config.logprobs)

    def listed(self, steps: list[Step], top: int) -> list[Any]:
        return [
            trtllm.TokenLogprob(
                token_id=step.token,
                logprob=step.logprob,
                top_logprobs=[
                    trtllm.TopLogprob(token_id=token, logprob=value)
                    for token, value in step.top[:top]
                ],
            )
            for step in steps
        ]

    def chunk(self, request: Any, sequence: Sequence) -> Any:
        chunk = trtllm.GenerateStreamChunk(
            token_ids=[step.token for step in sequence.new],
            sequence_index=sequence.index,
            prompt_tokens=sequence.prompt,
            completion_tokens=len(sequence.made),
            logprobs=self.scored(request, sequence.new),
        )
        return trtllm.GenerateResponse(request_id=request.request_id, chunk=chunk)

    def complete(self, request: Any, sequence: Sequence, stream: bool) -> Any:
        steps = sequence.made[:-1] if isinstance(sequence.matched, int) else sequence.made
        complete = trtllm.GenerateComplete(
            output_token_ids=[step.token for step in steps],
            sequence_index=sequence.index,
            finish_reason=sequence.reason,
            prompt_tokens=sequence.prompt,
            completion_tokens=len(steps),
            logprobs=self.scored(request, steps),
            prompt_logprobs=self.scored_prompt(request),
        )
        match(complete, sequence, "matched_stop_str", "matched_token_id")
        return trtllm.GenerateResponse(request_id=request.request_id, complete=complete)

    async def HealthCheck(self, request: Any, context: Any) -> trtllm.HealthCheckResponse:
        return trtllm.HealthCheckResponse(status="OK")

    async def GetModelInfo(self, request: Any, context: Any) -> trtllm.GetModelInfoResponse:
        return trtllm.GetModelInfoResponse(
            model_id=self.model.name,
            max_input_len=self.model.context_length,
            max_seq_len=self.model.context_length,
            vocab_size=self.model.tokenizer.vocab_size,
        )

    async def GetServerInfo(self, request: Any, context: Any) -> trtllm.GetServerInfoResponse:
        return trtllm.GetServerInfoResponse(version="1.2.1", backend="tensorrt-llm")


class FakeMlx(Fake, mlx_grpc.MlxEngineServicer):
    """One token a chunk, nothing repeated, and an abort ends the stream without a word."""

    contract = "mlx.grpc.engine"
    pb = mlx
    abort_reason = ""

    def requested(self, request: mlx.GenerateRequest) -> Request:
        if request.WhichOneof("input") != "tokenized":
            raise Refused("only tokenized input is supported")
        params = request.sampling_params
        sampling = Sampling(
            max_tokens=params.max_tokens if params.HasField("max_tokens") else None,
            temperature=params.temperature if params.HasField("temperature") else 1.0,
            top_p=params.top_p or 1.0,
            top_k=params.top_k,
            min_p=params.min_p,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            repetition_penalty=params.repetition_penalty or 1.0,
            logit_bias=tuple(params.logit_bias.items()),
            seed=params.seed,
            stop_token_ids=tuple(params.stop_token_ids),
            ignore_eos=params.ignore_eos,
            logprobs=params.logprobs if params.logprobs > 0 else None,
        )
        ids = list(request.tokenized.input_ids)
        return Request(request.request_id, ids, sampling, 1, request.stream)

    def scored(self, request: Any, steps: list[Step]) -> Any:
        top = request.sampling_params.logprobs
        return logprobs(mlx, steps, top) if top > 0 else None

    def chunk(self, request: Any, sequence: Sequence) -> Any:
        chunk = mlx.GenerateStreamChunk(
            token_ids=[step.token for step in sequence.new],
            prompt_tokens=sequence.prompt,
            completion_tokens=len(sequence.made),
            output_logprobs=self.scored(request, sequence.new),
        )
        return mlx.GenerateResponse(chunk=chunk)

    def complete(self, request: Any, sequence: Sequence, stream: bool) -> Any:
        made = [] if stream else sequence.made
        complete = mlx.GenerateComplete(
            output_ids=[step.token for step in made],
            finish_reason=sequence.reason,
            prompt_tokens=sequence.prompt,
            completion_tokens=len(sequence.made),
            output_logprobs=self.scored(request, made) if made else None,
        )
        if isinstance(sequence.matched, int):
            complete.matched_stop_token_id = sequence.matched
        return mlx.GenerateResponse(complete=complete)

    async def Abort(self, request: mlx.AbortRequest, context: Any) -> mlx.AbortResponse:
        self.mark(*request.request_ids)
        return mlx.AbortResponse()

    async def GetServerInfo(self, request: Any, context: Any) -> mlx.GetServerInfoResponse:
        return mlx.GetServerInfoResponse(server_type="mlx-grpc", active_requests=len(self.running))


_ADD: dict[type[Fake], Any] = {
    FakeSglangScheduler: sglang_grpc.add_SglangSchedulerServicer_to_server,
    FakeTokenSpeed: tokenspeed_grpc.add_TokenSpeedSchedulerServicer_to_server,
    FakeTrtllm: trtllm_grpc.add_TrtllmServiceServicer_to_server,
    FakeMlx: mlx_grpc.add_MlxEngineServicer_to_server,
}


def start_of(kind: type[Fake]) -> Start:
    @contextmanager
    def start(folder: Path) -> Iterator[Engine]:
        del folder
        fake, thread, authority = kind(), LoopThread(f"fake {kind.contract}"), Authority()
        identity = authority.issue("127.0.0.1")
        credentials = grpc.ssl_server_credentials([(identity.key, identity.certificate)])

        async def serve() -> tuple[grpc.aio.Server, int, int]:
            server = grpc.aio.server(
                options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
            )
            _ADD[kind](fake, server)
            plain = server.add_insecure_port("127.0.0.1:0")
            secure = server.add_secure_port("127.0.0.1:0", credentials)
            await server.start()
            return server, plain, secure

        server, plain, secure = thread.run(serve())

        def pace(seconds: float) -> None:
            fake.token_delay = seconds

        try:
            yield Engine(
                name=f"fake {kind.contract}",
                contract=kind.contract,
                target=f"127.0.0.1:{plain}",
                model=fake.model.name,
                context=fake.model.context_length,
                vocabulary=fake.model.tokenizer.vocab_size,
                aborts=lambda: fake.aborts,
                running=lambda: len(fake.running),
                stop=lambda: thread.run(server.stop(0)),
                pace=pace,
                tls=(f"127.0.0.1:{secure}", authority.certificate),
            )
        finally:
            thread.run(server.stop(0))
            thread.close()

    return start


LEGACY: Engines = {f"fake {kind.contract}": start_of(kind) for kind in _ADD}
