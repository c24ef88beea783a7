"""Streams: reading, leaving, time limits, what they amount to."""

import asyncio
import gc
import pickle
import time
from typing import Any

import pytest
from support import eventually
from vllm_kit import NEVER, Both, ScriptedEngine, chunk, complete, used

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine
from smg_proto.vllm import (
    Completion,
    CompletionChunk,
    Timeout,
    TokenDecoder,
    VLLMGrpcClosedError,
    VLLMGrpcError,
    VLLMGrpcInternalError,
    VLLMGrpcTimeoutError,
    VLLMGrpcValidationError,
)

PROMPT = "the quick brown"


def test_a_stream_and_an_unstreamed_completion_amount_to_the_same(
    both: Both, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    client = both.make(address, decoder=decoder)
    sent: dict[str, Any] = {
        "prompt": PROMPT * 4, "max_tokens": 12, "n": 2, "temperature": 1.0, "seed": 3,
        "logprobs": 3, "prompt_logprobs": 1, "request_id": "same",
    }  # fmt: skip
    whole = both.create(client, **sent)
    streamed = both.final(client, **sent)
    different = {"created", "usage"}  # the prompt of the second is in the cache
    assert streamed.model_dump(exclude=different) == whole.model_dump(exclude=different)
    assert used(streamed).completion_tokens == used(whole).completion_tokens == 24
    assert used(streamed).prompt_tokens == used(whole).prompt_tokens
    assert used(streamed).cached_tokens > 0


def test_chunks_bring_deltas_and_each_choice_ends_once(both: Both, client: Any) -> None:
    chunks = both.chunks(client, prompt=PROMPT, max_tokens=5, n=2, seed=1)
    ends = [c.choices[0] for c in chunks if c.choices[0].finish_reason]
    assert sorted(end.index for end in ends) == [0, 1]
    assert all(end.delta_token_ids == [] for end in ends)
    assert len({c.id for c in chunks}) == 1
    assert all(c.raw is not None and c.usage is None for c in chunks)


def test_a_loop_over_a_stream_is_an_iterator(both: Both, client: Any) -> None:
    stream: Any = both.stream(client, prompt=PROMPT, max_tokens=2)
    loop = stream.__aiter__() if both.asynchronous else iter(stream)
    assert loop is not stream
    assert (loop.__aiter__() if both.asynchronous else iter(loop)) is loop
    assert both.next(loop).choices[0].token_ids


def test_usage_comes_with_the_stream_when_it_is_asked_for(both: Both, client: Any) -> None:
    sent: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 4}
    *_, before, last = both.chunks(client, **sent, stream_options={"include_usage": True})
    assert last.choices == [] and used(last).completion_tokens == 4
    assert before.choices[0].finish_reason and before.usage is None
    chunks = both.chunks(client, **sent, stream_options={"continuous_usage_stats": True})
    assert [used(c).completion_tokens for c in chunks] == [1, 2, 3, 4, 4]


def test_several_prompts_share_a_stream_and_keep_their_indexes(both: Both, client: Any) -> None:
    prompts = [PROMPT, [5, 6, 7]]
    chunks = both.chunks(client, prompt=prompts, max_tokens=4, n=2, seed=1)
    assert {c.choices[0].index for c in chunks} == {0, 1, 2, 3}
    final = both.final(client, prompt=prompts, max_tokens=4, n=2, seed=1)
    whole = both.create(client, prompt=prompts, max_tokens=4, n=2, seed=1)
    assert [c.token_ids for c in final.choices] == [c.token_ids for c in whole.choices]
    alone = both.create(client, prompt=[5, 6, 7], max_tokens=4, n=2, seed=1)
    assert [c.token_ids for c in alone.choices] == [c.token_ids for c in whole.choices[2:]]
    assert whole.usage is not None and whole.usage.completion_tokens == 16


def test_a_stream_can_be_read_by_hand_and_then_to_its_end(both: Both, client: Any) -> None:
    stream = both.stream(client, prompt=PROMPT, max_tokens=6)
    first = both.next(stream)
    assert stream.completion.choices[0].token_ids == first.choices[0].token_ids
    final = both.run(stream.get_final_completion())
    assert len(final.choices[0].token_ids) == stream.usage.completion_tokens == 6
    assert both.each(stream) == []


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("how", ["close", "cancel", "break", "block", "error", "forget"])
def test_ending_a_stream_early_reaches_the_engine(
    how: str, prompts: int, both: Both, client: Any, address: Address[FakeVllmEngine]
) -> None:
    engine = address.servicer
    engine.token_delay = 0.02
    before = engine.record.counters.cancelled
    stream: Any = both.stream(client, prompt=[PROMPT] * prompts, max_tokens=2000)
    got = both.next(stream)
    both.eventually(lambda: engine.record.counters.running == prompts)
    match how:
        case "close":
            both.run(stream.close())
        case "cancel":
            stream.cancel()
        case "break":
            both.each(stream, lambda _: True)
        case "block":
            entered = both.run(stream.__aenter__() if both.asynchronous else stream.__enter__())
            assert entered is stream
            leave = stream.__aexit__ if both.asynchronous else stream.__exit__
            both.run(leave(None, None, None))
        case "error":

            def fail(_: object) -> None:
                raise KeyError("mine")

            with pytest.raises(KeyError, match="mine"):
                both.each(stream, fail)
        case "forget":
            del stream
            gc.collect()
    both.eventually(lambda: engine.record.counters.cancelled == before + prompts)
    assert engine.record.counters.running == 0
    if how == "forget":
        return
    # A part of the answer is never taken for the whole.
    why = "its loop ended" if how in ("break", "error") else "the stream was closed"
    for _ in range(2):
        with pytest.raises(VLLMGrpcClosedError, match=why):
            both.next(stream)
    with pytest.raises(VLLMGrpcClosedError, match=why):
        both.each(stream)
    partial = both.run(stream.get_final_completion())
    first = next(c for c in partial.choices if c.index == got.choices[0].index)
    assert first.token_ids[:1] == got.choices[0].token_ids
    assert first.finish_reason is None


def test_a_stream_that_is_at_its_end_stays_there(both: Both, client: Any) -> None:
    stream: Any = both.stream(client, prompt=PROMPT, max_tokens=3)
    assert both.each(stream)
    both.run(stream.close())
    assert both.each(stream) == []
    assert both.run(stream.get_final_completion()).choices[0].finish_reason == "length"


def test_a_first_message_that_is_late_ends_the_stream(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), complete(1)]
    scripted.pause = lambda number: NEVER if number == 0 else 0.0
    limits = Timeout(first_message=1.5, idle=NEVER)
    with pytest.raises(VLLMGrpcTimeoutError, match=r"no first message within 1\.5 s") as caught:
        both.chunks(scripted_client, prompt="x", timeout=limits)
    assert caught.value.code == "DEADLINE_EXCEEDED" and caught.value.request_id
    eventually(lambda: scripted.ended_early == 1)


def test_a_stream_that_falls_silent_is_ended(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), chunk(2), chunk(3), complete(3)]
    scripted.pause = lambda number: NEVER if number == 2 else 0.1
    limits = Timeout(first_message=NEVER, idle=1.5)
    stream = both.stream(scripted_client, prompt="x", timeout=limits)
    assert both.next(stream).choices[0].token_ids == [1]
    assert both.next(stream).choices[0].token_ids == [2]
    with pytest.raises(VLLMGrpcTimeoutError, match=r"no further message within 1\.5 s"):
        both.next(stream)
    eventually(lambda: scripted.ended_early == 1)
    assert stream.completion.choices[0].token_ids == [1, 2]
    with pytest.raises(VLLMGrpcTimeoutError):
        both.run(stream.get_final_completion())


def test_silence_is_noticed_also_after_a_slow_reader(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), chunk(2), complete(2)]
    scripted.pause = lambda number: 0.1 if number < 2 else NEVER
    limits = Timeout(first_message=NEVER, idle=1.5)
    stream = both.stream(scripted_client, prompt="x", timeout=limits)
    assert both.next(stream)
    if both.asynchronous:
        both.run(asyncio.sleep(2))  # the limit goes by while nobody waits
    else:
        time.sleep(2)
    assert both.next(stream)
    with pytest.raises(VLLMGrpcTimeoutError, match="no further message"):
        both.next(stream)


def test_time_that_the_reader_takes_does_not_count_as_silence(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), chunk(2), complete(2)]
    stream = both.stream(scripted_client, prompt="x", timeout=1.5)
    assert both.next(stream)
    time.sleep(2)
    assert both.next(stream)
    assert both.next(stream)
    assert both.each(stream) == []


def test_the_deadline_of_a_whole_stream_strikes_in_the_middle(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(i) for i in range(2000)]  # 100 s
    scripted.pause = lambda number: 0.05
    stream = both.stream(scripted_client, prompt="x", timeout=Timeout(stream=1.5))
    with pytest.raises(VLLMGrpcTimeoutError):
        both.each(stream)
    both.eventually(lambda: scripted.ended_early == 1)
    assert sum(len(choice.token_ids) for choice in stream.completion.choices) < 2000


def test_an_unstreamed_call_has_one_deadline(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [complete(1)]
    scripted.pause = lambda number: NEVER
    with pytest.raises(VLLMGrpcTimeoutError):
        both.create(scripted_client, prompt="x", timeout=1.5)
    eventually(lambda: scripted.ended_early == 1)


def test_metadata_of_the_call_is_there(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), complete(1)]
    stream: Any = both.stream(scripted_client, prompt="x", request_id="mine")
    assert stream.request_id == "mine"
    assert ("x-server", "scripted") in both.run(stream.initial_metadata())
    assert both.run(stream.trailing_metadata()) == ()
    final = both.run(stream.get_final_completion())
    assert ("x-cost", "7") in both.run(stream.trailing_metadata())
    assert ("x-cost", "7") in final.trailing_metadata and final.request_id == "mine"
    scripted.messages = [complete(1)]
    whole = both.create(scripted_client, prompt="x")
    assert ("x-server", "scripted") in whole.initial_metadata
    assert "metadata" not in whole.model_dump_json()


def test_a_stream_without_its_end_is_an_error(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1)]
    stream = both.stream(scripted_client, prompt="x")
    assert both.next(stream)
    with pytest.raises(VLLMGrpcInternalError, match="without ending choice 0"):
        both.next(stream)
    scripted.messages = [complete(1, index=0)]
    with pytest.raises(VLLMGrpcInternalError, match="without ending choice 1"):
        both.create(scripted_client, prompt="x", n=2)


def test_abort_and_engine_errors_with_status_ok_are_finish_reasons(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), chunk(), complete(finish_reason="abort")]
    *_, end = both.chunks(scripted_client, prompt="x")
    assert end.choices[0].finish_reason == "abort"
    scripted.messages = [complete(finish_reason="error")]
    assert both.create(scripted_client, prompt="x").choices[0].finish_reason == "error"


def test_a_message_without_counts_does_not_wipe_out_the_counts(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    aborted = pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason="abort"))
    scripted.messages = [chunk(1, cached_tokens=4), aborted]
    usage = used(both.final(scripted_client, prompt="x"))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (9, 1, 4)


def test_a_message_of_an_unknown_kind_is_passed_over(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    unknown = pb.GenerateResponse()
    scripted.messages = [unknown, chunk(1), unknown, complete(1)]
    assert len(both.chunks(scripted_client, prompt="x")) == 2


def test_json_of_the_server_that_is_none_is_left_in_the_raw_message(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [complete(1, kv_transfer_params_json="{broken")]
    choice = both.create(scripted_client, prompt="x").choices[0]
    assert choice.kv_transfer_params is None
    assert choice.raw is not None and choice.raw.kv_transfer_params_json == "{broken"


def test_tokens_that_come_with_the_end_only_are_not_lost(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [complete(4, 5)]
    assert both.final(scripted_client, prompt="x").choices[0].token_ids == [4, 5]


def test_closing_the_client_ends_its_streams_with_a_clear_error(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    client = both.make(address)
    address.servicer.token_delay = 0.05
    stream = both.stream(client, prompt=PROMPT, max_tokens=2000)
    both.next(stream)
    both.run(client.close())
    with pytest.raises(VLLMGrpcClosedError):
        for _ in range(100):
            both.next(stream)


def test_a_stream_that_failed_keeps_saying_so(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1)]
    stream = both.stream(scripted_client, prompt="x")
    with pytest.raises(VLLMGrpcError) as first:
        both.run(stream.get_final_completion())
    with pytest.raises(VLLMGrpcError) as second:
        both.run(stream.get_final_completion())
    assert first.value is second.value


def test_what_has_come_so_far_does_not_change_later(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    stream: Any = both.stream(
        both.make(address), prompt=PROMPT, max_tokens=5, logprobs=1, prompt_logprobs=1
    )
    both.next(stream)
    early = stream.completion
    kept = early.model_copy(deep=True)
    both.run(stream.get_final_completion())
    assert early == kept
    assert early.choices[0].logprobs is not None
    assert len(early.choices[0].token_ids) == len(early.choices[0].logprobs.tokens) == 1


def test_assembled_results_are_what_validated_ones_would_be(both: Both, client: Any) -> None:
    sent: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 3, "logprobs": 2}
    whole = both.create(client, **sent)
    chunks = both.chunks(client, **sent, stream_options={"include_usage": True})
    results: list[Completion | CompletionChunk] = [whole, *chunks]
    for made in results:
        again = type(made).model_validate(made.model_dump())
        assert again.model_dump() == made.model_dump()
        assert made.model_copy() == made
        assert pickle.loads(pickle.dumps(made)) == made
        assert repr(again).split("(")[0] == repr(made).split("(")[0]
        made.model = "other"
        assert made.model_dump()["model"] == "other"


def test_the_text_can_be_iterated_alone(both: Both, client: Any) -> None:
    whole = both.create(client, prompt=PROMPT, max_tokens=6, n=2, seed=1)
    stream: Any = both.stream(client, prompt=PROMPT, max_tokens=6, n=2, seed=1)
    pieces = both.each(stream.text_stream)
    assert "".join(pieces) == whole.choices[0].text and len(pieces) > 1 and "" not in pieces
    assert both.run(stream.get_final_completion()).choices[1].text == whole.choices[1].text
    stream = both.stream(client, prompt=PROMPT, max_tokens=6, decoder=None)
    with pytest.raises(VLLMGrpcError, match="there is no text"):
        both.each(stream.text_stream)


def test_leaving_the_loop_over_the_text_ends_the_request(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    endless = {"max_tokens": 4000, "ignore_eos": True}  # 80 s, left alone
    stream: Any = both.stream(client, prompt=PROMPT, **endless)
    assert both.each(stream.text_stream, lambda piece: True)
    gc.collect()
    both.eventually(lambda: engine.record.counters.running == 0)


BROKEN: list[tuple[str, list[pb.GenerateResponse]]] = [
    ("sent a choice 7 of 1", [chunk(1), chunk(1, index=7), complete(1), complete(1, index=7)]),
    ("sent a choice 1 of 1", [complete(1), complete(1, index=1)]),
    ("sent more of choice 0 after its end", [chunk(1), complete(1), chunk(2)]),
    ("ended choice 0 twice", [chunk(1), complete(1), complete(1)]),
]


@pytest.mark.parametrize(("what", "messages"), BROKEN, ids=[what for what, _ in BROKEN])
def test_what_the_contract_does_not_have_is_an_error(
    what: str,
    messages: list[pb.GenerateResponse],
    both: Both,
    scripted: ScriptedEngine,
    scripted_client: Any,
) -> None:
    scripted.messages = messages
    for read in (both.create, both.final):
        with pytest.raises(VLLMGrpcInternalError, match=f"the server {what}") as caught:
            read(scripted_client, prompt="x")
        assert caught.value.request_id


def test_no_count_is_negative(both: Both, scripted: ScriptedEngine, scripted_client: Any) -> None:
    scripted.messages = [complete(1, spec_accepted_tokens=9, spec_draft_tokens=4)]
    details = used(both.create(scripted_client, prompt="x")).completion_tokens_details
    assert details is not None and details.rejected_prediction_tokens == 0


def test_a_reason_that_the_server_does_not_give_is_not_invented(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(1), complete(1, finish_reason="")]
    for read in (both.create, both.final):
        assert read(scripted_client, prompt="x").choices[0].finish_reason == ""


def test_json_of_the_server_that_is_too_deep_is_left_in_the_raw_message(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    scripted.messages = [complete(1, kv_transfer_params_json=deep)]
    for read in (both.create, both.final):
        assert read(scripted_client, prompt="x").choices[0].kv_transfer_params is None


def test_stream_must_be_a_truth_value(both: Both, client: Any) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="stream: must be True or False"):
        both.run(client.completions.create(prompt="x", stream="yes"))
