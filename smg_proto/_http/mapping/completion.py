"""CompletionService: POST /v1/completions, and POST /generate for token ids."""

from collections.abc import Iterator
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import Row, Table, nested, same, timestamp, wrapped
from smg_proto._http.mapping.common import COMPLETION_FORMAT, SAMPLING_ROWS, counts, matched_stop
from smg_proto._http.mapping.streams import ChunkReader
from smg_proto._http.shapes import JsonObject, as_list, is_object

# --- Requests ---

_SHARED = same("temperature", "top_p", "top_k", "stop", "frequency_penalty", "presence_penalty") | {
    "output_format": nested("", COMPLETION_FORMAT)
}
REQUEST = Table(
    smg.CompletionRequest,
    _SHARED
    | same("model", "prompt", "max_tokens", "seed", "logprobs", "echo", "user")
    | {"sampling": nested("", Table(smg.SamplingParams, SAMPLING_ROWS))},
    required=["model", "input_kind"],
)
_PARAMS = "sampling_params"
GENERATE_REQUEST = Table(
    smg.CompletionRequest,
    {name: row.under(_PARAMS) for name, row in _SHARED.items()}
    | {
        "model": Row("model"),
        "prompt_token_ids": wrapped("input_ids", smg.TokenIds, "ids"),
        "max_tokens": Row("max_new_tokens").under(_PARAMS),
        "seed": Row("sampling_seed").under(_PARAMS),
        "sampling": nested(
            _PARAMS,
            Table(smg.SamplingParams, SAMPLING_ROWS | {"min_tokens": Row("min_new_tokens")}),
        ),
    },
    required=["model"],
)

# --- Replies ---


def logprobs_of_arrays(data: Any) -> Iterator[smg.TokenLogprob]:
    """Log probabilities in arrays side by side: tokens, token_logprobs, top_logprobs."""
    tokens = as_list(data.get("tokens") or [])
    logprobs = as_list(data.get("token_logprobs") or [])
    tops = as_list(data.get("top_logprobs") or [])
    for number, token in enumerate(tokens):
        # None stays unset.
        found = smg.TokenLogprob(
            token=token, logprob=logprobs[number] if number < len(logprobs) else None
        )
        top: Any = tops[number] if number < len(tops) else None
        if is_object(top):
            for text, logprob in top.items():
                found.top.add(token=text, logprob=logprob)
        yield found


def finish_reason(data: Any) -> Any:
    """Of /generate: a text, or an object that has it as its type."""
    return data["type"] if is_object(data) else data


_HEAD = same("id", "model") | {"create_time": Row("created", read=timestamp)}
_DELTA = {
    "text": Row("choices.0.text"),
    "logprobs": Row("choices.0.logprobs", read=logprobs_of_arrays, whole=True),
}
_END = counts(
    prompt_tokens="usage.prompt_tokens",
    completion_tokens="usage.completion_tokens",
    cached_tokens="usage.prompt_tokens_details.cached_tokens",
) | {
    "finish_reason": Row("choices.0.finish_reason"),
    "matched_stop": Row("choices.0.matched_stop", read=matched_stop),
}
REPLY = Table(smg.CompletionResponse, _HEAD | _DELTA | _END, expected=["choices.0"])
# Of a chunk: what is there once, what belongs to the end, and a delta with more than text.
_CHUNK_HEAD = Table(smg.CompletionResponse, _HEAD)
_CHUNK_END = Table(smg.CompletionResponse, _END)
_CHUNK_DELTA = Table(smg.CompletionDelta, _DELTA)

_GENERATE_END = counts(
    prompt_tokens="meta_info.prompt_tokens",
    completion_tokens="meta_info.completion_tokens",
    cached_tokens="meta_info.cached_tokens",
) | {
    "finish_reason": Row("meta_info.finish_reason", read=finish_reason),
    "matched_stop": Row("meta_info.matched_stop", read=matched_stop),
}
GENERATE_REPLY = Table(
    smg.CompletionResponse,
    _GENERATE_END
    | {"id": Row("meta_info.id"), "text": Row("text"), "token_ids": Row("output_ids")},
    expected=["meta_info"],
)
_GENERATE_CHUNK_END = Table(smg.CompletionResponse, _GENERATE_END)


class _CompletionReader(ChunkReader[smg.CompletionEvent]):
    def __init__(self, model: str = "") -> None:
        super().__init__()
        self._end = smg.CompletionResponse(model=model)

    def _text_delta(self, place: int, field: str, text: str) -> smg.CompletionEvent:
        event = smg.CompletionEvent()
        event.delta.text = text
        return event

    def _complete(self) -> bool:
        return bool(self._end.finish_reason)

    def _end_event(self) -> smg.CompletionEvent:
        return smg.CompletionEvent(end=self._end)


class CompletionChunks(_CompletionReader):
    """The stream of /v1/completions."""

    def _chunk(self, data: JsonObject) -> None:
        choices = as_list(data.get("choices") or [])
        choice: Any = choices[0] if choices else {}
        if not self._begun and (choices or data.get("id")):
            self._begun = True
            _CHUNK_HEAD.read_into(self._end, data)
            self._emit(smg.CompletionEvent(start=self._end))
        if choice.get("logprobs"):
            delta = _CHUNK_DELTA.read(data)
            if delta.text or delta.logprobs:
                self._emit(smg.CompletionEvent(delta=delta))
        elif text := choice.get("text"):
            self._emit_text(0, "text", text)
        if data.get("usage") or choice.get("finish_reason"):
            _CHUNK_END.read_into(self._end, data)


class GenerateChunks(_CompletionReader):
    """The stream of /generate: the text grows, and the last event repeats the last token."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._length = 0

    def _chunk(self, data: JsonObject) -> None:
        meta = data["meta_info"]
        if not self._begun:
            self._begun = True
            # The gateway appends the number of the choice to the id.
            numbered = meta.get("id") or ""
            self._end.id = numbered.rpartition("-")[0] or numbered
            self._emit(smg.CompletionEvent(start=self._end))
        if meta.get("finish_reason"):
            _GENERATE_CHUNK_END.read_into(self._end, data)
            return
        text = data.get("text") or ""
        new, self._length = text[self._length :], len(text)
        if ids := as_list(data.get("output_ids") or []):
            self._emit(smg.CompletionEvent(delta=smg.CompletionDelta(text=new, token_ids=ids)))
        elif new:
            self._emit_text(0, "text", new)
