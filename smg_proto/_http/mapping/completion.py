"""CompletionService: POST /v1/completions, and POST /generate for token ids."""

from collections.abc import Iterator
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import SECONDS, Row, Table, Wrapped, read_reply, same
from smg_proto._http.mapping.common import (
    COMPLETION_FORMAT,
    MATCHED_STOP,
    SAMPLING_ROWS,
    ReadOnly,
)
from smg_proto._http.mapping.streams import Chunks, EventStream
from smg_proto._http.shapes import JsonObject, as_array, as_object, dig

_SHARED = same("temperature", "top_p", "top_k", "stop", "frequency_penalty", "presence_penalty") | {
    "output_format": Row("", COMPLETION_FORMAT)
}

REQUEST = Table(
    smg.CompletionRequest,
    _SHARED
    | same("model", "prompt", "max_tokens", "seed", "logprobs", "echo", "user")
    | {"sampling": Row("", Table(smg.SamplingParams, SAMPLING_ROWS))},
    required=["model", "input_kind"],
)

_PARAMS = "sampling_params."
GENERATE_REQUEST = Table(
    smg.CompletionRequest,
    {name: Row((_PARAMS + row.path).rstrip("."), row.codec) for name, row in _SHARED.items()}
    | {
        "model": "model",
        "prompt_token_ids": Row("input_ids", Wrapped(smg.TokenIds, "ids")),
        "max_tokens": _PARAMS + "max_new_tokens",
        "seed": _PARAMS + "sampling_seed",
        "sampling": Row(
            "sampling_params",
            Table(smg.SamplingParams, SAMPLING_ROWS | {"min_tokens": Row("min_new_tokens")}),
        ),
    },
    required=["model"],
)


class ParallelLogprobs(ReadOnly):
    """Log probabilities in arrays side by side: tokens, token_logprobs, top_logprobs."""

    def read(self, data: Any) -> Any:
        for number, token in enumerate(as_array(data.get("tokens"))):
            # None stays unset.
            found = smg.TokenLogprob(token=token, logprob=dig(data, f"token_logprobs.{number}"))
            for text, logprob in as_object(dig(data, f"top_logprobs.{number}")).items():
                found.top.add(token=text, logprob=logprob)
            yield found


_LOGPROBS = Row("choices.0.logprobs", ParallelLogprobs(), whole=True)
_HEAD = same("id", "model") | {"create_time": Row("created", SECONDS)}
_COUNTS: dict[str, Row | str] = {
    "prompt_tokens": "usage.prompt_tokens",
    "completion_tokens": "usage.completion_tokens",
    "cached_tokens": "usage.prompt_tokens_details.cached_tokens",
}
_FINISH: dict[str, Row | str] = {
    "finish_reason": "choices.0.finish_reason",
    "matched_stop": Row("choices.0.matched_stop", MATCHED_STOP),
}
_DELTA = Table(smg.CompletionDelta, {"text": "choices.0.text", "logprobs": _LOGPROBS})
_START = Table(smg.CompletionResponse, _HEAD)
_END_OF_CHOICE = Table(smg.CompletionResponse, _FINISH)
_END = Table(smg.CompletionResponse, _COUNTS)
REPLY = Table(
    smg.CompletionResponse,
    _HEAD | _COUNTS | _FINISH | {"text": "choices.0.text", "logprobs": _LOGPROBS},
)

_META: dict[str, Row | str] = {
    "prompt_tokens": "meta_info.prompt_tokens",
    "completion_tokens": "meta_info.completion_tokens",
    "cached_tokens": "meta_info.cached_tokens",
    "matched_stop": Row("meta_info.matched_stop", MATCHED_STOP),
}
GENERATE_REPLY = Table(
    smg.CompletionResponse,
    _META
    | {
        "id": "meta_info.id",
        "text": "text",
        "finish_reason": "meta_info.finish_reason.type",
        "token_ids": "output_ids",
    },
)
_GENERATE_END = Table(smg.CompletionResponse, _META | {"finish_reason": "meta_info.finish_reason"})


class CompletionChunks(Chunks[smg.CompletionEvent]):
    """The stream of /v1/completions."""

    def __init__(self) -> None:
        super().__init__()
        self._end = smg.CompletionResponse()

    def event(self, name: str, data: JsonObject) -> Iterator[smg.CompletionEvent]:
        if not self._end.id:
            start = read_reply(_START, data, "a chunk")
            self._end.MergeFrom(start)
            yield smg.CompletionEvent(start=start)
        delta = read_reply(_DELTA, data, "a chunk")
        if delta.text or delta.logprobs:
            yield smg.CompletionEvent(delta=delta)
        self._end.MergeFrom(read_reply(_END_OF_CHOICE, data, "a chunk"))
        self._end.MergeFrom(read_reply(_END, data, "a chunk"))

    def complete(self) -> bool:
        return bool(self._end.finish_reason)

    def end(self) -> smg.CompletionEvent:
        return smg.CompletionEvent(end=self._end)


class GenerateChunks(Chunks[smg.CompletionEvent]):
    """The stream of /generate: the text grows, and the last event repeats the last token."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._end = smg.CompletionResponse(model=model)
        self._text = 0

    def event(self, name: str, data: JsonObject) -> Iterator[smg.CompletionEvent]:
        last = read_reply(_GENERATE_END, data, "an event")
        if not self._end.id:
            self._end.id = str(data["meta_info"].get("id", "")).rpartition("-")[0]
            start = smg.CompletionResponse(id=self._end.id, model=self._end.model)
            yield smg.CompletionEvent(start=start)
        if last.finish_reason:
            self._end.MergeFrom(last)
            return
        text = data.get("text") or ""
        delta = smg.CompletionDelta(text=text[self._text :], token_ids=data.get("output_ids") or ())
        self._text = len(text)
        if delta.text or delta.token_ids:
            yield smg.CompletionEvent(delta=delta)

    def complete(self) -> bool:
        return bool(self._end.finish_reason)

    def end(self) -> smg.CompletionEvent:
        return smg.CompletionEvent(end=self._end)


STREAM: type[EventStream[smg.CompletionEvent]] = CompletionChunks
