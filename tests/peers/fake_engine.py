"""A deterministic engine with the surface of vLLM's AsyncLLM that its gRPC servicer uses.

A token is a byte and 256 ends a sequence, so text and ids translate without a tokenizer. The reply
to a prompt is the prompt; choice i of several leaves out its first i tokens. What a prompt holds
can ask for more:

    !hold                 never end, until aborted or cancelled
    !fail:KIND  !fail:KIND@N    raise after N tokens (0 if not said); KIND is a key of FAILURES
    !finish:REASON        end the reply with this finish reason

Used by `peers.published_servicer`, which has the modules of vLLM in place before this is imported.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from peers.fake_model import BLOCK, CONTEXT, END, VOCABULARY, model_config, vllm_config
from peers.vllm_modules import (
    EngineGenerateError,
    GracefulHTTPError,
    Logprob,
    RequestOutputKind,
    SamplingParams,
    VLLMClientError,
    VLLMNotFoundError,
)

FAILURES: dict[str, Callable[[], Exception]] = {
    "client": lambda: VLLMClientError("the engine refuses this request"),
    "not_found": lambda: VLLMNotFoundError("the engine has no such thing"),
    "engine": lambda: EngineGenerateError("the engine failed"),
    "other": lambda: RuntimeError("the engine met something else"),
    "overload": lambda: GracefulHTTPError("too many requests", HTTPStatus.TOO_MANY_REQUESTS),
    "unavailable": lambda: GracefulHTTPError("go away", HTTPStatus.SERVICE_UNAVAILABLE),
}

Event = Callable[..., None]


class FakeEngine:
    """generate, encode, abort and the configuration objects of an AsyncLLM."""

    def __init__(self, model: Path, delta: int, interval: float, event: Event) -> None:
        self.delta, self.interval, self.event = delta, interval, event
        self.errored = False
        self.renderer = SimpleNamespace(process_for_engine=self._process)
        self.model_config = model_config(model)
        self.vllm_config = vllm_config(self.model_config)
        self._running: dict[str, list[asyncio.Event]] = {}
        self._cached: set[tuple[int, ...]] = set()

    async def check_health(self) -> None:
        if self.errored:
            raise EngineGenerateError("the engine is dead")

    async def abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            for aborted in self._running.get(request_id, []):
                aborted.set()

    async def reset_prefix_cache(self, **_: bool) -> bool:
        if self._running:
            return False
        self._cached.clear()
        return True

    async def start_profile(self) -> None:
        self.event("profile", on=True)

    async def stop_profile(self) -> None:
        self.event("profile", on=False)

    async def encode(
        self, prompt: dict[str, Any], pooling_params: object, request_id: str
    ) -> AsyncIterator[Any]:
        ids = self._checked(prompt["prompt_token_ids"])
        self.event("encode", request_id=request_id, prompt_token_ids=ids)
        vector = [ids.count(byte) / len(ids) for byte in range(8)]
        data = SimpleNamespace(tolist=lambda: vector)
        yield SimpleNamespace(
            finished=True, prompt_token_ids=ids, outputs=SimpleNamespace(data=data)
        )

    async def generate(
        self,
        prompt: dict[str, Any] | str,
        sampling_params: SamplingParams,
        request_id: str,
        tokenization_kwargs: dict[str, int] | None,
        trace_headers: dict[str, str] | None,
        data_parallel_rank: int | None,
    ) -> AsyncIterator[Any]:
        ids = self._prompt_ids(prompt, tokenization_kwargs)
        self.event(
            "generate",
            request_id=request_id,
            prompt_token_ids=ids,
            sampling_params=sampling_params.given,
            trace_headers=trace_headers,
            data_parallel_rank=data_parallel_rank,
        )
        aborted = asyncio.Event()
        self._running.setdefault(request_id, []).append(aborted)
        how = "cancelled"
        try:
            outputs = _Outputs(ids, sampling_params, self._cached_tokens(ids))
            async for output in self._steps(outputs, aborted):
                if output.finished:
                    how = "aborted" if aborted.is_set() else "finished"
                yield output
        except Exception:
            how = "failed"
            raise
        finally:
            self._running[request_id].remove(aborted)
            if not self._running[request_id]:
                del self._running[request_id]
            self.event(how, request_id=request_id)

    async def _steps(self, outputs: "_Outputs", aborted: asyncio.Event) -> AsyncIterator[Any]:
        """The replies of all choices in turn, a few tokens at a time; or all at the end."""
        text = bytes(token for token in outputs.prompt if token < END)
        failure = re.search(rb"!fail:(\w+)(?:@(\d+))?", text)
        streams = outputs.params.output_kind is RequestOutputKind.DELTA
        pending = list(outputs.choices)
        made = 0
        while pending:
            for choice in list(pending):
                if failure and made >= int(failure[2] or 0):
                    raise FAILURES[failure[1].decode()]()
                if self.interval:
                    await asyncio.sleep(self.interval)
                if not aborted.is_set() and b"!hold" in text and choice.waits():
                    await aborted.wait()
                made += choice.step(self.delta, abort=aborted.is_set())
                if choice.finish_reason:
                    pending.remove(choice)
                if streams:
                    yield outputs.output([choice.taken()], finished=not pending)
            await asyncio.sleep(0)
        if not streams:
            yield outputs.output([choice.taken() for choice in outputs.choices], finished=True)

    def _cached_tokens(self, ids: list[int]) -> int:
        whole = tuple(ids[: len(ids) // BLOCK * BLOCK])
        known = whole in self._cached
        self._cached.add(whole)
        return len(whole) if known else 0

    def _process(self, prompt: dict[str, Any], arrival_time: float) -> dict[str, Any]:
        return {"type": "token", **prompt, "prompt_token_ids": list(prompt["prompt_token_ids"])}

    def _prompt_ids(
        self, prompt: dict[str, Any] | str, tokenization_kwargs: dict[str, int] | None
    ) -> list[int]:
        if isinstance(prompt, str):
            ids = list(prompt.encode())
            keep = (tokenization_kwargs or {}).get("truncate_prompt_tokens")
            return self._checked(ids[-keep:] if keep else ids)
        return self._checked(prompt["prompt_token_ids"])

    def _checked(self, ids: list[int]) -> list[int]:
        if not ids:
            raise VLLMClientError("The decoder prompt cannot be empty")
        if len(ids) >= CONTEXT:
            raise VLLMClientError(f"The prompt has {len(ids)} tokens, the context {CONTEXT}")
        if max(ids) >= VOCABULARY:
            raise VLLMClientError(f"Token id {max(ids)} is out of vocabulary")
        return ids


class _Outputs:
    """The state of one request: its choices, and the RequestOutputs that tell of them."""

    def __init__(self, prompt: list[int], params: SamplingParams, cached: int) -> None:
        self.prompt, self.params, self.cached = prompt, params, cached
        room = CONTEXT - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self.choices = [_Choice(index, prompt, params, limit) for index in range(params.n)]

    def output(self, completions: list[Any], finished: bool) -> Any:
        transfer = (self.params.extra_args or {}).get("kv_transfer_params")
        requested = self.params.prompt_logprobs
        return SimpleNamespace(
            prompt_token_ids=self.prompt,
            prompt_logprobs=(
                None
                if requested is None
                else [None, *(logprobs(token, requested) for token in self.prompt[1:])]
            ),
            outputs=completions,
            finished=finished,
            num_cached_tokens=self.cached,
            kv_transfer_params=(
                {"do_remote_prefill": True, "do_remote_decode": False, "remote_engine_id": "fake"}
                if finished and transfer and transfer.get("do_remote_decode")
                else None
            ),
        )


class _Choice:
    """One reply on its way."""

    def __init__(self, index: int, prompt: list[int], params: SamplingParams, limit: int) -> None:
        self.index, self.params, self.limit = index, params, limit
        self.reply = prompt[index:]
        named = re.search(rb"!finish:(\w+)", bytes(token for token in prompt if token < END))
        self.last_reason = named[1].decode() if named else "stop"
        self.tokens: list[int] = []
        self.sent = 0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    def waits(self) -> bool:
        """Whether a reply that is to be held has come far enough: some tokens are out."""
        return self.sent > 0 or self.params.output_kind is not RequestOutputKind.DELTA

    def step(self, count: int, abort: bool) -> int:
        """Add up to count tokens: how many it were."""
        before = len(self.tokens)
        if abort:
            self.finish_reason = "abort"
        while not self.finish_reason and len(self.tokens) < before + count:
            self._next()
        return len(self.tokens) - before

    def _next(self) -> None:
        place = len(self.tokens)
        ends = place >= len(self.reply) and not self.params.ignore_eos
        token = END if ends else self.reply[place % len(self.reply)] if self.reply else END
        self.tokens.append(token)
        enough = len(self.tokens) >= self.params.min_tokens
        text = bytes(made for made in self.tokens if made < END).decode(errors="replace")
        stop = next((stop for stop in self.params.stop or [] if stop in text), None)
        if enough and token in (self.params.stop_token_ids or []):
            self.finish_reason, self.stop_reason = "stop", token
        elif enough and stop:
            self.finish_reason, self.stop_reason = "stop", stop
        elif enough and ends:
            self.finish_reason = self.last_reason
        elif len(self.tokens) >= self.limit:
            self.finish_reason = "length"

    def taken(self) -> Any:
        """A CompletionOutput of the tokens that were not told of yet."""
        tokens, self.sent = self.tokens[self.sent :], len(self.tokens)
        requested = self.params.logprobs
        return SimpleNamespace(
            index=self.index,
            token_ids=tokens,
            logprobs=None
            if requested is None
            else [logprobs(token, requested) for token in tokens],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )


def logprobs(token: int, count: int) -> dict[int, Logprob]:
    """The chosen token first, then the best ones: token t has -(t % 8)/8, the j-th best -j/16."""
    best = {(token + j) % VOCABULARY: Logprob(-j / 16) for j in range(1, max(count, 0) + 1)}
    return {token: Logprob(-(token % 8) / 8)} | best
