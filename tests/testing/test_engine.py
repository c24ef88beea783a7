"""FakeVllmEngine over a socket: what a client of the published vLLM server can rely on."""

import asyncio
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import eventually

from smg_proto import common_pb2, vllm_engine_pb2_grpc
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import (
    Address,
    Answer,
    Call,
    FakeVllmEngine,
    Fault,
    run_vllm_engine,
    serve_vllm_engine,
)
from smg_proto.testing._tokenizer import tokenizer

Code = grpc.StatusCode
Stub = vllm_engine_pb2_grpc.VllmEngineStub


@pytest.fixture(scope="module")
def shared() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine() as address:
        yield address


@pytest.fixture
def address(shared: Address[FakeVllmEngine]) -> Address[FakeVllmEngine]:
    engine = shared.servicer
    engine.script.clear()
    engine.token_delay, engine.tokens_per_chunk, engine.healthy = 0.0, 1, True
    engine.profiler, engine.max_logprobs = False, 20
    return shared


@pytest.fixture
def engine(address: Address[FakeVllmEngine]) -> FakeVllmEngine:
    return address.servicer


@pytest.fixture(scope="module")
def channel(shared: Address[FakeVllmEngine]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared) as channel:
        yield channel


@pytest.fixture
def stub(address: Address[FakeVllmEngine], channel: grpc.Channel) -> Stub:
    return Stub(channel)


def request(text: str = "One contract", **fields: object) -> pb.GenerateRequest:
    stream = bool(fields.pop("stream", False))
    return pb.GenerateRequest(
        text=text,
        stream=stream,
        sampling_params=pb.SamplingParams(**fields),  # type: ignore[arg-type]
    )


def chunks_of(replies: list[pb.GenerateResponse], index: int = 0) -> list[pb.GenerateStreamChunk]:
    return [r.chunk for r in replies if r.HasField("chunk") and r.chunk.index == index]


def ends_of(replies: list[pb.GenerateResponse]) -> list[pb.GenerateComplete]:
    return [reply.complete for reply in replies if reply.HasField("complete")]


def status(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error = raised.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def test_stream_ends_with_a_complete_that_repeats_the_last_delta(
    stub: Stub, engine: FakeVllmEngine
) -> None:
    engine.tokens_per_chunk = 2
    replies = list(stub.Generate(request(stream=True, max_tokens=5)))
    chunks, (end,) = chunks_of(replies), ends_of(replies)
    assert [chunk.completion_tokens for chunk in chunks] == [2, 2, 1]
    assert all(len(chunk.token_ids) == chunk.completion_tokens for chunk in chunks)
    assert {chunk.prompt_tokens for chunk in chunks} == {len(tokenizer().encode("One contract"))}
    assert replies[-1].complete == end
    assert (end.output_ids, end.completion_tokens) == (chunks[-1].token_ids, 1)
    assert end.finish_reason == "length"


def test_without_stream_there_is_one_complete_per_choice_in_order(stub: Stub) -> None:
    ends = ends_of(list(stub.Generate(request(n=3))))
    assert [end.index for end in ends] == [0, 1, 2]
    assert all(end.completion_tokens == len(end.output_ids) for end in ends)
    assert len({tuple(end.output_ids) for end in ends}) > 1


PARAMETERS = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 30)},
    optional={
        "n": st.integers(1, 3),
        "seed": st.integers(-1, 9),
        "stop": st.lists(st.sampled_from(["a", " the", "é"]), max_size=2),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
        "top_k": st.integers(0, 3),
        "min_tokens": st.just(1),
    },
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(min_size=1, max_size=20), parameters=PARAMETERS)
def test_chunks_add_up_to_the_reply_without_stream(
    stub: Stub, text: str, parameters: dict[str, object]
) -> None:
    whole = ends_of(list(stub.Generate(request(text, **parameters))))
    replies = list(stub.Generate(request(text, stream=True, **parameters)))
    ends = {end.index: end for end in ends_of(replies)}
    assert set(ends) == {end.index for end in whole}
    for expected in whole:
        chunks = chunks_of(replies, expected.index)
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        assert tokens == list(expected.output_ids)
        end = ends[expected.index]
        assert end.finish_reason == expected.finish_reason
        assert end.WhichOneof("matched_stop") == expected.WhichOneof("matched_stop")
        logprobs = pb.OutputLogProbs()
        for chunk in chunks:
            logprobs.MergeFrom(chunk.output_logprobs)
        assert logprobs == expected.output_logprobs
        assert chunks[0].input_logprobs == expected.input_logprobs == end.input_logprobs
        assert not any(chunk.HasField("input_logprobs") for chunk in chunks[1:])


def test_choices_of_a_stream_interleave(stub: Stub) -> None:
    replies = list(stub.Generate(request(stream=True, n=2, max_tokens=3)))
    order = [reply.chunk.index for reply in replies if reply.HasField("chunk")]
    assert order == [0, 1, 0, 1, 0, 1]


def test_token_ids_contain_the_stop_and_the_stop_is_named(
    stub: Stub, engine: FakeVllmEngine
) -> None:
    for _ in range(3):
        engine.script.add(Answer("one two three four five"))
    (end,) = ends_of(list(stub.Generate(request(stop=["four"]))))
    assert tokenizer().decode(end.output_ids) == "one two three four"
    assert (end.finish_reason, end.matched_stop_str) == ("stop", "four")
    three = tokenizer().encode(" three")[0]
    (end,) = ends_of(list(stub.Generate(request(stop_token_ids=[three]))))
    assert tokenizer().decode(end.output_ids) == "one two three"
    assert (end.WhichOneof("matched_stop"), end.matched_token_id) == ("matched_token_id", three)
    (end,) = ends_of(list(stub.Generate(request())))
    assert (end.finish_reason, end.WhichOneof("matched_stop")) == ("stop", None)
    assert tokenizer().decode(end.output_ids[-1:], skip_special=False) == "<|end|>"


@pytest.mark.parametrize(("sent", "listed"), [(0, None), (1, 1), (3, 3), (-1, 0)])
def test_top_logprobs_layout(
    stub: Stub, engine: FakeVllmEngine, sent: int, listed: int | None
) -> None:
    engine.max_logprobs = -1  # or -1 is refused
    parameters = {"logprobs": sent, "prompt_logprobs": sent, "max_tokens": 6, "temperature": 2.0}
    (end,) = ends_of(list(stub.Generate(request("The gateway takes a", **parameters))))
    output, prompt = end.output_logprobs, end.input_logprobs
    assert list(output.token_ids) == list(end.output_ids)
    assert len(output.token_logprobs) == len(end.output_ids)
    assert all(value <= 0 for value in output.token_logprobs)
    assert list(prompt.token_ids) == tokenizer().encode("The gateway takes a")
    assert not prompt.token_logprobs[0].HasField("value")
    assert all(entry.HasField("value") for entry in prompt.token_logprobs[1:])
    if listed is None:
        assert not output.top_logprobs and not prompt.top_logprobs
        return
    assert len(output.top_logprobs) == len(output.token_ids)
    for token, value, top in zip(
        output.token_ids, output.token_logprobs, output.top_logprobs, strict=True
    ):
        assert len(top.token_ids) == len(top.values) <= listed
        assert listed == 0 or (top.token_ids[0], top.values[0]) == (token, value)
    assert len(prompt.top_logprobs) == len(prompt.token_ids)
    assert not prompt.top_logprobs[0].token_ids


REFUSED: list[dict[str, object]] = [
    {"temperature": 2.1},
    {"temperature": -0.1},
    {"top_p": 1.5},
    {"min_p": -0.1},
    {"frequency_penalty": 2.5},
    {"presence_penalty": -3},
    {"repetition_penalty": -1},
    {"max_tokens": 0},
    {"max_tokens": 2, "min_tokens": 3},
    {"logprobs": -2},
    {"logprobs": -1},
    {"prompt_logprobs": -1},
    {"logprobs": 21},
    {"n": 20_000},
    {"stop_token_ids": [99_999]},
    {"logit_bias": {99_999: 1.0}},
    {"logit_bias": {-1: 1.0}},
    {"prompt_logprobs": -2},
    {"stop": [""]},
    {"n": 2, "temperature": 0},
    {"json_schema": "{"},
    {"choice": pb.ChoiceConstraint()},
    {"json_object": False},
    {"text": ""},
    {"text": "word " * 3000},
]


@pytest.mark.parametrize("fields", REFUSED, ids=str)
def test_parameters_out_of_range_are_invalid(stub: Stub, fields: dict[str, object]) -> None:
    code, _ = status(lambda: list(stub.Generate(request(**fields))))  # type: ignore[arg-type]
    assert code == Code.INVALID_ARGUMENT


def test_bad_kv_json_rank_and_token_ids_are_invalid(stub: Stub) -> None:
    tokens = pb.TokenizedInput(input_ids=[99999])
    for bad in (
        pb.GenerateRequest(text="x", kv_transfer_params_json="[1"),
        pb.GenerateRequest(text="x", data_parallel_rank=3),
        pb.GenerateRequest(tokenized=tokens),
        pb.GenerateRequest(),
        pb.GenerateRequest(tokenized={"input_ids": [20]}, media_refs={"items": [{"url": "u"}]}),  # type: ignore[arg-type]
    ):
        assert status(lambda bad=bad: list(stub.Generate(bad)))[0] == Code.INVALID_ARGUMENT  # type: ignore[misc]


@pytest.mark.parametrize(
    "fields", [{"regex": "a+"}, {"grammar": "root ::= x"}, {"structural_tag": "{}"}], ids=str
)
def test_unsupported_features_are_unimplemented(stub: Stub, fields: dict[str, object]) -> None:
    assert status(lambda: list(stub.Generate(request("x", **fields))))[0] == Code.UNIMPLEMENTED


def test_supported_constraints(stub: Stub) -> None:
    schema = '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'
    for fields, text in (
        ({"json_schema": schema}, '{"n": 0}'),
        ({"json_object": True}, "{}"),
        ({"choice": pb.ChoiceConstraint(choices=["yes", "no"])}, "yes"),
    ):
        (end,) = ends_of(list(stub.Generate(request(**fields))))
        assert tokenizer().decode(end.output_ids) == text


def test_abort_ends_the_stream_with_ok_and_finish_reason_abort(
    stub: Stub, engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.01
    aborted = engine.record.counters.aborted
    call = stub.Generate(
        pb.GenerateRequest(text="x", stream=True, request_id="r1", sampling_params={"n": 2})  # type: ignore[arg-type]
    )
    replies = [next(call)]
    stub.Abort(pb.AbortRequest(request_ids=["r1", "unknown"]))
    replies += list(call)
    assert call.code() == Code.OK
    assert [end.finish_reason for end in ends_of(replies)] == ["abort", "abort"]
    assert not chunks_of(replies)[-1].token_ids
    assert engine.record.counters.aborted == aborted + 1


def test_abort_without_stream_returns_the_tokens_so_far(stub: Stub, engine: FakeVllmEngine) -> None:
    engine.token_delay = 0.01
    call = stub.Generate(
        pb.GenerateRequest(
            text="x", request_id="r2", sampling_params=pb.SamplingParams(ignore_eos=True)
        )
    )
    before = len(engine._meter.tokens)
    eventually(lambda: len(engine._meter.tokens) > before)
    stub.Abort(pb.AbortRequest(request_ids=["r2"]))
    (end,) = ends_of(list(call))
    assert end.finish_reason == "abort" and 0 < end.completion_tokens < 4000


def test_abort_without_stream_keeps_finished_choices(stub: Stub, engine: FakeVllmEngine) -> None:
    short = list(stub.Generate(request("Say", n=2, max_tokens=1, temperature=2)))
    firsts = [end.output_ids[0] for end in ends_of(short)]
    assert firsts[0] != firsts[1]
    engine.token_delay = 0.02
    parameters = pb.SamplingParams(n=2, temperature=2, ignore_eos=True, stop_token_ids=firsts[:1])
    call = stub.Generate(
        pb.GenerateRequest(text="Say", request_id="r3", sampling_params=parameters)
    )
    before = len(engine._meter.tokens)
    eventually(lambda: len(engine._meter.tokens) >= before + 3)  # so the first has ended
    stub.Abort(pb.AbortRequest(request_ids=["r3"]))
    assert [end.finish_reason for end in ends_of(list(call))] == ["stop", "abort"]


@pytest.mark.parametrize("deadline", [None, 2.0])
def test_cancel_and_deadline_end_the_request_and_are_counted(
    stub: Stub, engine: FakeVllmEngine, deadline: float | None
) -> None:
    engine.token_delay = 0.01
    cancelled = engine.record.counters.cancelled
    call = stub.Generate(request(stream=True, ignore_eos=True), timeout=deadline)
    next(call)
    if deadline is None:
        call.cancel()
    eventually(lambda: engine.record.counters.cancelled == cancelled + 1)
    eventually(lambda: not stub.GetLoads(pb.GetLoadsRequest()).loads[0].num_running_reqs)


def test_tokenizer_comes_in_chunks_with_the_digest_on_the_last(stub: Stub) -> None:
    chunks = list(stub.GetTokenizer(common_pb2.GetTokenizerRequest()))
    data = b"".join(chunk.data for chunk in chunks)
    assert len(chunks) > 1
    assert [chunk.sha256 for chunk in chunks[:-1]] == [""] * (len(chunks) - 1)
    assert chunks[-1].sha256 == hashlib.sha256(data).hexdigest()
    assert "tokenizer.json" in zipfile.ZipFile(io.BytesIO(data)).namelist()


def test_kv_events_send_headers_before_the_first_event(stub: Stub) -> None:
    call = stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), timeout=30)
    call.initial_metadata()  # waits for the headers, or for the end
    assert call.is_active()
    call.cancel()


def test_kv_events_are_stored_blocks_and_loads(stub: Stub) -> None:
    stub.FlushCache(common_pb2.FlushCacheRequest())
    call = stub.SubscribeKvEvents(
        common_pb2.SubscribeKvEventsRequest(load_records_before_first_batch=True), timeout=20
    )
    call.initial_metadata()
    text = "The gateway takes a request and hands it to a worker. " * 3
    prompt = tokenizer().encode(text)
    assert ends_of(list(stub.Generate(request(text))))[0].cached_tokens == 0
    stored = next(call)
    assert (stored.load.load_only, stored.load.HasField("waiting_uncached_tokens")) == (False, True)
    blocks = stored.events[0].stored.blocks
    cached = [token for block in blocks for token in block.token_ids]
    assert cached == prompt[: len(prompt) // 16 * 16]
    assert not stored.events[0].stored.HasField("parent_block_hash")
    again = ends_of(list(stub.Generate(request(text))))[0]
    assert again.cached_tokens == min(len(cached), len(prompt) - 1)
    longer = text + "One contract serves many clients in many languages. " * 3
    list(stub.Generate(request(longer)))
    more = next(call)
    assert more.sequence_number == stored.sequence_number + 1
    assert more.events[0].stored.parent_block_hash == blocks[-1].block_hash
    heartbeat = next(call)
    assert heartbeat.load.load_only and not heartbeat.events
    assert heartbeat.sequence_number == more.sequence_number
    assert heartbeat.load.sample == 3
    stub.FlushCache(common_pb2.FlushCacheRequest())
    assert next(call).events[0].HasField("cleared")
    call.cancel()


def test_kv_events_reject_a_cursor_and_can_be_disabled(stub: Stub) -> None:
    old = common_pb2.SubscribeKvEventsRequest(start_sequence_number=3)
    assert status(lambda: list(stub.SubscribeKvEvents(old)))[0] == Code.OUT_OF_RANGE
    with (
        run_vllm_engine(FakeVllmEngine(kv_events=False)) as other,
        grpc.insecure_channel(other) as channel,
    ):
        fresh = common_pb2.SubscribeKvEventsRequest()
        code, _ = status(lambda: list(Stub(channel).SubscribeKvEvents(fresh)))
        assert code == Code.UNIMPLEMENTED


def test_the_other_rpcs(stub: Stub, engine: FakeVllmEngine) -> None:
    info = stub.GetModelInfo(pb.GetModelInfoRequest())
    assert info.vocab_size == tokenizer().vocab_size and info.served_model_name == "demo-model"
    assert '"temperature"' in info.default_sampling_params_json
    server = stub.GetServerInfo(pb.GetServerInfoRequest())
    assert server.data_parallel_size == 1 and server.block_size == 16
    assert not server.server_type and not server.active_requests
    assert stub.HealthCheck(pb.HealthCheckRequest()).healthy
    engine.healthy = False
    sick = stub.HealthCheck(pb.HealthCheckRequest())
    assert (sick.healthy, sick.message) == (False, "Engine is not alive")
    tokens = pb.TokenizedInput(input_ids=[20, 30])
    embedded = stub.Embed(pb.EmbedRequest(tokenized=tokens))
    assert embedded.embedding_dim == len(embedded.embedding) and embedded.prompt_tokens == 2
    assert status(lambda: stub.Embed(pb.EmbedRequest()))[0] == Code.INVALID_ARGUMENT
    for profile in (
        lambda: stub.StartProfile(common_pb2.StartProfileRequest()),
        lambda: stub.StopProfile(common_pb2.StopProfileRequest()),
    ):
        assert status(profile)[0] == Code.INTERNAL  # vLLM without --profiler-config
    engine.profiler = True
    assert stub.StartProfile(common_pb2.StartProfileRequest()).success
    options = common_pb2.StartProfileRequest(num_steps=3)
    assert status(lambda: stub.StartProfile(options))[0] == Code.INVALID_ARGUMENT
    assert stub.StopProfile(common_pb2.StopProfileRequest()).success
    for bad in (-1, float("nan")):
        flush = common_pb2.FlushCacheRequest(timeout_s=bad)
        assert status(lambda f=flush: stub.FlushCache(f))[0] == Code.INVALID_ARGUMENT  # type: ignore[misc]


def test_the_cache_is_not_flushed_while_a_request_runs(stub: Stub, engine: FakeVllmEngine) -> None:
    engine.token_delay = 0.01
    call = stub.Generate(request(stream=True, ignore_eos=True))
    next(call)
    refusal = stub.FlushCache(common_pb2.FlushCacheRequest())
    assert not refusal.success and "requests may be in flight" in refusal.message
    patient = common_pb2.FlushCacheRequest(timeout_s=0.05)
    assert status(lambda: stub.FlushCache(patient))[0] == Code.DEADLINE_EXCEEDED
    waiting = stub.FlushCache.future(common_pb2.FlushCacheRequest(timeout_s=20))
    call.cancel()
    assert waiting.result().success


def test_an_idle_server_sends_no_load(engine: FakeVllmEngine) -> None:
    """Like the published one, which does not read what the subscriber could take."""
    sent = common_pb2.SubscribeKvEventsRequest(load_records_before_first_batch=True)
    with run_vllm_engine() as idle, grpc.insecure_channel(idle) as channel:
        call = Stub(channel).SubscribeKvEvents(sent, timeout=1.5)  # it is due after one second
        assert status(lambda: list(call))[0] == Code.DEADLINE_EXCEEDED


def test_only_the_first_end_token_is_not_reported(stub: Stub) -> None:
    """Further ones, of the generation config, are reported as if they had been asked for."""
    first, second = (tokenizer().encode(text)[0] for text in ("<|end|>", "<|im_end|>"))
    assert list(stub.GetModelInfo(pb.GetModelInfoRequest()).eos_token_ids) == [first]
    for token, matched in ((first, None), (second, "matched_token_id")):
        (end,) = ends_of(list(stub.Generate(request(logit_bias={token: 100.0}, temperature=0))))
        assert list(end.output_ids) == [token] and end.finish_reason == "stop"
        assert end.WhichOneof("matched_stop") == matched
    (end,) = ends_of(
        list(stub.Generate(request(logit_bias={second: 100.0}, ignore_eos=True, max_tokens=2)))
    )
    assert end.finish_reason == "length"


def test_negative_truncation_keeps_the_whole_prompt(stub: Stub) -> None:
    for cut, size in ((2, 2), (-1, 3), (-5, 3)):
        (end,) = ends_of(list(stub.Generate(request(truncate_prompt_tokens=cut))))
        assert end.prompt_tokens == size


def test_scripted_answers_are_used_in_order_for_matching_requests(
    stub: Stub, engine: FakeVllmEngine
) -> None:
    def text(reply: list[pb.GenerateResponse]) -> str:
        return tokenizer().decode(ends_of(reply)[0].output_ids)

    engine.script.add(Answer("first"))
    engine.script.add(Answer("for the other"), when=lambda r: "other" in str(r))
    engine.script.add(Answer(reasoning="hm", calls=[Call("f", '{"x": 1}')]))
    assert text(list(stub.Generate(request()))) == "first"
    assert "<tool_call>" in text(list(stub.Generate(request())))
    assert text(list(stub.Generate(request("the other")))) == "for the other"
    engine.script.add(Answer("x", finish_reason="error"))
    assert ends_of(list(stub.Generate(request())))[0].finish_reason == "error"


def test_faults_apply_at_the_given_message(stub: Stub, engine: FakeVllmEngine) -> None:
    before = astuple(engine.record.counters)
    engine.script.add(Fault(Code.UNAVAILABLE, "gone", after=2))
    call = stub.Generate(request(stream=True))
    assert [next(call).HasField("chunk") for _ in range(2)] == [True, True]
    assert status(lambda: next(call)) == (Code.UNAVAILABLE, "gone")
    engine.script.add(Fault.cut(after=1))
    replies = list(stub.Generate(request(stream=True)))
    assert len(replies) == 1 and not ends_of(replies)
    engine.script.add(Fault(Code.INTERNAL), rpc="HealthCheck")
    assert stub.GetModelInfo(pb.GetModelInfoRequest()).is_generation
    assert status(lambda: stub.HealthCheck(pb.HealthCheckRequest()))[0] == Code.INTERNAL
    engine.script.add(Fault(delay=300))
    assert status(lambda: list(stub.Generate(request(), timeout=2)))[0] == Code.DEADLINE_EXCEEDED
    eventually(lambda: engine.record.counters.running == 0)
    after = engine.record.counters
    assert after.failed == before[2] + 2 and after.cancelled == before[4] + 1


def test_requests_and_metadata_are_recorded(stub: Stub, engine: FakeVllmEngine) -> None:
    list(stub.Generate(request("remember me"), metadata=(("x-test", "1"),)))
    last = engine.record.received[-1]
    assert last.rpc == "Generate"
    assert isinstance(last.request, pb.GenerateRequest) and last.request.text == "remember me"
    assert ("x-test", "1") in last.metadata


async def test_it_also_runs_in_the_callers_event_loop() -> None:
    async with (
        serve_vllm_engine() as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = Stub(channel)

        async def one() -> int:
            return len([reply async for reply in stub.Generate(request(stream=True))])

        assert all(count > 1 for count in await asyncio.gather(*(one() for _ in range(20))))
        assert address.servicer.record.counters.finished == 20
