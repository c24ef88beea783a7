"""Token ids to text: incremental decoding, stops, bundles."""

import copy
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from vllm_kit import Both, ScriptedEngine, chunk, complete, sent, text_of

from smg_proto._tokens.text import CallerDecoding, ServedText, TextPlan
from smg_proto.testing import Address, Answer, FakeVllmEngine
from smg_proto.vllm import Completion, CompletionChoice, CompletionChunk, TokenDecoder


def byte_level() -> TokenDecoder:
    """Bytes, a few longer pieces, special and added tokens, as of GPT-2 and its kin."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)}
    for piece in ("Ġt", "Ġth", "he", "ll"):
        vocabulary[piece] = len(vocabulary)
    merges = [("Ġ", "t"), ("Ġt", "h"), ("h", "e"), ("l", "l")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return TokenDecoder(tokenizer)


def byte_fallback() -> TokenDecoder:
    """Metaspace with bytes for what it does not know, as of Llama."""
    words = ["<unk>", "▁Hello", "▁world", "!", "▁", "lo", "é"]
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["</s>"])
    return TokenDecoder(tokenizer)


def word_piece() -> TokenDecoder:
    words = ["[UNK]", "hello", "world", "##ly", "!", "."]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\\s+"), "removed")
    tokenizer.decoder = decoders.WordPiece()
    return TokenDecoder(tokenizer)


ALL = {"byte level": byte_level(), "byte fallback": byte_fallback(), "word piece": word_piece()}


def joined(decoder: TokenDecoder, parts: Sequence[Sequence[int]], skip: bool = True) -> str:
    step = decoder.incremental(skip)
    return "".join([step.feed(part) for part in parts] + [step.flush()])


def split(ids: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for size in sizes:
        yield ids[start : start + size]
        start += size
    yield ids[start:]


def test_characters_of_many_tokens_never_end_where_a_chunk_does() -> None:
    decoder = ALL["byte fallback"]
    text = "0" + "\U00010000" * 100
    ids = decoder.encode(text)
    assert len(ids) > 400
    chunks = [ids[start : start + 16] for start in range(0, len(ids), 16)]
    assert all(len(part) == 16 for part in chunks[:-1])
    assert joined(decoder, chunks) == text


@pytest.mark.parametrize("name", ["byte level", "byte fallback"])
@given(text=st.text(max_size=80), sizes=st.lists(st.integers(0, 5)), skip=st.booleans())
@settings(max_examples=60, deadline=None)
def test_deltas_of_any_text_join_to_that_text(
    name: str, text: str, sizes: list[int], skip: bool
) -> None:
    decoder = ALL[name]
    ids = decoder.encode(text)
    assert joined(decoder, list(split(ids, sizes)), skip) == decoder.decode(ids, skip)


@pytest.mark.parametrize("name", ["byte level", "word piece"])
@given(data=st.data(), sizes=st.lists(st.integers(0, 5)))
@settings(max_examples=60, deadline=None)
def test_deltas_of_any_tokens_join_to_their_text(
    name: str, data: st.DataObject, sizes: list[int]
) -> None:
    """Also of tokens that are no text, as a model may make."""
    decoder = ALL[name]
    size = decoder.tokenizer.get_vocab_size()  # type: ignore[attr-defined]
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=60))
    assert joined(decoder, list(split(ids, sizes))) == decoder.decode(ids)


@pytest.mark.parametrize("text", ["héllo 👍 日本", "Hello world! Hello", "日本" * 40, "é" * 100])
@pytest.mark.parametrize("name", ["byte level", "byte fallback"])
def test_characters_come_whole_and_as_soon_as_they_can(name: str, text: str) -> None:
    decoder = ALL[name]
    step = decoder.incremental()
    deltas = [step.feed([token]) for token in decoder.encode(text)]
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize("at_once", [1, 7, 500])
def test_bytes_that_are_no_text_come_with_the_next_that_are(at_once: int) -> None:
    """Like vLLM: nothing is given out while the end may still become a character."""
    decoder = byte_fallback()
    step = decoder.incremental()
    broken = decoder.tokenizer.token_to_id("<0xFF>")  # type: ignore[attr-defined]
    given = [step.feed(part) for part in split([broken] * 500, [at_once] * (500 // at_once))]
    assert set(given) == {""}
    assert len(step._window) < 150  # or each further token would cost more than the one before
    assert step.feed(decoder.encode("Hello")) == "\ufffd" * 500 + " Hello"


def test_the_last_tokens_are_decoded_together() -> None:
    """Few of them, or a long text would take longer for each token."""
    step = ALL["byte level"].incremental()
    sizes = [len(step._window) for token in [0] * 20 if step.feed([token])]
    assert sizes == [*range(1, 13), 6, *range(7, 13), 6]


def test_special_tokens_are_left_out_or_shown(decoder: TokenDecoder) -> None:
    local = byte_level()
    end = local.encode("<end>")
    assert local.decode(end) == local.incremental().feed(end) == ""
    ids = [*local.encode("he"), local.encode("<end>")[0], local.encode("<think>")[0]]
    assert joined(local, [[i] for i in ids]) == "he<think>"
    assert joined(local, [[i] for i in ids], skip=False) == "he<end><think>"
    assert decoder.decode(decoder.encode("the quick")) == "the quick"


def test_a_blank_after_the_prompt_is_kept() -> None:
    """Decoded alone, "▁world" loses its blank; after a prompt it must not."""
    local = byte_fallback()
    prompt, word = local.encode("Hello"), [2]
    assert local.decode(word) == "world"
    step = local.incremental(before=prompt)
    assert step.feed(word) == " world"


def cut(parts: Sequence[Sequence[int]], end: int | str | None, **plan: Any) -> list[str]:
    reason = plan.pop("reason", "length" if end is None else "stop")
    text = TextPlan(**plan).new(ALL["byte level"])
    return [*(text.feed(part) for part in parts), text.finish(reason, end)]


def tokens(text: str) -> list[Sequence[int]]:
    return [[i] for i in ALL["byte level"].encode(text)]


def test_text_is_cut_at_the_stop_string_and_nothing_of_it_leaks_out() -> None:
    requested: dict[str, Any] = {"stop": ["three", "zzz"]}
    deltas = cut(tokens("one two three"), "three", **requested)
    assert "".join(deltas) == "one two " == "".join(deltas[:-1])
    assert "".join(cut(tokens("one two three"), "three", **requested, keep_stop=True)).endswith(
        "three"
    )
    # Several tokens at once, with text after the stop.
    inside = cut([ALL["byte level"].encode("one two three four")], "wo th", stop=["wo th"])
    assert "".join(inside) == "one t"


def test_what_only_looks_like_a_stop_is_given_out() -> None:
    assert "".join(cut(tokens("a thr b"), None, stop=["three"])) == "a thr b"
    assert "".join(cut(tokens("a thr"), None, stop=["three"])) == "a thr"
    # The server goes on after a stop string while min_tokens is not reached.
    deltas = cut(tokens("a stop b stop"), "stop", stop=["stop"])
    assert "".join(deltas) == "a stop b "
    assert "".join(cut(tokens("aab"), "ab", stop=["ab"])) == "a"


def test_what_the_server_went_on_after_is_given_out_at_once() -> None:
    decoder = ALL["byte level"]
    text = TextPlan(stop=["stop"]).new(decoder)
    parts = [*tokens("stopx"), *tokens("stop"), decoder.encode("👍")[:1]]
    deltas = [text.feed(part) for part in parts]
    assert [delta for delta in deltas if delta] == ["stopx", "stop"]
    assert deltas[-1] == "stop"


def test_stops_that_may_have_no_effect_are_looked_for_token_by_token() -> None:
    """The first of two that arrive together had none, or the server would not have sent both."""
    both = [ALL["byte level"].encode("a") * 2]
    assert "".join(cut(both, "a", stop=["a"], by_token=True)) == "a"
    text = TextPlan(by_token=True).new(ALL["byte level"])
    assert (text.feed(*both, hold=True), text.finish("stop", None)) == ("a", "")


def test_a_token_that_did_not_end_the_choice_can_be_had_before_the_next() -> None:
    decoder = ALL["byte level"]
    text = TextPlan(skip_special_tokens=False).new(decoder)
    assert text.release() == text.feed(decoder.encode("<end>")) == ""
    assert (text.release(), text.release()) == ("<end>", "")
    assert (text.feed(decoder.encode("a")), text.length) == ("a", 6)


def test_text_of_the_server_is_given_out_once() -> None:
    text = ServedText()
    text.next = "a"
    assert (text.feed([1]), text.feed([2]), text.finish("stop", None)) == ("a", "", "")


def test_a_stop_token_leaves_no_text() -> None:
    bang = ALL["byte level"].encode("!")[0]
    assert "".join(cut(tokens("hi!"), bang, stop_token_ids={bang})) == "hi"
    assert "".join(cut(tokens("hi!"), bang, stop_token_ids={bang}, keep_stop=True)) == "hi!"
    assert "".join(cut(tokens("hi!"), None, stop_token_ids={bang})) == "hi!"
    assert "".join(cut(tokens("hi! ho!"), bang, stop_token_ids={bang})) == "hi! ho"


@pytest.mark.parametrize("end", ["<end>", "<think>"])
def test_an_end_token_leaves_no_text(end: str) -> None:
    """Nobody asked for it: it is the model's own, special or not."""
    decoder = ALL["byte level"]
    token = decoder.encode(end)
    requested: dict[str, Any] = {"skip_special_tokens": False, "reason": "stop"}
    hi = [decoder.encode("hi"), token]
    assert "".join(cut(hi, None, **requested)) == "hi"
    assert "".join(cut([hi[0] + token], token[0], **requested)) == "hi"
    assert "".join(cut(hi, None, **requested, keep_stop=True)) == f"hi{end}"
    assert "".join(cut([*hi, hi[0]], None, skip_special_tokens=False)) == f"hi{end}hi"
    assert "".join(cut(hi, None, skip_special_tokens=False)) == f"hi{end}"  # cut by max_tokens


def test_half_of_a_character_at_the_end_leaves_no_text() -> None:
    """The last token with text may bring the first bytes of the next character, too."""
    decoder = ALL["byte level"]
    ids = decoder.encode("hi 👍")
    for count in (1, 2, 3):
        assert "".join(cut([[i] for i in ids[:-count]], None)) == "hi "
        assert "".join(cut([ids[:-count]], None)) == "hi "
    assert "".join(cut([ids], None)) == "hi 👍"
    mixed = TokenDecoder(MixedBytes())
    text = TextPlan().new(mixed)
    assert [text.feed([0]), text.feed([1]), text.finish("length", None)] == ["a", "", ""]
    text = TextPlan().new(mixed)
    assert [text.feed([0, 1]), text.feed([2])] == ["a", " é"]


class MixedBytes:
    """A token can end in the middle of a character."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool = True) -> str:
        return b"".join((b"a", b" \xc3", b"\xa9")[i] for i in ids).decode(errors="replace")


@pytest.mark.parametrize("per_chunk", [1, 3])
def test_stop_strings_hold_on_the_wire(
    per_chunk: int, both: Both, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    engine = address.servicer
    engine.tokens_per_chunk = per_chunk
    client = both.make(address, decoder=decoder)
    for include, expected in ((False, "one two "), (True, "one two three")):
        requested: dict[str, Any] = {
            "prompt": "x", "stop": ["three"], "include_stop_str_in_output": include,
        }  # fmt: skip
        for _ in range(3):
            engine.script.add(Answer("one two three four"), rpc="Generate")
        whole = both.create(client, **requested).choices[0]
        final = both.final(client, **requested).choices[0]
        chunks = both.chunks(client, **requested)
        assert whole.text == final.text == expected
        assert text_of(chunks) == expected
        assert whole.stop_reason == final.stop_reason == "three"
        assert decoder.decode(whole.token_ids).startswith("one two three")


def test_characters_survive_streaming_with_n_choices(
    both: Both, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    text = "héllo 👍 日本 <think>"
    address.servicer.script.add(Answer(text), rpc="Generate", times=3)
    client = both.make(address, decoder=decoder)
    whole = both.create(client, prompt="x", n=3, seed=1)
    assert [c.text for c in whole.choices] == [text] * 3
    final = both.final(client, prompt="x", n=3, seed=1)
    assert [c.text for c in final.choices] == [text] * 3


BY_HAND: list[tuple[str, dict[str, Any], str]] = [
    ("one two three four", {"stop": ["three"]}, "one two "),
    ("one two three four", {"stop": "three", "include_stop_str_in_output": True}, "one two three"),
    ("stop on stop now", {"stop": ["stop"], "min_tokens": 5}, "stop on "),
    ("two words", {"stop_token_ids": ["s"]}, "two word"),
    ("<think>x</think>", {"skip_special_tokens": False}, "<think>x</think>"),
    ("héllo 👍 日本", {}, "héllo 👍 日本"),
    ("héllo 👍 日本", {"max_tokens": -1}, "héllo 👍 日"),  # less than all tokens by one
]


@pytest.mark.parametrize(("answer", "requested", "expected"), BY_HAND)
def test_text_by_hand_is_the_text_of_the_client(
    answer: str,
    requested: dict[str, Any],
    expected: str,
    both: Both,
    address: Address[FakeVllmEngine],
    decoder: TokenDecoder,
) -> None:
    client = both.make(address, decoder=None)
    params: dict[str, Any] = {"prompt": "x", "n": 2, "seed": 1, **requested}
    if "max_tokens" in requested:
        params["max_tokens"] += len(decoder.encode(answer))
    if "stop_token_ids" in requested:
        params["stop_token_ids"] = decoder.encode(requested["stop_token_ids"][0])
    address.servicer.script.add(Answer(answer), rpc="Generate", times=None)
    with_text = both.create(client, **params, decoder=decoder)
    assert [c.text for c in with_text.choices] == [expected] * 2
    assert decoder.decode_completions(with_text) == [expected] * 2
    without = both.create(client, **params)
    assert [c.text for c in without.choices] == [None, None]
    assert decoder.decode_completion(without) == expected
    chunks = both.chunks(client, **params)
    for index in range(2):
        mine = [c for c in chunks if c.choices[0].index == index]
        assert all(c.choices[0].text is None for c in mine)
        for _ in range(2):  # from the beginning again
            assert "".join(decoder.decode_chunk(c) for c in mine) == expected
    final = both.final(client, **params)
    assert decoder.decode_completions(final) == [expected] * 2


def test_a_stream_that_is_left_does_not_begin_the_text_of_the_next(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    local = ALL["byte level"]
    client = both.make(scripted_server, decoder=None)
    broken, whole = local.encode("é")[:1], local.encode("one")
    scripted.messages = [chunk(*broken), chunk(*whole), complete(*whole)]
    left = both.stream(client, prompt="x", request_id="same")
    assert local.decode_chunk(both.next(left)) == ""
    both.run(left.close())
    scripted.messages = [chunk(*whole), complete(*whole, finish_reason="length")]
    chunks = both.chunks(client, prompt="x", request_id="same")
    assert "".join(local.decode_chunk(c) for c in chunks) == "one"


def test_copies_share_the_state_of_decoding() -> None:
    decoding = CallerDecoding([TextPlan()], 1)
    assert copy.copy(decoding) is copy.deepcopy(decoding) is decoding
    assert pickle.loads(pickle.dumps(decoding)) is None


def test_a_result_that_was_copied_can_still_be_decoded(both: Both, client: Any) -> None:
    decoder = ALL["byte level"]
    result = both.create(client, prompt="x", max_tokens=2)
    expected = decoder.decode_completion(result)
    assert decoder.decode_completion(result.model_copy(deep=True)) == expected
    assert decoder.decode_completion(pickle.loads(pickle.dumps(result))) == expected
    assert decoder.decode_completion(type(result).model_validate(result.model_dump())) == expected


def test_logprobs_show_text_and_places(
    both: Both, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    client = both.make(address, decoder=decoder)
    for read in (both.create, both.final):
        choice = read(client, prompt="the quick", max_tokens=5, logprobs=2).choices[0]
        logprobs = choice.logprobs
        assert logprobs is not None and logprobs.token_ids == choice.token_ids
        assert "".join(logprobs.tokens) == choice.text
        for offset, token in zip(logprobs.text_offset, logprobs.tokens, strict=True):
            assert choice.text[offset:].startswith(token)
        for token, top in zip(logprobs.tokens, logprobs.top_logprobs, strict=True):
            assert top is not None and token in top


def test_a_decoder_of_one_call(both: Both, client: Any, decoder: TokenDecoder) -> None:
    plain = client.with_options(decoder=None)
    assert both.create(plain, prompt="x", max_tokens=2, decoder=decoder).choices[0].text
    assert both.create(plain, prompt="x", max_tokens=2, decoder="server").choices[0].text
    assert both.create(plain, prompt="x", max_tokens=2).choices[0].text is None
    assert both.create(client, prompt="x", max_tokens=2, decoder=None).choices[0].text is None
    assert both.create(client, prompt="x", max_tokens=2).choices[0].text


def test_without_its_libraries_decoding_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        TokenDecoder.from_model_path(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(ImportError, match=r"smg-grpc-proto\[client,decode\]"):
        TokenDecoder.from_model_path(tmp_path)


def test_a_tokenizer_of_the_transformers_kind_works_too() -> None:
    class Likewise:
        """Encodes to a plain list, as transformers does."""

        def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
            return [*text.encode()]

        def decode(self, ids: list[int], /, *, skip_special_tokens: bool = True) -> str:
            return bytes(ids).decode(errors="replace")

    decoder = TokenDecoder(Likewise())
    assert joined(decoder, [[i] for i in decoder.encode("日本")]) == "日本"


def test_the_text_prompt_decides_the_first_blank(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    client = both.make(scripted_server, decoder=byte_fallback())
    scripted.messages = [chunk(2), complete(2)]
    for prompt in ("Hello", byte_fallback().encode("Hello")):
        assert both.final(client, prompt=prompt).choices[0].text == " world"
    assert sent(scripted).stream


def test_a_result_without_a_request_is_decoded_as_it_shows() -> None:
    decoder = byte_level()
    ids = [*decoder.encode("one two"), *decoder.encode("<end>")]
    choice = CompletionChoice(token_ids=ids, finish_reason="length")
    made = Completion(choices=[choice])
    assert decoder.decode_completion(made) == "one two"
    assert decoder.decode_completion(made, skip_special_tokens=False) == "one two<end>"
    stopped = CompletionChoice(
        token_ids=decoder.encode("one t"), finish_reason="stop", stop_reason="e t"
    )
    assert decoder.decode_completions(Completion(choices=[stopped, choice])) == ["on", "one two"]
    assert decoder.decode_completion(Completion()) == ""


def test_a_chunk_without_choices_adds_no_text() -> None:
    assert byte_level().decode_chunk(CompletionChunk(id="x", created=0, model="m")) == ""
