"""What messages of a server add up to: usage, logprobs, the parts of a stream."""

from typing import Any

import pytest
from vllm_inference import InferenceEngine
from vllm_kit import Both, ScriptedEngine, chunk, complete, used

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine, run_vllm_engine
from smg_proto.testing._tokenizer import tokenizer
from smg_proto.vllm import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    TokenDecoder,
    VLLMGrpcInternalError,
)

SPECIAL = 1  # a token whose text is omitted by default


def output_logprobs(*ids: int, tops: int = 0) -> pb.OutputLogProbs:
    made = pb.OutputLogProbs(token_ids=ids, token_logprobs=[-0.5] * len(ids))
    for token in ids if tops else ():
        values = [-0.5 - n for n in range(tops)]
        made.top_logprobs.add(token_ids=[token, token + 1][:tops], values=values)
    return made


def test_the_usage_of_several_prompts_is_their_sum(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [
        chunk(5),
        complete(5, cached_tokens=3, spec_accepted_tokens=2, spec_draft_tokens=5),
    ]
    sent: dict[str, Any] = {"prompt": [[1], [2], [3]]}
    for found in (
        both.create(scripted_client, **sent),
        both.final(scripted_client, **sent),
    ):
        usage = used(found)
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (27, 3, 30)
        assert usage.cached_tokens == usage.prompt_tokens_details.cached_tokens == 9
        assert usage.completion_tokens_details is not None
        assert usage.completion_tokens_details.accepted_prediction_tokens == 6
        assert usage.completion_tokens_details.rejected_prediction_tokens == 9


def test_counts_that_only_the_last_message_has_are_taken_from_it(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    bare = pb.GenerateResponse(chunk=pb.GenerateStreamChunk(token_ids=[5]))
    scripted.messages = [bare, complete(5, cached_tokens=4)]
    usage = used(both.create(scripted_client, prompt=[1]))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (9, 1, 4)


def test_tokens_of_logprobs_have_their_text(
    both: Both, scripted: ScriptedEngine, scripted_client: Any, decoder: TokenDecoder
) -> None:
    """Special tokens too, and the tokens of the prompt."""
    name = tokenizer().decode([SPECIAL], skip_special=False)
    word = tokenizer().decode([300])
    assert name and word and not tokenizer().decode([SPECIAL])
    before = pb.InputLogProbs(token_ids=[300, SPECIAL])
    before.token_logprobs.add()
    before.token_logprobs.add(value=-1.5)
    logprobs = output_logprobs(300, SPECIAL, tops=1)
    scripted.messages = [
        chunk(300, SPECIAL, output_logprobs=logprobs, input_logprobs=before),
        complete(300, SPECIAL),
    ]
    for decoding, expected in (
        (decoder, [word, name]),
        (None, ["token_id:300", f"token_id:{SPECIAL}"]),
    ):
        choice = both.create(scripted_client, prompt=[1], decoder=decoding).choices[0]
        assert choice.logprobs is not None and choice.prompt_logprobs is not None
        assert choice.logprobs.tokens == expected
        assert choice.logprobs.top_logprobs == [{one: -0.5} for one in expected]
        assert choice.prompt_logprobs.tokens == expected
        assert choice.prompt_logprobs.token_logprobs == [None, -1.5]


def test_candidates_without_values_are_left_out(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    logprobs = output_logprobs(300)
    logprobs.top_logprobs.add(token_ids=[300, 301], values=[-0.5])
    scripted.messages = [complete(300, output_logprobs=logprobs)]
    choice = both.create(scripted_client, prompt=[1]).choices[0]
    assert choice.logprobs is not None and choice.logprobs.top_ids == [{300: -0.5}]


def test_a_reply_that_breaks_the_contract_has_a_code(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(5)]
    for prompt, request_id in (([1], "mine"), ([[1], [2]], "mine-0")):
        sent: dict[str, Any] = {"prompt": prompt, "request_id": "mine"}
        for read in (both.create, both.final):
            with pytest.raises(VLLMGrpcInternalError, match="without ending choice 0") as caught:
                read(scripted_client, **sent)
            assert caught.value.code == "INTERNAL"
            assert str(caught.value.request_id).startswith(request_id[:-1])


def test_the_chunk_of_the_usage_has_no_message(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(5), complete(5)]
    options = {"include_usage": True}
    *parts, last = both.chunks(scripted_client, prompt=[1], stream_options=options)
    assert [part.raw for part in parts] == scripted.messages
    assert last.raw is None and last.choices == [] and used(last).total_tokens == 10


def test_the_text_of_an_embedded_prompt_is_sent_too(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    both.run(client.embeddings.create(input="the quick brown"))
    (request,) = (one.request for one in engine.record.received if one.rpc == "Embed")
    assert isinstance(request, pb.EmbedRequest)
    assert request.tokenized.original_text == "the quick brown"
    assert list(request.tokenized.input_ids) == tokenizer().encode("the quick brown")


def test_the_last_message_of_vllms_own_protocol_is_one_chunk(
    both: Both, decoder: TokenDecoder
) -> None:
    """It has tokens and the end of its choice, which are two messages in the other protocol."""

    class OneMessage(InferenceEngine):
        at_end = True

    sent: dict[str, Any] = {"prompt": "The quick brown", "max_tokens": 30}
    with run_vllm_engine(OneMessage(decoder)) as address:
        client = both.make(address, protocol="inference")
        sent["stop"] = (both.create(client, **sent).choices[0].text or "").split()[3]
        chunks = both.chunks(client, **sent)
        whole = both.create(client, **sent).choices[0]
        ends = [c.choices[0].finish_reason for c in chunks]
        assert ends == [None] * (len(ends) - 1) + ["stop"]
        last = chunks[-1].choices[0]
        assert last.token_ids and last.stop_reason == whole.stop_reason == sent["stop"]
        assert "".join(c.choices[0].text or "" for c in chunks) == whole.text
        assert [t for c in chunks for t in c.choices[0].token_ids] == whole.token_ids


def test_results_are_whole_objects_of_pydantic(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    scripted.messages = [chunk(5), complete(5)]
    whole = both.create(scripted_client, prompt=[1])
    results: list[Completion | CompletionChunk] = [whole]
    for one in [*results, *both.chunks(scripted_client, prompt=[1])]:
        for part in (one, *one.choices):
            assert part.model_extra is None
            assert part.model_fields_set == set(type(part).model_fields)
        assert one.model_dump(exclude_unset=True) == one.model_dump()
        assert one.model_copy() == one and type(one).model_validate(one.model_dump())


def test_engines_without_a_decoder_give_ids(both: Both, address: Address[FakeVllmEngine]) -> None:
    found = both.create(both.make(address, decoder=None), prompt=[5], max_tokens=2, logprobs=1)
    (choice,) = found.choices
    assert choice.text is None and choice.logprobs is not None
    assert choice.logprobs.tokens == [f"token_id:{token}" for token in choice.token_ids]
    assert choice.logprobs.text_offset == []


A, B, C = (tokenizer().encode(word)[0] for word in ("one", " two", " three"))
ENDS: dict[str, tuple[list[int], dict[str, Any], str]] = {
    "a stop token that did not stop": ([A, B, C], {"finish_reason": "length"}, "one two three"),
    "a stop token": ([A, C, B], {"matched_token_id": B}, "one three"),
    "an end token": ([A, B, C], {}, "one two"),
    "a stop string": ([A, B, C], {"matched_stop_str": "thr"}, "one two "),
}


@pytest.mark.parametrize(
    ("ids", "end", "text", "streamed"),
    # Nothing but the last message says that a token was an end token, so a stream has its text.
    [(*end, False) for end in ENDS.values()] + [(*end, True) for end in ENDS.values() if end[1]],
)
def test_logprobs_do_not_change_the_text(
    both: Both, scripted: ScriptedEngine, decoder: TokenDecoder,
    scripted_server: Address[FakeVllmEngine], ids: list[int], end: dict[str, Any], text: str,
    streamed: bool,
) -> None:  # fmt: skip
    """And each token has its place in it, also one that may end the choice."""
    client = both.make(scripted_server, decoder=decoder)
    offsets = [len(tokenizer().decode(ids[:place])) for place in range(len(ids))]
    for logprobs in (None, output_logprobs(*ids)):
        last = complete(*ids, output_logprobs=logprobs, **end)
        scripted.messages = [chunk(*ids, output_logprobs=logprobs), last] if streamed else [last]
        choice = both.create(client, prompt=[1], stop_token_ids=[B], stop="thr").choices[0]
        assert choice.text == text
        assert (choice.logprobs is None) == (logprobs is None)
        assert choice.logprobs is None or choice.logprobs.text_offset == offsets


def test_text_with_logprobs_is_not_late(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    ids = [A, B, C]
    end = complete(*ids, finish_reason="length")
    scripted.messages = [chunk(*ids, output_logprobs=output_logprobs(*ids)), end]
    first, _ = both.chunks(scripted_client, prompt=[1])
    assert first.choices[0].text == "one two three"


def test_the_token_that_ended_a_choice_has_no_text(decoder: TokenDecoder) -> None:
    """Whichever it is: a server may have end tokens that its tokenizer does not name."""
    ids = decoder.encode("one two three")
    for reason, text in (("stop", "one two"), ("length", "one two three")):
        choice = CompletionChoice(token_ids=ids, finish_reason=reason)
        assert decoder.decode_completion(Completion(choices=[choice])) == text
