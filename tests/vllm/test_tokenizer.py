"""The server's tokenizer: how it comes, where it is kept, what damaged ones do."""

import asyncio
import hashlib
import io
import json
import logging
import random
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import async_eventually
from test_decode import ALL, joined
from tokenizers import Tokenizer, decoders, models
from vllm_kit import NEVER, Both, text_of

from smg_proto import common_pb2
from smg_proto._tokens import bundle as tokens_bundle
from smg_proto._tokens.bundle import BundleBuilder
from smg_proto._tokens.vocabulary import Vocabulary, WordDecoder
from smg_proto.testing import Address, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    TokenDecoder,
    TokenizerBundle,
    VLLMGrpcClient,
    VLLMGrpcClosedError,
    VLLMGrpcConnectionError,
    VLLMGrpcDataLossError,
    VLLMGrpcError,
    VLLMGrpcTimeoutError,
    VLLMGrpcUnavailableError,
    VLLMGrpcUnimplementedError,
)
from smg_proto.vllm._async import caller as async_caller
from smg_proto.vllm._sync import caller as sync_caller

PROMPT = "the quick brown"


class OwnTokenizer(FakeVllmEngine):
    """An engine that nobody has met before, with a tokenizer of the test's."""

    def __init__(self, bundle: bytes | None = None) -> None:
        super().__init__(name=f"model-{random.getrandbits(64):x}")
        self.bundle = self.model.tokenizer.bundle if bundle is None else bundle
        self.pause = 0.0
        self.result = hashlib.sha256(self.bundle).hexdigest()

    async def GetTokenizer(
        self, request: Any, context: Any
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        fault = self._receive("GetTokenizer", request, context)
        await asyncio.sleep(self.pause)
        if fault is not None and fault.status is not None:
            await context.abort(fault.status, "not now")
        for start in range(0, len(self.bundle), 65536):
            last = start + 65536 >= len(self.bundle)
            yield common_pb2.GetTokenizerChunk(
                data=self.bundle[start : start + 65536], sha256=self.result if last else ""
            )

    def sent(self, rpc: str = "GetTokenizer") -> int:
        return [r.rpc for r in self.record.received].count(rpc)


@pytest.fixture
def fresh() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine(OwnTokenizer()) as address:
        yield address


def own(address: Address[FakeVllmEngine]) -> OwnTokenizer:
    assert isinstance(address.servicer, OwnTokenizer)
    return address.servicer


# Text without asking for it.


def test_text_is_there_without_asking(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    client, engine = both.make(fresh), own(fresh)
    completion = both.create(client, prompt=PROMPT, max_tokens=6)
    text = completion.choices[0].text
    assert text and text == engine.model.tokenizer.decode(completion.choices[0].token_ids)
    assert completion.model == engine.name
    chunks = both.chunks(client, prompt=PROMPT, max_tokens=6)
    assert "".join(c.choices[0].text or "" for c in chunks) == text
    assert both.final(client, prompt=PROMPT, max_tokens=6).choices[0].text == text
    assert engine.sent() == engine.sent("GetModelInfo") == 1


def test_the_first_stream_has_text_from_its_first_chunk(
    both: Both, fresh: Address[FakeVllmEngine]
) -> None:
    own(fresh).pause = 0.2
    chunks = both.chunks(both.make(fresh), prompt=PROMPT, max_tokens=6)
    assert all(c.choices[0].text is not None for c in chunks)
    assert text_of(chunks) == text_of(both.chunks(both.make(fresh), prompt=PROMPT, max_tokens=6))


def test_the_tokenizer_is_fetched_beside_the_request_and_not_before_it(
    both: Both, fresh: Address[FakeVllmEngine]
) -> None:
    client, engine = both.make(fresh), own(fresh)
    both.run(client.health.check())
    assert engine.sent() == 0
    both.create(client, prompt=PROMPT, max_tokens=2)
    rpcs = [r.rpc for r in engine.record.received]
    assert rpcs.index("Generate") < rpcs.index("GetTokenizer")


def test_clients_of_one_server_share_its_tokenizer(
    both: Both, fresh: Address[FakeVllmEngine]
) -> None:
    first, engine = both.make(fresh), own(fresh)
    both.create(first, prompt=PROMPT, max_tokens=2)
    both.create(first.with_options(timeout=30), prompt=PROMPT, max_tokens=2)
    second = both.make(fresh)
    assert both.create(second, prompt=PROMPT, max_tokens=2).choices[0].text
    assert engine.sent() == 1
    mine: TokenDecoder = both.run(first.tokenizer.decoder())
    assert both.run(second.tokenizer.decoder()) is mine
    made = TokenDecoder.afrom_client if both.asynchronous else TokenDecoder.from_client
    assert both.run(made(second)) is mine
    # Another server with the same files: the same tokenizer too, once its hash is known.
    with run_vllm_engine(OwnTokenizer()) as other:
        third = both.make(other)
        assert both.run(third.tokenizer.decoder()) is mine
        assert own(other).sent() == 1


def test_no_decoder_fetches_nothing(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    client, engine = both.make(fresh, decoder=None), own(fresh)
    choice = both.create(client, prompt=PROMPT, max_tokens=3).choices[0]
    assert choice.text is None and len(choice.token_ids) == 3
    assert all(c.choices[0].text is None for c in both.chunks(client, prompt=PROMPT, max_tokens=3))
    assert engine.sent() == 0


@pytest.mark.parametrize(
    "status", ["UNIMPLEMENTED", "FAILED_PRECONDITION", "INTERNAL", "PERMISSION_DENIED"]
)
def test_a_server_without_a_tokenizer_gives_token_ids(
    status: str, both: Both, fresh: Address[FakeVllmEngine], caplog: pytest.LogCaptureFixture
) -> None:
    client, engine = both.make(fresh), own(fresh)
    engine.script.add(Fault(grpc.StatusCode[status]), rpc="GetTokenizer", times=None)
    with caplog.at_level(logging.WARNING, "smg_proto.vllm"):
        for _ in range(3):
            choice = both.create(client, prompt=PROMPT, max_tokens=3).choices[0]
            assert choice.text is None and len(choice.token_ids) == 3
            final = both.final(client, prompt=PROMPT, max_tokens=3).choices[0]
            assert final.text is None and final.token_ids == choice.token_ids
    assert engine.sent() == 1
    assert len([r for r in caplog.records if "no tokenizer" in r.getMessage()]) == 1
    # Who asks for it is told why there is none; and it may be there by now.
    with pytest.raises((VLLMGrpcError, FileNotFoundError)):
        both.run(client.tokenizer.decoder())
    engine.script.clear()
    assert both.run(client.tokenizer.decoder()).decode([20])
    assert both.create(client, prompt=PROMPT, max_tokens=3).choices[0].text


def test_without_the_library_there_are_token_ids_too(
    both: Both, fresh: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "_async" if both.asynchronous else "_sync"
    monkeypatch.setattr(f"smg_proto.vllm.{module}.caller.find_spec", lambda name: None)
    client = both.make(fresh)
    assert both.create(client, prompt=PROMPT, max_tokens=3).choices[0].text is None
    assert own(fresh).sent() == 0
    with pytest.raises(ImportError, match="decode"):
        both.run(client.tokenizer.decoder())


def test_a_tokenizer_that_is_late_ends_the_call_within_its_own_limit(
    both: Both, fresh: Address[FakeVllmEngine]
) -> None:
    client, engine = both.make(fresh), own(fresh)
    both.run(client.health.check())  # connects
    engine.pause = 2.0
    for read in (both.create, both.final):
        with pytest.raises(VLLMGrpcTimeoutError, match=r"tokenizer did not arrive .* decoder=None"):
            read(client, prompt=PROMPT, max_tokens=2, timeout=0.4)
    with pytest.raises(VLLMGrpcTimeoutError, match="tokenizer did not arrive") as caught:
        both.run(client.embeddings.create(input=PROMPT, timeout=0.2))
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert engine.sent() == 1  # the fetch goes on, for those who come later
    assert both.create(client, prompt=PROMPT, max_tokens=2, timeout=20).choices[0].text
    assert both.run(client.embeddings.create(input=PROMPT, timeout=20)).data
    assert engine.sent() == 1


def test_a_failure_that_passes_is_raised_and_tried_again(
    both: Both, fresh: Address[FakeVllmEngine]
) -> None:
    client, engine = both.make(fresh, max_retries=0), own(fresh)
    engine.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="GetTokenizer", times=2)
    with pytest.raises(VLLMGrpcUnavailableError):
        both.create(client, prompt=PROMPT, max_tokens=2)
    # The one above may have tried twice: once beside the request, and once when it needed the text.
    with suppress(VLLMGrpcUnavailableError):
        both.create(client, prompt=PROMPT, max_tokens=2)
    assert both.create(client, prompt=PROMPT, max_tokens=2).choices[0].text


def test_a_damaged_tokenizer_is_none(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    client, engine = both.make(fresh), own(fresh)
    engine.result = "0" * 64
    assert both.create(client, prompt=PROMPT, max_tokens=2).choices[0].text is None
    with pytest.raises(VLLMGrpcDataLossError):
        both.run(client.tokenizer.decoder())


def test_closing_the_client_ends_the_fetch(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    engine = own(fresh)
    engine.pause = 30.0
    client = both.make(fresh)
    stream = both.stream(client, prompt=PROMPT, max_tokens=2)
    both.eventually(lambda: engine.sent() == 1)
    both.run(client.close())
    with pytest.raises(VLLMGrpcError):
        both.next(stream)


def test_the_servers_path_serves_where_it_sends_no_tokenizer(
    both: Both, fresh: Address[FakeVllmEngine], tmp_path: Path
) -> None:
    engine = own(fresh)
    engine.script.add(Fault(grpc.StatusCode.INTERNAL), rpc="GetTokenizer", times=None)
    with pytest.raises(FileNotFoundError, match="is not a directory on this machine"):
        both.run(both.make(fresh).tokenizer.decoder())
    TokenizerBundle(engine.bundle, "").extract(tmp_path)
    engine.name = str(tmp_path)
    assert both.create(both.make(fresh), prompt=PROMPT, max_tokens=2).choices[0].text


@pytest.mark.parametrize("name", ["tokenizer_path", "model_path"])
def test_the_path_of_the_tokenizer_comes_before_that_of_the_model(
    name: str, both: Both, tmp_path: Path
) -> None:
    class Elsewhere(OwnTokenizer):
        async def GetModelInfo(self, request: Any, context: Any) -> Any:
            info = await super().GetModelInfo(request, context)
            info.model_path, info.tokenizer_path = "none", ""
            setattr(info, name, str(tmp_path))
            return info

    engine = Elsewhere()
    engine.script.add(Fault(grpc.StatusCode.INTERNAL), rpc="GetTokenizer", times=None)
    TokenizerBundle(engine.bundle, "").extract(tmp_path)
    with run_vllm_engine(engine) as address:
        assert both.run(both.make(address).tokenizer.decoder()).decode([20])


def test_a_server_without_model_and_tokenizer_says_so(
    both: Both, fresh: Address[FakeVllmEngine]
) -> None:
    for rpc in ("GetModelInfo", "GetTokenizer"):
        fault = Fault(grpc.StatusCode.UNIMPLEMENTED)
        own(fresh).script.add(fault, rpc=rpc, times=None)
    with pytest.raises(VLLMGrpcUnimplementedError):
        both.run(both.make(fresh).tokenizer.decoder())


async def test_a_client_that_is_closed_says_so_to_those_who_wait_for_the_tokenizer(
    fresh: Address[FakeVllmEngine],
) -> None:
    own(fresh).pause = 30.0
    client = AsyncVLLMGrpcClient(target=fresh)
    waits = asyncio.ensure_future(client.embeddings.create(input="x"))
    await async_eventually(lambda: own(fresh).sent() == 1)
    await client.close()
    with pytest.raises(VLLMGrpcClosedError):
        await waits


# Loading.


def test_an_event_loop_goes_on_while_a_tokenizer_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded by the library in one go it would stand still, in whatever thread that happens."""
    ticks = 0
    during: list[int] = []
    load = TokenDecoder.from_bundle

    def watched(bundle: TokenizerBundle) -> TokenDecoder:
        before = ticks
        decoder = load(bundle)
        during.append(ticks - before)
        return decoder

    monkeypatch.setattr(TokenDecoder, "from_bundle", watched)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async def use(address: str) -> str | None:
        ticking = asyncio.ensure_future(tick())
        async with AsyncVLLMGrpcClient(target=address) as client:
            text = (await client.completions.create(prompt=[20], max_tokens=1)).choices[0].text
        ticking.cancel()
        return text

    with run_vllm_engine(OwnTokenizer(archive({"tokenizer.json": large_tokenizer(60_000)}))) as at:
        assert asyncio.run(use(at)) is not None
    assert during[0] >= 10


def large_tokenizer(size: int) -> str:
    vocabulary = {chr(0x4E00 + n % 20_000) * (1 + n // 20_000): n for n in range(size)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer.to_str()


@pytest.mark.parametrize("name", ALL)
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=40, deadline=None)
def test_words_that_are_read_piece_by_piece_join_as_the_library_joins_them(
    name: str, data: st.DataObject, skip: bool
) -> None:
    library: Any = ALL[name].tokenizer
    vocabulary = Vocabulary.parse(library.to_str())
    assert vocabulary is not None
    size = library.get_vocab_size()
    ids = data.draw(st.lists(st.integers(0, size + 3), max_size=40))
    expected = library.decode(ids, skip_special_tokens=skip)
    assert WordDecoder(vocabulary).decode(ids, skip) == expected
    dumped = vocabulary.dump()
    if dumped is not None:
        again = Vocabulary.load(dumped)
        assert again is not None and WordDecoder(again).decode(ids, skip) == expected


def test_vocabularies_of_all_forms_are_read() -> None:
    unigram = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁a", -1.5), ('"\\', -2e-3), ("é", -3)], 0)
    )
    unigram.decoder = decoders.Metaspace()
    unigram.add_special_tokens(["<s>"])
    pairs = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, '"': 3, "\n": 4}, [("a", "b")]))
    for library in (unigram, pairs):
        for pretty in (False, True):
            text = library.to_str(pretty=pretty)
            for form in (text, json.dumps(json.loads(text))):  # the latter escapes
                vocabulary = Vocabulary.parse(form)
                assert vocabulary is not None
                for ids in ([1, 2, 3], [0, 1], [4], []):
                    assert WordDecoder(vocabulary).decode(ids, True) == library.decode(ids)
    for other in ("", "{}", "[]", '{"model": {"vocab": {"a": "b"}}}', '{"model": {"vocab": [1]}}'):
        assert Vocabulary.parse(other) is None


@pytest.mark.parametrize("form", ["{}", "[ ]", "{\n}", "[]"])
def test_a_vocabulary_may_have_no_words_but_those_that_were_added(form: str) -> None:
    added = '[{"id": 1, "content": "a", "special": true}]'
    text = f'{{"model": {{"vocab": {form}}}, "added_tokens": {added}}}'
    assert Vocabulary.parse(text) == Vocabulary({1: "a"}, frozenset("a"), frozenset({1}), None)


@pytest.mark.parametrize("words", [{}, {0: "a"}, {1: "a"}, {0: "a", 3: "b"}])
def test_a_vocabulary_is_kept_with_its_gaps(words: dict[int, str]) -> None:
    vocabulary = Vocabulary(words, frozenset(), frozenset(words), {"type": "Fuse"})
    dumped = vocabulary.dump()
    assert dumped is not None and Vocabulary.load(dumped) == vocabulary


@pytest.mark.parametrize("words", [{0: "a\0"}, {0: "\ud800"}, {2: "a"}, {2**40: "a"}])
def test_a_vocabulary_that_has_no_short_form_is_not_kept(words: dict[int, str]) -> None:
    assert Vocabulary(words, frozenset(), frozenset(), None).dump() is None


def test_a_form_that_is_not_known_is_left_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: Any = ALL["byte level"].tokenizer
    library.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(Vocabulary, "parse", lambda text: None)
    decoder = TokenDecoder.from_model_path(tmp_path)
    ids = decoder.encode("hello <think> there")
    assert decoder.decode(ids) == "hello <think> there"
    assert decoder.encode("<think>")[0] in decoder.end_token_ids
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read"):
        TokenDecoder.from_model_path(tmp_path)


def test_end_tokens_are_those_that_the_model_names(tmp_path: Path) -> None:
    library: Any = ALL["byte level"].tokenizer
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}', encoding="utf-8")
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}', encoding="utf-8")
    assert {3, 4, 5} < set(TokenDecoder.from_model_path(tmp_path).end_token_ids)
    for content in (b"not JSON", b"\xff"):
        (tmp_path / "config.json").write_bytes(content)
        assert 5 not in TokenDecoder.from_model_path(tmp_path).end_token_ids


def test_the_other_files_of_a_tokenizer_are_kept(tmp_path: Path) -> None:
    names = {
        *("tokenizer_config.json", "generation_config.json", "config.json"),
        *("special_tokens_map.json", "chat_template.jinja", "chat_template.json"),
    }
    files = model_files("byte level") | {name: f'"{name}"' for name in names}
    expected = {name: f'"{name}"'.encode() for name in names}
    bundle = bundle_of(files)
    assert TokenDecoder.from_bundle(bundle).settings == expected
    assert TokenDecoder.from_model_path(bundle.extract(tmp_path)).settings == expected


def test_other_tokenizers_are_loaded_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AutoTokenizer:
        added_tokens_decoder: ClassVar = {7: "<end>"}

        def __init__(self, path: str) -> None:
            self.name = (Path(path) / "name").read_text(encoding="utf-8")

        @classmethod
        def from_pretrained(cls, path: str) -> "AutoTokenizer":
            return cls(path)

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [7] * add_special_tokens + [1] * len(text)

        def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
            return f"{self.name} {ids} {skip_special_tokens}"

    library = SimpleNamespace(AutoTokenizer=AutoTokenizer)
    monkeypatch.setitem(sys.modules, "transformers", library)
    (tmp_path / "name").write_text("mine", encoding="utf-8")
    files = {"name": "mine", "note": f"{random.getrandbits(64)}"}
    for decoder in (
        TokenDecoder.from_model_path(tmp_path),
        TokenDecoder.from_bundle(bundle_of(files)),
    ):
        assert decoder.decode((1, 2)) == "mine [1, 2] True"
        assert decoder.decode((1, 2), False) == "mine [1, 2] False"
        assert decoder.encode("ab") == [7, 1, 1]
        assert decoder.encode("ab", add_special_tokens=False) == [1, 1]
        assert list(decoder.end_token_ids) == [7]


def test_a_prompt_is_represented_by_a_token_of_plain_text() -> None:
    decoder = ALL["byte level"]
    (token,) = decoder.context("Once")
    assert decoder.decode([token]).isalnum()
    assert decoder.context("") == ()

    class Symbols:
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            raise NotImplementedError

        def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
            return "-" * len(ids)

    assert TokenDecoder(Symbols()).context("Once") == []


# The cache.


def test_a_tokenizer_is_kept_on_disk_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_GRPC_CACHE", str(tmp_path))
    bundle = bundle_of(model_files("byte level"))
    first = TokenDecoder.from_bundle(bundle)
    folder = tmp_path / "tokenizers" / bundle.sha256
    assert hashlib.sha256((folder / "bundle.zip").read_bytes()).hexdigest() == bundle.sha256
    assert {file.name for file in folder.iterdir()} == {"bundle.zip", "vocabulary"}
    ids = first.encode("hello there")
    del first
    monkeypatch.setattr(Vocabulary, "parse", lambda text: pytest.fail("it is in the cache"))
    assert TokenDecoder.from_bundle(bundle).decode(ids) == "hello there"


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}\n", b"[1]\nx", b'{"missing":[9]}\na'])
def test_a_damaged_cache_is_passed_over(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_GRPC_CACHE", str(tmp_path))
    bundle = bundle_of(model_files("byte level"))
    folder = tmp_path / "tokenizers" / bundle.sha256
    folder.mkdir(parents=True)
    (folder / "vocabulary").write_bytes(content)
    assert joined(TokenDecoder.from_bundle(bundle), [[0], [1]])


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"VLLM_GRPC_CACHE": "/c"}, "/c/tokenizers/x"),
        ("linux", {"VLLM_GRPC_CACHE": "OFF"}, None),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/smg-proto/tokenizers/x"),
        ("linux", {}, "/home/me/.cache/smg-proto/tokenizers/x"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/me/Library/Caches/smg-proto/tokenizers/x"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/smg-proto/tokenizers/x"),
        ("win32", {}, "/home/me/AppData/Local/smg-proto/tokenizers/x"),
    ],
)
def test_the_cache_is_where_the_system_has_its_caches(
    platform: str,
    variables: dict[str, str],
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("VLLM_GRPC_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", platform)
        folder = tokens_bundle.cache_folder("x")
    assert folder == (None if expected is None else Path(expected))


def _full(*_: object) -> None:
    raise OSError("no space")


def test_a_file_is_kept_once_and_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # may be another disk
    folder = tmp_path / "new" / "folder"
    for content in (b"one", b"two"):
        tokens_bundle.keep(folder, "a", content)
        assert tokens_bundle.kept(folder, "a") == b"one"
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(Path, "replace", _full)
    tokens_bundle.keep(folder, "b", b"two")
    assert [file.name for file in folder.iterdir()] == ["a"]
    assert tokens_bundle.kept(folder, "b") is None


@pytest.mark.parametrize("where", ["off", "/proc/nowhere"])
def test_where_nothing_can_be_kept_nothing_is(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_GRPC_CACHE", where)
    decoder = TokenDecoder.from_bundle(bundle_of(model_files("word piece")))
    assert decoder.decode([1, 2]) == "hello world"


def test_the_same_bundle_is_loaded_once() -> None:
    bundle = bundle_of(model_files("byte level"))
    assert TokenDecoder.from_bundle(bundle) is TokenDecoder.from_bundle(bundle)


# Bundles.


def model_files(name: str) -> dict[str, str]:
    library: Any = ALL[name].tokenizer
    return {"tokenizer.json": library.to_str(), "note": f"{random.getrandbits(64)}"}


def archive(files: dict[str, str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def chunks_of(data: bytes, result: str | None = None) -> "BundleBuilder[TokenizerBundle]":
    builder = BundleBuilder(TokenizerBundle)
    builder.add(common_pb2.GetTokenizerChunk(data=data[:5]))
    digest = hashlib.sha256(data).hexdigest() if result is None else result
    builder.add(common_pb2.GetTokenizerChunk(data=data[5:], sha256=digest))
    return builder


def bundle_of(files: dict[str, str], method: int = zipfile.ZIP_DEFLATED) -> TokenizerBundle:
    return chunks_of(archive(files, method)).build()


def test_a_bundle_is_checked_and_unpacked(both: Both, client: Any, tmp_path: Path) -> None:
    bundle = both.run(client.tokenizer.download())
    assert hashlib.sha256(bundle.data).hexdigest() == bundle.sha256
    again = TokenDecoder.from_model_path(bundle.extract(tmp_path / "here"))
    text = "the quick brown fox"
    assert again.encode(text) == TokenDecoder.from_bundle(bundle).encode(text)
    assert again.decode(again.encode(text)) == text


def test_a_bundle_is_shown_without_its_content() -> None:
    assert repr(TokenizerBundle(b"x", "hash")) == "TokenizerBundle(sha256='hash')"


def test_a_bundle_that_breaks_off_is_an_error(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault.cut(after=1), rpc="GetTokenizer")
    with pytest.raises(VLLMGrpcDataLossError, match="incomplete"):
        both.run(client.tokenizer.download())


def test_a_download_that_fails_is_ended(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    """Whatever goes wrong in the middle, the call does not stay open."""
    client = both.make(fresh)
    own(fresh).bundle = b"x" * 1_000_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_bundle, "MAX_PACKED_BYTES", 100_000)
        with pytest.raises(VLLMGrpcDataLossError, match="has more than 0 MiB"):
            both.run(client.tokenizer.download())
    assert client._connection.calls == set()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "a/../../evil",
        "C:\\evil",
        "C:evil",
        "a\\..\\..\\evil",
        "..",
        "",
        "a\nb",
        "x" * 256,
        "é" * 128,
        "a/" * 250 + "b",
    ],
)
def test_nothing_is_written_outside_of_the_folder(name: str, tmp_path: Path) -> None:
    place = tmp_path / "in" / "side"
    absolute = str(tmp_path / "evil") if name == "/evil" else name
    with pytest.raises(VLLMGrpcDataLossError):
        bundle_of({"fine": "x", absolute: "x"}).extract(place)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a/" * 249 + "bc"])
def test_names_may_be_long(name: str) -> None:
    assert bundle_of({name: "x"}).files == {name: b"x"}


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    for content in ("one", "two"):
        bundle = bundle_of({"a": content, "b/": "", "b/c/": "", "b/c/d": content})
        assert bundle.extract(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
        names = [*(tmp_path / "new" / "folder").rglob("*")]
        found = {file.name: file.read_text(encoding="utf-8") for file in names if file.is_file()}
        assert found == {"a": content, "d": content}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_without_a_bound_are_refused(method: int) -> None:
    with pytest.raises(VLLMGrpcDataLossError, match="another method than deflate"):
        _ = bundle_of({"a": "b" * 1000}, method).files
    stored = bundle_of({"a": "b"}, zipfile.ZIP_STORED)
    assert stored.files == {"a": b"b"}
    data = bytearray(stored.data)
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags] |= 1
    with pytest.raises(VLLMGrpcDataLossError, match="is encrypted"):
        _ = chunks_of(bytes(data)).build().files


def test_bundles_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_bundle, "MAX_UNPACKED_BYTES", 5000)
    monkeypatch.setattr(tokens_bundle, "MAX_FILES", 3)
    assert len(bundle_of({"a": "x" * 2500, "b": "x" * 2500, "c": "", "d/": ""}).files) == 3
    with pytest.raises(VLLMGrpcDataLossError, match="unpacks to more"):
        _ = bundle_of({"a": "x" * 2500, "b": "x" * 2501}).files
    with pytest.raises(VLLMGrpcDataLossError, match="more than 3 files"):
        _ = bundle_of(dict.fromkeys("abcd", "")).files
    data = archive({"a": ""})
    monkeypatch.setattr(tokens_bundle, "MAX_PACKED_BYTES", len(data))
    digest = hashlib.sha256(data).hexdigest().upper()
    assert chunks_of(data, digest).build().files == {"a": b""}
    with pytest.raises(VLLMGrpcDataLossError, match="has more than 0 MiB"):
        chunks_of(data + b" ")


def test_an_archive_that_lies_about_its_size_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_bundle, "MAX_UNPACKED_BYTES", 100_000)
    data = bytearray(archive({"a": "\0" * 50_000_000}))
    size = (50_000_000).to_bytes(4, "little")
    while (place := data.find(size)) >= 0:
        data[place : place + 4] = (10).to_bytes(4, "little")
    with pytest.raises(VLLMGrpcDataLossError):
        _ = chunks_of(bytes(data)).build().files


def test_damage_of_any_kind_is_the_same_error() -> None:
    good = archive({"tokenizer.json": "{}" * 50, "dir/a.txt": "some text " * 20})
    chance = random.Random(7)
    failed = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            _ = chunks_of(bytes(data)).build().files
        except VLLMGrpcDataLossError:
            failed += 1
    assert failed > 500
    with pytest.raises(VLLMGrpcDataLossError, match="not a readable ZIP"):
        _ = chunks_of(b"not a zip archive").build().files
    with pytest.raises(VLLMGrpcDataLossError, match="the server announced another"):
        chunks_of(good, "00").build()
    with pytest.raises(VLLMGrpcDataLossError, match="a file and a folder with the same name"):
        _ = bundle_of({"a": "x", "a/b": "y"}).files


def test_a_label_never_holds_up_a_result(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    """The model's name is asked for beside the call, and hardly waited for."""
    client, engine = both.make(fresh, decoder=None), own(fresh)
    both.run(client.health.check())
    engine.script.add(Fault(delay=30.0), rpc="GetModelInfo", times=None)
    began = time.monotonic()
    assert both.create(client, prompt=PROMPT, max_tokens=1).model == ""
    assert time.monotonic() - began < 4  # a quarter of a second is waited
    for _ in range(3):
        assert both.next(both.stream(client, prompt=PROMPT, max_tokens=1)).model == ""
        assert both.create(client, prompt=PROMPT, max_tokens=1).model == ""
    assert time.monotonic() - began < 15  # less than one such wait
    assert both.create(client, prompt=PROMPT, max_tokens=1, model="mine").model == "mine"


def test_a_name_that_comes_later_is_shown_then(both: Both, fresh: Address[FakeVllmEngine]) -> None:
    client, engine = both.make(fresh, decoder=None, max_retries=0), own(fresh)
    engine.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="GetModelInfo", times=2)
    until = time.monotonic() + 30
    while (name := both.create(client, prompt=PROMPT, max_tokens=1).model) != engine.name:
        assert name == ""
        assert time.monotonic() < until
    engine.script.add(Fault(grpc.StatusCode.UNAVAILABLE), rpc="GetModelInfo", times=None)
    assert both.create(client, prompt=PROMPT, max_tokens=1).model == engine.name


def test_a_result_waits_for_the_name(
    both: Both, fresh: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (async_caller, sync_caller):
        monkeypatch.setattr(module, "_LABEL_WAIT", 30.0)
    client, engine = both.make(fresh, decoder=None), own(fresh)
    engine.script.add(Fault(delay=0.2), rpc="GetModelInfo")
    assert both.create(client, prompt=PROMPT, max_tokens=1).model == engine.name
    assert own(fresh).sent("GetModelInfo") == 1


def test_results_wait_for_the_name_only_once(
    both: Both, fresh: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = both.make(fresh, decoder=None)
    own(fresh).script.add(Fault(delay=NEVER), rpc="GetModelInfo", times=None)
    for wait in (0.05, "not used again"):
        for module in (async_caller, sync_caller):
            monkeypatch.setattr(module, "_LABEL_WAIT", wait)
        assert both.create(client, prompt=PROMPT, max_tokens=1, timeout=None).model == ""


def test_a_server_that_is_gone_is_no_missing_tokenizer(both: Both) -> None:
    client = both.make("127.0.0.1:1", max_retries=0)
    for _ in range(2):
        with pytest.raises(VLLMGrpcConnectionError):
            both.run(client.tokenizer.decoder())


def test_a_sync_client_in_a_thread_is_enough() -> None:
    """The README's first line."""
    with run_vllm_engine() as address:
        host, _, port = address.rpartition(":")
        client = VLLMGrpcClient(host, int(port))
        assert client.completions.create(prompt="The quick brown").choices[0].text
        client.close()
