"""The fake engine's replies, in the layout of the published vLLM server."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing._generation import Piece, Step, score
from smg_proto.testing._kv_cache import BLOCK_SIZE
from smg_proto.testing._model import Model
from smg_proto.testing._tokenizer import END, PAD, START

_SHM_NAMESPACE = uuid.uuid4().hex


@dataclass
class Choice:
    """One of the `n` choices of a request: the pieces that are not sent yet, and how it ends."""

    index: int
    prompt_tokens: int
    cached_tokens: int
    logprobs: int | None
    inputs: pb.InputLogProbs | None
    finish_override: str
    kv_params: str
    pending: list[Piece] = field(default_factory=list[Piece])
    finish_reason: str = ""
    matched: str | int | None = None
    began: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.finish_reason)

    def take(self, piece: Piece) -> None:
        self.pending.append(piece)
        if piece.finish_reason:
            self.finish_reason = self.finish_override or piece.finish_reason
            self.matched = piece.matched

    def abort(self) -> None:
        self.finish_reason = "abort"

    def messages(self, *, stream: bool) -> Iterator[pb.GenerateResponse]:
        """The messages to send now: a chunk of the pending pieces, and at the end `complete`.

        In a stream, `complete` repeats the last chunk, as the published server does.
        """
        if stream:
            yield pb.GenerateResponse(chunk=self._chunk())
        if self.ended:
            yield pb.GenerateResponse(complete=self._complete())
        if stream:
            self.pending.clear()
            self.began = True

    def _chunk(self) -> pb.GenerateStreamChunk:
        return pb.GenerateStreamChunk(
            token_ids=[piece.step.token for piece in self.pending],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.pending),
            cached_tokens=self.cached_tokens,
            output_logprobs=self._output_logprobs(),
            input_logprobs=None if self.began else self.inputs,
            index=self.index,
        )

    def _complete(self) -> pb.GenerateComplete:
        complete = pb.GenerateComplete(
            output_ids=[piece.step.token for piece in self.pending],
            finish_reason=self.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.pending),
            cached_tokens=self.cached_tokens,
            output_logprobs=self._output_logprobs(),
            input_logprobs=self.inputs,
            index=self.index,
            kv_transfer_params_json=_kv_transfer_params(self.kv_params),
        )
        if isinstance(self.matched, str):
            complete.matched_stop_str = self.matched
        elif self.matched is not None:
            complete.matched_token_id = self.matched
        return complete

    def _output_logprobs(self) -> pb.OutputLogProbs | None:
        if self.logprobs is None or not self.pending:
            return None
        steps = [piece.step for piece in self.pending]
        return pb.OutputLogProbs(
            token_logprobs=[step.logprob for step in steps],
            token_ids=[step.token for step in steps],
            top_logprobs=[_top(step, self.logprobs) for step in steps] if self.logprobs else (),
        )


def _top(step: Step, count: int) -> pb.TopLogProbs:
    """The chosen token first, then the most likely ones, `count` in all."""
    if count < 0:
        return pb.TopLogProbs()
    best = [(token, value) for token, value in step.top if token != step.token]
    listed = [(step.token, step.logprob), *best][:count]
    return pb.TopLogProbs(
        values=[value for _, value in listed], token_ids=[token for token, _ in listed]
    )


def _kv_transfer_params(kv_params: str) -> str | None:
    """The parameters that a prefill worker returns for the decode worker."""
    if not kv_params or not json.loads(kv_params).get("do_remote_decode"):
        return None
    params = {"do_remote_prefill": True, "do_remote_decode": False, "remote_engine_id": "fake"}
    return json.dumps(params)


def input_logprobs(
    model: Model, prompt: Sequence[int], params: pb.SamplingParams
) -> pb.InputLogProbs | None:
    """The log probabilities of the prompt. The first token has none: no token precedes it."""
    if not params.HasField("prompt_logprobs"):
        return None
    count = params.prompt_logprobs
    reply = pb.InputLogProbs(token_ids=prompt)
    reply.token_logprobs.add()
    for step in score(model, prompt, count):
        reply.token_logprobs.add(value=step.logprob)
    if count:
        reply.top_logprobs.add()
        reply.top_logprobs.extend(_top(step, count) for step in score(model, prompt, count))
    return reply


def model_info(model: Model, name: str) -> pb.GetModelInfoResponse:
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    return pb.GetModelInfoResponse(
        model_path=name,
        tokenizer_path=name,
        served_model_name=name,
        is_generation=True,
        max_context_length=model.context_length,
        max_req_input_len=model.context_length,
        vocab_size=model.tokenizer.vocab_size,
        model_type="smg_demo",
        architectures=["DemoForCausalLM"],
        eos_token_ids=[END],  # from config.json; the generation config has more
        pad_token_id=PAD,
        bos_token_id=START,
        default_sampling_params_json=json.dumps(defaults),
    )


def server_info(max_running: int) -> pb.GetServerInfoResponse:
    """Only the fields that the published server fills."""
    return pb.GetServerInfoResponse(
        data_parallel_size=1,
        block_size=BLOCK_SIZE,
        max_num_seqs=max_running,
        model_dtype="torch.float32",
        kv_cache_dtype="auto",
        shm_namespace_id=_SHM_NAMESPACE,
        multimodal_encoder_dtype="float32",
        constrained_decoding_start="first_token",
    )
