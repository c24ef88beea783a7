"""The ten defects of the known client of this shape.

Each check is also run against the naive way, and must find it wrong there.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import grpc
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from vllm_kit import Both, ScriptedEngine, chunk, complete, sent, text_of, used

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine
from smg_proto.vllm import (
    ChoiceConstraint,
    Completion,
    CompletionChoice,
    StructuredOutputs,
    Timeout,
    TokenDecoder,
    VLLMGrpcClosedError,
    VLLMGrpcTimeoutError,
    VLLMGrpcValidationError,
)

Messages = Sequence[pb.GenerateResponse]


def fails(check: Callable[[], None]) -> bool:
    try:
        check()
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


# The answer to a prompt of 9 tokens as the published server streams it: the end repeats.
REPEATING = [chunk(319, 408), chunk(438), complete(438, finish_reason="stop")]
TRUTH = [319, 408, 438]


class Naive:
    """The known client's ways, as far as the checks below look at them."""

    @staticmethod
    def deltas(messages: Messages) -> Iterator[list[int]]:
        for message in messages:
            which = message.WhichOneof("response")
            yield list(message.chunk.token_ids if which == "chunk" else message.complete.output_ids)

    @staticmethod
    def unstreamed(messages: Messages) -> Completion:
        last = messages[-1].complete
        choice = CompletionChoice(index=last.index, token_ids=list(last.output_ids))
        return Completion(choices=[choice])

    @staticmethod
    def stream_indexes(messages: Messages) -> list[int]:
        return [0 for _ in messages]

    @staticmethod
    def text(decoder: TokenDecoder, deltas: Sequence[Sequence[int]]) -> str:
        return "".join(decoder.decode(delta) for delta in deltas)

    @staticmethod
    def constraint(**given: Any) -> pb.SamplingParams:
        wire = pb.SamplingParams()
        for name, value in given.items():
            if isinstance(value, ChoiceConstraint):
                wire.choice.choices.extend(value.choices)
            elif value:
                setattr(wire, name, value)
                break
        return wire

    @staticmethod
    def request(prompt: object) -> pb.GenerateRequest:
        request = pb.GenerateRequest()
        if isinstance(prompt, str):
            request.text = prompt
        elif isinstance(prompt, list):
            request.tokenized.input_ids.extend(prompt)
        return request


def test_1_a_stream_brings_every_token_once(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = REPEATING

    def check(deltas: list[list[int]], counted: int) -> None:
        assert [token for delta in deltas for token in delta] == TRUTH
        assert counted == len(TRUTH)

    chunks = both.chunks(scripted_client, prompt="x")
    final = both.final(scripted_client, prompt="x")
    check([c.choices[0].delta_token_ids for c in chunks], used(final).completion_tokens)
    assert final.choices[0].token_ids == TRUTH
    assert final.choices[0].finish_reason == "stop"
    assert used(final).prompt_tokens == 9
    naive = list(Naive.deltas(REPEATING))
    assert fails(lambda: check(naive, sum(map(len, naive))))


def test_2_every_one_of_n_choices_comes_back(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    ends = [complete(10 + i, index=i) for i in range(3)]

    def check(completion: Completion) -> None:
        assert [(c.index, c.token_ids) for c in completion.choices] == [
            (0, [10]),
            (1, [11]),
            (2, [12]),
        ]

    scripted.messages = ends
    check(both.create(scripted_client, prompt="x", n=3))
    assert fails(lambda: check(Naive.unstreamed(ends)))

    mixed = [
        chunk(1, index=2), chunk(2, index=0), chunk(3, index=1), chunk(4, index=2),
        complete(4, index=2), complete(2, index=0, finish_reason="length"), complete(3, index=1),
    ]  # fmt: skip
    scripted.messages = mixed

    def check_indexes(indexes: list[int]) -> None:
        assert indexes == [2, 0, 1, 2, 2, 0, 1]

    chunks = both.chunks(scripted_client, prompt="x", n=3)
    check_indexes([c.choices[0].index for c in chunks])
    assert fails(lambda: check_indexes(Naive.stream_indexes(mixed)))
    final = both.final(scripted_client, prompt="x", n=3)
    assert [c.token_ids for c in final.choices] == [[2], [3], [1, 4]]
    assert [c.finish_reason for c in final.choices] == ["length", "stop", "stop"]
    assert used(final).completion_tokens == 4 and used(final).prompt_tokens == 9


def byte_level() -> TokenDecoder:
    """Every byte a token: characters beyond ASCII span several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenDecoder(tokenizer)


def word_start(words: Sequence[str]) -> TokenDecoder:
    """Metaspace, as of Llama: a blank is part of the word after it, and the first is dropped."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\\S+"), "isolated")
    tokenizer.decoder = decoders.Metaspace()
    return TokenDecoder(tokenizer)


def test_3_text_of_deltas_is_the_text_of_all_tokens(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    def check(text: str, expected: str) -> None:
        assert text == expected

    def by_chunk(decoder: TokenDecoder, ids: list[int]) -> str:
        scripted.messages = [*(chunk(i) for i in ids), complete(ids[-1], finish_reason="length")]
        chunks = both.chunks(scripted_client, prompt=[ids[0]])
        return "".join(decoder.decode_chunk(c) for c in chunks)

    split = "héllo 👍 日本"
    decoder = byte_level()
    ids = decoder.encode(split)
    assert len(ids) > len(split)
    check(by_chunk(decoder, ids), split)
    assert fails(lambda: check(Naive.text(decoder, [[i] for i in ids]), split))

    words = word_start(["<unk>", "\u2581Hello", "\u2581world", "!"])
    check(by_chunk(words, [1, 2, 3]), " Hello world!")  # after a prompt, which has ended in a word
    assert fails(lambda: check(Naive.text(words, [[1], [2], [3]]), " Hello world!"))


def test_4_a_long_healthy_stream_is_not_killed_by_the_timeout(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    scripted.messages = [*(chunk(i) for i in range(24)), complete(23)]
    scripted.pause = lambda number: 0.1
    client = both.make(scripted_server, timeout=2)
    assert len(both.chunks(client, prompt="x")) == 25  # 2.5 s in all

    naive = pb.GenerateRequest(text="x", stream=True)
    with grpc.insecure_channel(scripted_server) as channel:
        call = channel.unary_stream(
            "/vllm.grpc.engine.VllmEngine/Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )(naive, timeout=0.4)
        with pytest.raises(grpc.RpcError):
            list(call)

    with pytest.raises(VLLMGrpcValidationError, match="timeout: must be above 0"):
        both.create(client, prompt="x", timeout=0)
    whole = Timeout(stream=0.4)
    with pytest.raises(VLLMGrpcTimeoutError):
        both.chunks(client, prompt="x", timeout=whole)


TWO = {"json_schema": '{"type":"object"}', "regex": "a+"}
EMPTY: list[dict[str, Any]] = [
    {},
    {"json_object": False},
    {"regex": ""},
    {"choice": []},
    {"choice": ChoiceConstraint(choices=[])},
]


def test_5_two_constraints_or_empty_ones_are_refused(both: Both, client: Any) -> None:
    def check(build: Callable[..., Any], given: dict[str, Any]) -> None:
        with pytest.raises(VLLMGrpcValidationError, match="structured_outputs"):
            build(**given)

    for given in (TWO, *EMPTY):
        check(StructuredOutputs, given)
        assert fails(partial(check, Naive.constraint, given))


def test_6_model_and_text_are_filled(
    both: Both, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    client = both.make(address, decoder=decoder)
    prompt = "the quick brown"

    def check(completion: Completion) -> None:
        assert completion.model == address.servicer.name
        assert completion.choices[0].text
        assert completion.choices[0].text == decoder.decode(completion.choices[0].token_ids)

    completion = both.create(client, prompt=prompt, max_tokens=6)
    check(completion)
    assert fails(lambda: check(Naive.unstreamed([pb.GenerateResponse(complete=completion.raw[0])])))
    chunks = both.chunks(client, prompt=prompt, max_tokens=6)
    assert text_of(chunks) == completion.choices[0].text
    assert {c.model for c in chunks} == {address.servicer.name}


@pytest.mark.parametrize("prompt", [(5, 6, 7), range(5, 8), [5, 6, 7]])
def test_7_a_prompt_is_sent_or_refused_never_lost(
    prompt: Any, both: Both, client: Any, address: Address[FakeVllmEngine]
) -> None:
    def check(request: pb.GenerateRequest) -> None:
        assert list(request.tokenized.input_ids) == [5, 6, 7]

    both.create(client, prompt=prompt, max_tokens=1)
    check(sent(address.servicer))
    assert fails(lambda: check(Naive.request((5, 6, 7))))
    for wrong in (b"bytes", 7, None, {"text": "x"}, object(), [1.5], [True], [-1], [[1], []]):
        with pytest.raises(VLLMGrpcValidationError, match=r"^prompt"):
            both.create(client, prompt=wrong, max_tokens=1)


def test_7_text_is_never_embedded_as_nothing(
    both: Both, client: Any, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    with pytest.raises(VLLMGrpcValidationError, match="input: the server embeds only token ids"):
        both.run(client.with_options(decoder=None).embeddings.create(input="some text"))
    for able in (client, client.with_options(decoder=decoder)):
        for several in ("some text", ["some text"]):
            response = both.run(able.embeddings.create(input=several))
            assert response.usage.prompt_tokens == len(decoder.encode("some text")) > 0


def test_8_a_closed_client_says_so(both: Both, address: Address[FakeVllmEngine]) -> None:
    client = both.make(address)
    both.create(client, prompt="x", max_tokens=1)
    both.run(client.close())
    assert client.is_closed

    def check(call: Callable[[], object]) -> None:
        try:
            call()
        except VLLMGrpcClosedError as error:
            assert "create a new one" in str(error)
        except Exception as error:
            pytest.fail(f"a bare {type(error).__name__}")
        else:
            pytest.fail("it went through")

    check(lambda: both.create(client, prompt="x"))
    check(lambda: both.stream(client, prompt="x"))
    check(lambda: both.run(client.health.check()))
    check(lambda: both.run(client.is_healthy()))
    channel = grpc.insecure_channel(address)
    channel.close()
    bare: Any = channel.unary_unary("/vllm.grpc.engine.VllmEngine/HealthCheck")
    assert fails(lambda: check(lambda: bare(b"")))


def test_8_a_closed_client_asks_for_no_token(both: Both, address: Address[FakeVllmEngine]) -> None:
    asked = list[str]()

    def token() -> str:
        asked.append("")
        return "secret"

    client = both.make(address, token=token)
    both.run(client.close())
    calls: list[Callable[[], Any]] = [
        lambda: client.completions.create(prompt="x"),
        lambda: client.completions.create(prompt="x", stream=True),
        lambda: client.health.check(),
        lambda: client.tokenizer.download(),
    ]
    for call in calls:
        with pytest.raises(VLLMGrpcClosedError):
            both.run(call())
    assert not asked


def test_8_leaving_a_stream_ends_the_request_at_once(
    both: Both, client: Any, address: Address[FakeVllmEngine]
) -> None:
    engine = address.servicer
    engine.token_delay = 0.02
    before = engine.record.counters.cancelled
    stream = both.stream(client, prompt="x", max_tokens=1000)
    both.each(stream, lambda _: True)
    # `stream` is still referred to here: nothing is left to the garbage collector.
    both.eventually(lambda: engine.record.counters.cancelled == before + 1)
    both.eventually(lambda: engine.record.counters.running == 0)
    assert stream.request_id


def test_9_nothing_that_the_server_tells_is_dropped(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    logprobs = pb.OutputLogProbs(
        token_logprobs=[-0.5],
        token_ids=[7],
        top_logprobs=[pb.TopLogProbs(values=[-0.5, -1.5], token_ids=[7, 0])],
    )
    inputs = pb.InputLogProbs(
        token_logprobs=[pb.InputTokenLogProb(), pb.InputTokenLogProb(value=-2.0)],
        token_ids=[3, 4],
        top_logprobs=[pb.TopLogProbs(), pb.TopLogProbs(values=[-2.0], token_ids=[4])],
    )
    end = complete(
        7, output_logprobs=logprobs, input_logprobs=inputs, matched_token_id=0,
        kv_transfer_params_json='{"remote":1}', cached_tokens=4,
        spec_accepted_tokens=3, spec_draft_tokens=5,
    )  # fmt: skip
    scripted.messages = [end]
    got = both.create(scripted_client, prompt="x", logprobs=2, decoder=None)
    scripted.messages = [
        chunk(7, output_logprobs=logprobs, input_logprobs=inputs, cached_tokens=4),
        end,
    ]
    streamed = both.final(scripted_client, prompt="x", logprobs=2, decoder=None)

    def check(completion: Completion) -> None:
        (choice,) = completion.choices
        assert choice.stop_reason == 0
        assert choice.logprobs is not None and choice.prompt_logprobs is not None
        assert choice.logprobs.token_logprobs == [-0.5]
        assert choice.logprobs.top_ids == [{7: -0.5, 0: -1.5}]
        assert choice.logprobs.top_logprobs == [{"token_id:7": -0.5, "token_id:0": -1.5}]
        assert choice.prompt_logprobs.token_logprobs == [None, -2.0]
        assert choice.kv_transfer_params == {"remote": 1}
        usage = completion.usage
        assert usage is not None and usage.prompt_tokens_details.cached_tokens == 4
        details = usage.completion_tokens_details
        assert details is not None
        assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (3, 2)

    check(got)
    check(streamed)
    naive = Completion(choices=[{"token_ids": [7]}])  # type: ignore[list-item]
    assert fails(lambda: check(naive))


def test_9_server_info_does_not_show_zeros_for_what_nobody_filled(both: Both, client: Any) -> None:
    info = both.run(client.health.server_info())
    assert info.active_requests is None and info.uptime_seconds is None
    assert info.server_type is None
    assert info.max_num_seqs > 0
    assert both.run(client.loads.retrieve()).active_requests == 0


def test_10_the_client_shares_a_process_with_another_copy_of_the_contract() -> None:
    """The naive way registers the same symbols under a file name of its own, and cannot."""
    program = """
from google.protobuf import descriptor_pb2, descriptor_pool
import smg_proto.vllm
from smg_proto import vllm_engine_pb2 as ours
proto = descriptor_pb2.FileDescriptorProto()
ours.DESCRIPTOR.CopyToProto(proto)
pool = descriptor_pool.Default()
pool.Add(proto) if hasattr(pool, "Add") else pool.AddSerializedFile(proto.SerializeToString())
pool.AddSerializedFile(ours.DESCRIPTOR.serialized_pb)
import smg_grpc_proto.vllm_engine_pb2 as drop_in
assert drop_in is ours or drop_in.GenerateRequest is ours.GenerateRequest
proto.name = "vllm_engine.proto"
try:
    pool.AddSerializedFile(proto.SerializeToString())
except TypeError:
    print("naive fails")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "naive fails"


def test_unnamed_client_side_validation(both: Both, client: Any) -> None:

    with pytest.raises(VLLMGrpcValidationError, match="temperature") as caught:
        both.create(client, prompt="x", temperature=-5)
    assert caught.value.param == "temperature"
