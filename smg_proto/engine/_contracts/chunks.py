"""The gateway's five engine contracts: a stream of `chunk`, then a `complete` per sequence."""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any, ClassVar

from smg_proto.common_pb2 import GetTokenizerChunk, GetTokenizerRequest
from smg_proto.engine._contracts.base import Call, Contract, Reader, known, over_ranks
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Info, Load, Logprob, Piece, Usage

_REASONS = {"cancelled": "abort", "": "stop"}


class ChunkContract(Contract):
    """Replies are token ids. In a stream, `complete` repeats the content of the chunks."""

    pb: Any
    """The contract's generated module."""
    engine: ClassVar[str]
    """The engine's name."""
    version: ClassVar[str] = ""
    """The field of GetServerInfoResponse with the engine's version; empty if there is none."""
    aborts_many: ClassVar[bool] = False
    """Whether an AbortRequest takes a list."""
    index: ClassVar[str] = "index"
    """The field that numbers the sequences."""
    output: ClassVar[str] = "output_ids"
    """The field of `complete` with the token ids."""
    matched: ClassVar[Sequence[str]] = ("matched_token_id", "matched_stop_str")
    unnumbered: ClassVar[bool] = False
    """Whether a reply that is not a stream has its sequences in order, without numbers."""
    ends_quietly: ClassVar[bool] = False
    """Whether an aborted request ends without a `complete`."""

    def reader(self, params: CheckedParams, stream: bool, facts: Any) -> "ChunkReader":
        return ChunkReader(self, stream, "logprobs" in params)

    def abort(self, request_id: str) -> Call:
        named = {"request_ids": [request_id]} if self.aborts_many else {"request_id": request_id}
        return self.call("Abort", self.pb.AbortRequest(**named), self.pb.AbortResponse)

    def health_call(self) -> Call:
        return self.call("HealthCheck", self.pb.HealthCheckRequest(), self.pb.HealthCheckResponse)

    def info_calls(self) -> Sequence[Call]:
        pb = self.pb
        return (
            self.call("GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse),
            self.call("GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse),
        )

    def info(self, replies: Sequence[Any]) -> Info:
        model, server = replies
        return Info(
            self.name,
            model.served_model_name or model.model_path,
            self.engine_of(server),
            known(model.max_context_length),
            known(model.vocab_size),
            tuple(model.eos_token_ids),
            tuple(replies),
        )

    def engine_of(self, server: Any) -> str:
        """The engine, with its version if the server reports it."""
        version = getattr(server, self.version) if self.version else ""
        return f"{self.engine} {version}".strip()

    def tokenizer_call(self) -> Call:
        return self.call("GetTokenizer", GetTokenizerRequest(), GetTokenizerChunk)

    def logprobs(self, message: Any) -> tuple[Logprob, ...]:
        """The log probabilities in a chunk or a `complete`."""
        given = message.output_logprobs
        tops = chain(given.top_logprobs, repeat(None))
        return tuple(
            Logprob(
                token, value, tuple(zip(top.token_ids, top.values, strict=False)) if top else ()
            )
            for token, value, top in zip(given.token_ids, given.token_logprobs, tops, strict=False)
        )

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        part = message.chunk if message.HasField("chunk") else message.complete
        given = part.input_logprobs
        tops = chain(given.top_logprobs, repeat(None))
        return tuple(
            Logprob(
                token,
                one.value,
                tuple(zip(top.token_ids, top.values, strict=False)) if top else (),
            )
            if one.HasField("value")
            else None
            for token, one, top in zip(given.token_ids, given.token_logprobs, tops, strict=False)
        )


class ChunkReader(Reader):
    def __init__(self, contract: ChunkContract, stream: bool, with_logprobs: bool) -> None:
        self._contract = contract
        self._with_logprobs = with_logprobs
        self._numbered = stream or not contract.unnumbered
        self._index, self._output = contract.index, contract.output
        self._seen: dict[int, int] = {}  # sequence to its tokens so far
        self._ended = 0

    def read(self, message: Any) -> Iterable[Piece]:
        chunk = message.chunk  # empty if unset; HasField would cost more
        ids = tuple(chunk.token_ids)
        if ids:
            index = getattr(chunk, self._index)
            self._seen[index] = self._seen.get(index, 0) + len(ids)
            logprobs = self._contract.logprobs(chunk) if self._with_logprobs else ()
            return (Piece(index, None, ids, logprobs),)
        return (self._last(message.complete),) if message.HasField("complete") else ()

    def _last(self, end: Any) -> Piece:
        index = getattr(end, self._index) if self._numbered else self._ended
        self._ended += 1
        ids: tuple[int, ...] = ()
        logprobs: tuple[Logprob, ...] = ()
        if index not in self._seen:  # no chunk had this content
            ids = tuple(getattr(end, self._output))
            logprobs = self._contract.logprobs(end) if self._with_logprobs else ()
        matched = next((n for n in self._contract.matched if end.HasField(n)), None)
        return Piece(
            index,
            None,
            ids,
            logprobs,
            _REASONS.get(end.finish_reason, end.finish_reason),
            getattr(end, matched) if matched else None,
            Usage(end.prompt_tokens, self._seen.get(index, len(ids)), end.cached_tokens),
        )

    def end(self, unfinished: Sequence[int]) -> Iterable[Piece]:
        if not self._contract.ends_quietly:
            return ()
        return [
            Piece(index, None, finish_reason="abort", usage=Usage(None, self._seen.get(index, 0)))
            for index in unfinished
        ]


class SchedulerContract(ChunkContract):
    """A chunk contract whose engines report their load."""

    def load_call(self) -> Call:
        return self.call("GetLoads", self.pb.GetLoadsRequest(), self.pb.GetLoadsResponse)

    def load(self, reply: Any) -> Load:
        return over_ranks(reply, reply.loads, "num_running_reqs", "num_waiting_reqs", "token_usage")

    def logit_bias(self, sampling: Any, params: CheckedParams) -> None:
        """Fill `logit_bias`, whose keys are strings in these contracts."""
        sampling.logit_bias.update({str(t): v for t, v in params.get("logit_bias", {}).items()})
