"""CompletionService: POST /v1/completions, and POST /generate for token ids."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import Cursor, Known, Row, Table, count, ids, nested, same, timestamp
from smg_proto._http.mapping.common import (
    COMPLETION_FORMAT,
    KNOWN_USAGE,
    SAMPLING_ROWS,
    USAGE,
    counts,
    finish_reason,
    matched_stop,
    unsent,
)
from smg_proto._http.mapping.streams import ChunkReader, Place
from smg_proto._http.shapes import JsonObject, as_list, is_object

# --- Requests ---


def text_of_prompt(value: Any, cursor: Cursor) -> Any:
    """One of several prompts. The route supports only texts."""
    if value.WhichOneof("input") != "text":
        cursor.field("token_ids").reject()
    return value.text


_SHARED = same("temperature", "top_p", "top_k", "stop", "frequency_penalty", "presence_penalty") | {
    "output_format": nested("", COMPLETION_FORMAT)
}
REQUEST = Table(
    smg.CompletionRequest,
    _SHARED
    | same("model", "prompt", "max_tokens", "seed", "logprobs", "echo", "user", "n", "metadata")
    | same("return_token_ids")
    | {
        "prompts": Row("prompt", text_of_prompt),
        "sampling": nested("", Table(smg.SamplingParams, SAMPLING_ROWS)),
    },
    required=["model", "prompt|prompts|prompt_token_ids"],
    either=[("prompt", "prompts", "prompt_token_ids")],
)
_PARAMS = "sampling_params"


GENERATE_REQUEST = Table(
    smg.CompletionRequest,
    {name: row.under(_PARAMS) for name, row in _SHARED.items()}
    | {
        "model": Row("model"),
        "prompt_token_ids": ids("input_ids"),
        "return_token_ids": Row("", unsent),  # the route always returns them
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
        # None leaves the field unset.
        entry = smg.TokenLogprob(
            token=token, logprob=logprobs[number] if number < len(logprobs) else None
        )
        top: Any = tops[number] if number < len(tops) else None
        if is_object(top):
            for text, logprob in top.items():
                entry.top.add(token=text, logprob=logprob)
        yield entry


def finish_of_generate(data: Any) -> Any:
    """The finish reason of /generate: a text, or the `type` of an object."""
    return finish_reason(data["type"] if is_object(data) else data)


_HEAD = same("id", "model") | {"create_time": Row("created", read=timestamp)}
_CHOICE = {
    "text": Row("text"),
    "logprobs": Row("logprobs", read=logprobs_of_arrays, whole=True),
    "token_ids": Row("token_ids"),
}
_FINISH = {
    "finish_reason": Row("finish_reason", read=finish_reason),
    "matched_stop": Row("matched_stop", read=matched_stop),
}
_INDEX = {"index": Row("index", read=count)}
_USAGE = counts(
    prompt_tokens="usage.prompt_tokens", completion_tokens="usage.completion_tokens"
) | {"usage": nested("usage", USAGE)}


def _first(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {name: row.under("choices.0") for name, row in rows.items()}


_KNOWN_CHOICE: Known = dict.fromkeys(
    ["index", "text", "logprobs", "finish_reason", "matched_stop", "stop_reason", "token_ids"]
)
_KNOWN: Known = {
    **dict.fromkeys(["id", "object", "model", "created"]),
    "usage": KNOWN_USAGE,
    "choices": (_KNOWN_CHOICE,),
}
REPLY = Table(
    smg.CompletionResponse,
    _HEAD | _USAGE | _first(_CHOICE | _FINISH),
    expected=["choices.0"],
    known=_KNOWN,
)
# One of several texts.
CHOICE = Table(smg.CompletionChoice, _INDEX | _CHOICE | _FINISH)
# Parts of a chunk: the head, the end of a choice, the counts, and a delta with more than text.
_CHUNK_HEAD = Table(smg.CompletionResponse, _HEAD)
_CHUNK_END = Table(smg.CompletionChoice, _INDEX | _FINISH)
_CHUNK_USAGE = Table(smg.CompletionResponse, _USAGE)
_CHUNK_DELTA = Table(smg.CompletionDelta, _INDEX | _CHOICE)


def total_tokens(data: Any) -> int:
    return count(data.get("prompt_tokens") or 0) + count(data.get("completion_tokens") or 0)


_GENERATE_USAGE = Table(
    smg.Usage,
    counts(
        prompt_tokens="prompt_tokens",
        completion_tokens="completion_tokens",
        cached_tokens="cached_tokens",
        reasoning_tokens="reasoning_tokens",
    )
    | {"total_tokens": Row("", read=total_tokens)},
)
_GENERATE_END = counts(
    prompt_tokens="meta_info.prompt_tokens", completion_tokens="meta_info.completion_tokens"
) | {
    "usage": nested("meta_info", _GENERATE_USAGE),
    "finish_reason": Row("meta_info.finish_reason", read=finish_of_generate),
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

    def _text_delta(self, place: Place, field: str, text: str) -> smg.CompletionEvent:
        event = smg.CompletionEvent()
        event.delta.text = text
        event.delta.index = cast(int, place)
        return event

    def _complete(self) -> bool:
        return bool(self._end.finish_reason)

    def _end_event(self) -> smg.CompletionEvent:
        return smg.CompletionEvent(end=self._end)


class CompletionChunks(_CompletionReader):
    """Reads the stream of /v1/completions, with one text or several."""

    KNOWN: ClassVar[Known] = _KNOWN

    def __init__(self, texts: int = 1, *, several: bool = False) -> None:
        super().__init__()
        self._texts, self._several = texts, several
        self._ended: dict[int, smg.CompletionChoice] = {}

    def _chunk(self, data: JsonObject) -> None:
        choices = as_list(data.get("choices") or [])
        if not self._begun and (choices or data.get("id")):
            self._begun = True
            _CHUNK_HEAD.read_into(self._end, data)
            self._emit(smg.CompletionEvent(start=self._end))
        for choice in choices:
            self._choice(choice)
        if data.get("usage"):
            _CHUNK_USAGE.read_into(self._end, data)

    def _choice(self, choice: Any) -> None:
        index = count(choice.get("index", 0))
        if choice.get("logprobs") or choice.get("token_ids"):
            delta = _CHUNK_DELTA.read(choice)
            if delta.text or delta.logprobs or delta.token_ids:
                self._emit(smg.CompletionEvent(delta=delta))
        elif text := choice.get("text"):
            self._emit_text(index, "text", text)
        if choice.get("finish_reason") and index not in self._ended:
            self._ended[index] = _CHUNK_END.read(choice)
            if self._several:
                self._emit(smg.CompletionEvent(choice_end=self._ended[index]))

    def _complete(self) -> bool:
        return len(self._ended) >= self._texts

    def _end_event(self) -> smg.CompletionEvent:
        ended = [self._ended[index] for index in sorted(self._ended)]
        self._end.finish_reason = ended[0].finish_reason
        if ended[0].HasField("matched_stop"):
            self._end.matched_stop.CopyFrom(ended[0].matched_stop)
        if self._several:
            self._end.choices.extend(ended)
        self._end.extra_json = self._extras.text()
        return smg.CompletionEvent(end=self._end)


class GenerateChunks(_CompletionReader):
    """Reads the stream of /generate: texts are cumulative, and the last event repeats a token."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._length = 0

    def _chunk(self, data: JsonObject) -> None:
        meta = data["meta_info"]
        if not self._begun:
            self._begun = True
            # The gateway appends the index of the choice to the id.
            numbered = meta.get("id") or ""
            self._end.id = numbered.rpartition("-")[0] or numbered
            self._emit(smg.CompletionEvent(start=self._end))
        if meta.get("finish_reason"):
            _GENERATE_CHUNK_END.read_into(self._end, data)
            return
        text = data.get("text") or ""
        new, self._length = text[self._length :], len(text)
        if tokens := as_list(data.get("output_ids") or []):
            self._emit(smg.CompletionEvent(delta=smg.CompletionDelta(text=new, token_ids=tokens)))
        elif new:
            self._emit_text(0, "text", new)
