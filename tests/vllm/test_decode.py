"""Token ids to text: incremental decoding, stops, bundles."""

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from vllm_kit import Both, ScriptedEngine, chunk, complete, sent

from smg_proto import common_pb2
from smg_proto.testing import Address, Answer, FakeVllmEngine, Fault
from smg_proto.vllm import TokenDecoder, TokenizerBundle, VLLMGrpcDataLossError
from smg_proto.vllm.bundle import BundleBuilder
from smg_proto.vllm.text import TextPlan


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


def test_bytes_that_are_no_text_do_not_pile_up() -> None:
    decoder = byte_fallback()
    step = decoder.incremental()
    broken = decoder.tokenizer.token_to_id("<0xFF>")  # type: ignore[attr-defined]
    hello = decoder.encode("Hello")
    given_out = "".join(step.feed([broken]) for _ in range(500))
    assert len(given_out) >= 400
    assert len(step._window) < 150
    assert "".join(step.feed([token]) for token in hello).endswith("Hello")


def test_special_tokens_are_left_out_or_shown(decoder: TokenDecoder) -> None:
    local = byte_level()
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


def cut(parts: list[Sequence[int]], end: int | str | None, **plan: Any) -> list[str]:
    text = TextPlan(ALL["byte level"], **plan).new()
    return [*(text.feed(part) for part in parts), text.finish(end)]


def tokens(text: str) -> list[Sequence[int]]:
    return [[i] for i in ALL["byte level"].encode(text)]


def test_text_is_cut_at_the_stop_string_and_nothing_of_it_leaks_out() -> None:
    asked: dict[str, Any] = {"stop": ["three", "zzz"]}
    deltas = cut(tokens("one two three"), "three", **asked)
    assert "".join(deltas) == "one two " == "".join(deltas[:-1])
    assert "".join(cut(tokens("one two three"), "three", **asked, keep_stop=True)).endswith("three")
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


def test_a_stop_token_leaves_no_text() -> None:
    bang = ALL["byte level"].encode("!")[0]
    assert "".join(cut(tokens("hi!"), bang, stop_token_ids={bang})) == "hi"
    assert "".join(cut(tokens("hi!"), bang, stop_token_ids={bang}, keep_stop=True)) == "hi!"
    assert "".join(cut(tokens("hi!"), None, stop_token_ids={bang})) == "hi!"
    assert "".join(cut(tokens("hi! ho!"), bang, stop_token_ids={bang})) == "hi! ho"


@pytest.mark.parametrize("per_chunk", [1, 3])
def test_stop_strings_hold_on_the_wire(
    per_chunk: int, both: Both, address: Address[FakeVllmEngine], decoder: TokenDecoder
) -> None:
    engine = address.servicer
    engine.tokens_per_chunk = per_chunk
    client = both.make(address, decoder=decoder)
    for include, expected in ((False, "one two "), (True, "one two three")):
        asked: dict[str, Any] = {
            "prompt": "x", "stop": ["three"], "include_stop_str_in_output": include,
        }  # fmt: skip
        for _ in range(3):
            engine.script.add(Answer("one two three four"), rpc="Generate")
        whole = both.create(client, **asked).choices[0]
        final = both.final(client, **asked).choices[0]
        chunks = both.chunks(client, **asked)
        assert whole.text == final.text == expected
        assert "".join(c.choices[0].text for c in chunks) == expected
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
    chunks = both.chunks(client.with_options(decoder=None), prompt="x", n=3, seed=1)
    assert all(c.choices[0].text == "" for c in chunks)
    by_index = {
        index: "".join(decoder.decode_chunk(c) for c in chunks if c.choices[0].index == index)
        for index in range(3)
    }
    assert set(by_index.values()) == {text}
    assert decoder._states == {}
    assert decoder.decode_completions(final) == [text] * 3
    assert decoder.decode_completion(final) == text


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
    assert both.create(client, prompt="x", max_tokens=2, decoder=decoder).choices[0].text
    assert both.create(client, prompt="x", max_tokens=2).choices[0].text == ""


def test_the_decoder_comes_from_the_server(
    both: Both, client: Any, decoder: TokenDecoder, tmp_path: Path, engine: FakeVllmEngine
) -> None:
    bundle = both.run(client.tokenizer.download())
    assert hashlib.sha256(bundle.data).hexdigest() == bundle.sha256
    assert "tokenizer.json" in bundle.files
    again = TokenDecoder.from_model_path(bundle.extract(tmp_path / "here"))
    text = "the quick brown fox"
    assert (
        again.encode(text) == decoder.encode(text) == TokenDecoder.from_bundle(bundle).encode(text)
    )
    if both.asynchronous:
        made: TokenDecoder = both.run(TokenDecoder.afrom_client(client))
        assert made.encode(text) == decoder.encode(text)
    import grpc

    engine.script.add(Fault(grpc.StatusCode.FAILED_PRECONDITION), rpc="GetTokenizer")
    with pytest.raises(FileNotFoundError, match="is no directory here"):
        if both.asynchronous:
            both.run(TokenDecoder.afrom_client(client))
        else:
            TokenDecoder.from_client(client)


def test_a_bundle_that_breaks_off_is_an_error(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault.cut(after=1), rpc="GetTokenizer")
    with pytest.raises(VLLMGrpcDataLossError, match="incomplete"):
        both.run(client.tokenizer.download())


def chunks_of(data: bytes, told: str | None = None) -> BundleBuilder:
    builder = BundleBuilder()
    builder.add(common_pb2.GetTokenizerChunk(data=data[:5]))
    digest = hashlib.sha256(data).hexdigest() if told is None else told
    builder.add(common_pb2.GetTokenizerChunk(data=data[5:], sha256=digest))
    return builder


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("_up_", "../"), content)
    return buffer.getvalue()


def test_a_damaged_bundle_is_an_error(tmp_path: Path) -> None:
    assert chunks_of(archive(a="b")).build().files == {"a": b"b"}
    with pytest.raises(VLLMGrpcDataLossError, match="the server announced 00"):
        chunks_of(archive(a="b"), "00").build()
    with pytest.raises(VLLMGrpcDataLossError, match="no readable ZIP"):
        _ = chunks_of(b"not a zip archive").build().files
    bundle: TokenizerBundle = chunks_of(archive(_up_evil="x")).build()
    with pytest.raises(VLLMGrpcDataLossError, match="outside"):
        bundle.extract(tmp_path / "in")
    assert not (tmp_path / "evil").exists()


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
