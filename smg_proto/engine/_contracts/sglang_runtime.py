"""sglang.runtime.v1: SGLang's own contract, served with --grpc-port."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, ClassVar

from smg_proto import sglang_runtime_pb2 as pb
from smg_proto._channel import mapping, sequence
from smg_proto.engine._contracts.base import Call, Contract, Reader, under
from smg_proto.engine._errors import FailedError
from smg_proto.engine._request import CheckedParams
from smg_proto.engine._types import Health, Info, Load, Logprob, Piece, Usage

_REASONS = {"cancelled": "abort"}


class SglangRuntime(Contract):
    name = "sglang.runtime.v1"
    service = "sglang.runtime.v1.SglangService"
    has_text = True
    fields: ClassVar[Mapping[str, str]] = {
        "prompt": "text",
        "token_ids": "input_ids",
        "lora": "lora_path",
        **under(
            "sampling_params",
            *("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"),
            *("repetition_penalty", "n", "seed", "stop", "stop_token_ids", "ignore_eos"),
            max_tokens="max_new_tokens",
            min_tokens="min_new_tokens",
        ),
        **under(
            "sampling_params.guided_decoding",
            *("json_schema", "regex", "structural_tag"),
            grammar="ebnf",
            choice="choice.values",
        ),
    }
    handled = frozenset(("top_k", "logprobs", "prompt_logprobs"))

    def generate(self, params: CheckedParams, stream: bool) -> Call:
        text = "prompt" in params
        kind = pb.TextGenerateRequest if text else pb.GenerateRequest
        request = kind(rid=params["request_id"], stream=stream)
        self.fill(request, params)
        if "top_k" in params:
            request.sampling_params.top_k = params["top_k"] or -1
        self.request_logprobs(request, params)
        if text:
            return self.call("TextGenerate", request, pb.TextGenerateResponse)
        return self.call("Generate", request, pb.GenerateResponse)

    def facts_call(self) -> Call:
        return self.call("GetServerInfo", pb.GetServerInfoRequest(), pb.GetServerInfoResponse)

    def facts(self, reply: Any) -> bool | None:
        """Whether a stream's messages have only new output. None: unknown."""
        incremental = _object(_json(reply.json_info)).get("incremental_streaming_output")
        return incremental if isinstance(incremental, bool) else None

    def reader(self, params: CheckedParams, stream: bool, facts: Any) -> "RuntimeReader":
        kind = TextReader if "prompt" in params else IdsReader
        return kind(params.n, "logprobs" in params, facts if stream else False)

    def prompt_logprobs(self, message: Any) -> tuple[Logprob | None, ...]:
        return _scored(message.meta_info, "input")

    def abort(self, request_id: str) -> Call:
        return self.call("Abort", pb.AbortRequest(rid=request_id), pb.AbortResponse)

    def info_calls(self) -> Sequence[Call]:
        return (
            self.call("GetModelInfo", pb.GetModelInfoRequest(), pb.GetModelInfoResponse),
            self.facts_call(),
            self.call("ListModels", pb.ListModelsRequest(), pb.ListModelsResponse),
        )

    def info(self, replies: Sequence[Any]) -> Info:
        model, server, models = replies
        facts = _object(_json(model.json_info))
        version = _object(_json(server.json_info)).get("version")
        card = models.models[0] if models.models else pb.ModelCard()
        eos = facts.get("eos_token_ids", facts.get("eos_token_id"))
        return Info(
            self.name,
            str(facts.get("served_model_name") or card.id or model.model_path),
            f"SGLang {version}" if isinstance(version, str) else "SGLang",
            card.max_model_len if card.HasField("max_model_len") else None,
            _integer(facts.get("vocab_size")),
            tuple(token for token in _list(eos) or [eos] if isinstance(token, int)),
            tuple(replies),
        )

    def load_call(self) -> Call:
        return self.call("GetLoad", pb.GetLoadRequest(), pb.GetLoadResponse)

    def load(self, reply: Any) -> Load:
        """The reply is a list with one object per rank. The contract does not define the keys."""
        info = _json(reply.json_info)
        ranks = [_object(rank) for rank in (_list(info) or [info])]
        usage = [one.get("token_usage") for one in ranks]
        return Load(
            _sum(ranks, "num_running_reqs", "num_reqs"),
            _sum(ranks, "num_waiting_reqs"),
            max((one for one in usage if isinstance(one, int | float)), default=None),
            (reply,),
        )

    def health_call(self) -> Call:
        return self.call("HealthCheck", pb.HealthCheckRequest(), pb.HealthCheckResponse)

    def health(self, reply: Any) -> Health:
        return Health(reply.healthy)


class RuntimeReader(Reader):
    """Depending on the engine's flags, a message has its whole sequence so far or only new output.
    Sequences have ids, which are numbered in the order in which they first appear."""

    def __init__(self, n: int, logprobs: bool, incremental: bool | None) -> None:
        self._alone = n == 1
        self._with_logprobs = logprobs
        self._incremental: bool | None = incremental
        self._numbers: dict[str, int] = {}  # id to sequence
        self._scored: dict[int, int] = {}  # sequence to its log probabilities so far

    def read(self, message: Any) -> Iterable[Piece]:
        meta = message.meta_info
        index = 0
        if not self._alone:
            index = self._numbers.setdefault(meta.get("id", ""), len(self._numbers))
        text, ids = self.new(message, index)
        logprobs = self._logprobs(meta, index) if self._with_logprobs else ()
        reason = meta.get("finish_reason", "null")
        if reason == "null":
            return (Piece(index, text, ids, logprobs),) if text or ids or logprobs else ()
        why = _json(reason)
        end = _object(why) or {"type": why}
        kind, matched = str(end.get("type") or "stop"), end.get("matched")
        return (
            Piece(
                index,
                text,
                ids,
                logprobs,
                _REASONS.get(kind, kind),
                matched if isinstance(matched, str | int) else None,
                Usage(
                    _number(meta, "prompt_tokens"),
                    _number(meta, "completion_tokens") or 0,
                    _number(meta, "cached_tokens"),
                ),
            ),
        )

    def new(self, message: Any, index: int) -> tuple[str | None, tuple[int, ...]]:
        """The text or the token ids that a message adds."""
        raise NotImplementedError

    def _logprobs(self, meta: Mapping[str, str], index: int) -> tuple[Logprob, ...]:
        tokens = _scored(meta, "output")
        seen = self._scored.get(index, 0)
        cumulative = len(tokens) == _number(meta, "completion_tokens")
        begin = seen if cumulative and len(tokens) >= seen else 0
        found = tuple(one for one in tokens[begin:] if one)
        self._scored[index] = seen + len(found)
        return found


class TextReader(RuntimeReader):
    def __init__(self, n: int, logprobs: bool, incremental: bool | None) -> None:
        super().__init__(n, logprobs, incremental)
        self._text: dict[int, str] = {}

    def new(self, message: Any, index: int) -> tuple[str, tuple[int, ...]]:
        text, before = message.text, self._text.get(index, "")
        if self._incremental is None and before and text and not text.startswith(before):
            self._incremental = True  # a cumulative text starts with the previous one
        if self._incremental:
            return text, ()
        if len(text) <= len(before):
            return "", ()
        self._text[index] = text
        return text[len(before) :], ()


class IdsReader(RuntimeReader):
    def __init__(self, n: int, logprobs: bool, incremental: bool | None) -> None:
        super().__init__(n, logprobs, incremental)
        self._count: dict[int, int] = {}

    def new(self, message: Any, index: int) -> tuple[None, tuple[int, ...]]:
        ids, before = message.output_ids, self._count.get(index, 0)
        incremental = self._incremental
        if incremental is None:
            incremental = len(ids) != _number(message.meta_info, "completion_tokens")
        fresh = tuple(ids if incremental else ids[before:])
        self._count[index] = before + len(fresh)
        return None, fresh


def _scored(meta: Mapping[str, str], of: str) -> tuple[Logprob | None, ...]:
    """The log probabilities of "input" or "output", from [log probability or null, token id, …]."""
    tokens, tops = (
        _list(_json(meta[key])) if key in meta else []
        for key in (f"{of}_token_logprobs", f"{of}_top_logprobs")
    )
    return tuple(
        None
        if one[0] is None
        else Logprob(int(one[1]), float(one[0]), tuple((int(t[1]), float(t[0])) for t in top or ()))
        for one, top in zip(tokens, chain(tops, repeat(())), strict=False)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        raise FailedError("sglang.runtime.v1: a reply has a value that is not JSON") from None


def _number(meta: Mapping[str, str], key: str) -> int | None:
    return _integer(_json(meta[key])) if key in meta else None


def _object(value: Any) -> dict[str, Any]:
    return dict(mapping(value) or {})


def _list(value: Any) -> list[Any]:
    return list(sequence(value) or ())


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _sum(ranks: Sequence[Mapping[str, Any]], *keys: str) -> int | None:
    """Of the first key that every rank has."""
    for key in keys:
        numbers = [_integer(rank.get(key)) for rank in ranks]
        if ranks and None not in numbers:
            return sum(number or 0 for number in numbers)
    return None


CONTRACT = SglangRuntime()
