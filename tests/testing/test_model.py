"""The built-in model: its tokenizer, its text, and what it makes of a JSON Schema."""

import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer

from smg_proto.testing._generation import Piece, Sampling, generate
from smg_proto.testing._json_schema import Unsupported, smallest_text
from smg_proto.testing._model import model
from smg_proto.testing._tokenizer import END, SPECIAL, tokenizer

WORDS = ["The", " gateway", " café", "🙂", " — ", "<think>", "<|end|>", "\n", "  ", "Thé", "token."]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map("".join))


@pytest.fixture(scope="module")
def library() -> LibraryTokenizer:
    return LibraryTokenizer.from_str(tokenizer().to_json())


@given(text=TEXTS)
def test_encode_agrees_with_the_tokenizers_library(library: LibraryTokenizer, text: str) -> None:
    assert tokenizer().encode(text) == library.encode(text, add_special_tokens=False).ids


@given(ids=st.lists(st.integers(0, tokenizer().vocab_size - 1)), skip=st.booleans())
def test_decode_agrees_with_the_tokenizers_library(
    library: LibraryTokenizer, ids: list[int], skip: bool
) -> None:
    ours = tokenizer().decode(ids, skip_special=skip)
    assert ours == library.decode(ids, skip_special_tokens=skip)


@given(text=TEXTS)
def test_decode_undoes_encode(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text), skip_special=False) == text


def test_some_characters_span_tokens_and_words_are_one_token() -> None:
    assert len(tokenizer().encode("é")) == 2
    assert len(tokenizer().encode("🙂")) == 4
    assert len(tokenizer().encode(" gateway")) == 1


def test_bundle_is_a_model_directory_that_the_library_loads() -> None:
    archive = zipfile.ZipFile(io.BytesIO(tokenizer().bundle))
    names = {"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"}
    assert set(archive.namelist()) == names
    loaded = LibraryTokenizer.from_str(archive.read("tokenizer.json").decode())
    assert loaded.get_vocab_size() == tokenizer().vocab_size
    config = json.loads(archive.read("tokenizer_config.json"))
    assert loaded.token_to_id(config["eos_token"]) == END
    assert config["chat_template"]
    assert json.loads(archive.read("config.json"))["vocab_size"] == tokenizer().vocab_size


def answer(prompt: str, sampling: Sampling, index: int = 0) -> list[Piece]:
    return list(generate(model(), model().tokenizer.encode(prompt), sampling, index))


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.none() | st.integers(1, 40),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
    top_k=st.integers(0, 5),
    seed=st.integers(-5, 5),
    min_tokens=st.integers(0, 5),
    stop=st.lists(st.sampled_from(["a", "the", " to", "caf", "é", "s s", ". "]), max_size=3).map(
        tuple
    ),
    logprobs=st.none() | st.integers(0, 4),
    include_stop=st.booleans(),
)


@given(prompt=TEXTS, sampling=SAMPLINGS)
def test_same_prompt_seed_and_sampling_give_the_same_output(
    prompt: str, sampling: Sampling
) -> None:
    assert answer(prompt, sampling) == answer(prompt, sampling)


@given(prompt=TEXTS, sampling=SAMPLINGS)
def test_text_is_that_of_the_tokens_up_to_the_stop(prompt: str, sampling: Sampling) -> None:
    pieces = answer(prompt, sampling)
    whole = model().tokenizer.decode([piece.step.token for piece in pieces])
    text, last = text_of(pieces), pieces[-1]
    assert whole.startswith(text)
    assert all(not piece.finish_reason for piece in pieces[:-1])
    if isinstance(last.matched, str):
        at = len(text) - len(last.matched) if sampling.include_stop else len(text)
        assert whole[at:].startswith(last.matched)
    else:
        assert whole[len(text) :] in ("", "\ufffd")  # half a character, cut off by max_tokens
        assert last.finish_reason == ("stop" if last.step.token == END else "length")
    if not sampling.include_stop and not sampling.min_tokens:
        assert not any(stop in text for stop in sampling.stop)
    if sampling.max_tokens is not None:
        assert len(pieces) <= sampling.max_tokens
    assert len(pieces) >= min(sampling.min_tokens, sampling.max_tokens or 5)


@given(prompt=TEXTS, sampling=SAMPLINGS)
def test_bytes_of_the_steps_start_with_the_text(prompt: str, sampling: Sampling) -> None:
    pieces = answer(prompt, sampling)
    shown = [step for piece in pieces for step in piece.shown]
    data = b"".join(model().tokenizer.token_bytes(step.token) for step in shown)
    assert data.startswith(text_of(pieces).encode())
    for step in shown:
        assert step.logprob <= 0
        assert len(step.top) <= (sampling.logprobs or 1)


def test_prompt_seed_and_choice_make_a_difference() -> None:
    base = text_of(answer("Say hello", Sampling(seed=1)))
    assert text_of(answer("Say goodbye", Sampling(seed=1))) != base
    assert text_of(answer("Say hello", Sampling(seed=2))) != base
    assert text_of(answer("Say hello", Sampling(seed=1), index=1)) != base
    greedy = text_of(answer("Say hello", Sampling(temperature=0, seed=1)))
    assert text_of(answer("Say hello", Sampling(temperature=0, seed=2))) == greedy


def test_outputs_end_and_use_the_words_of_the_corpus() -> None:
    pieces = answer("One contract", Sampling(temperature=0))
    assert pieces[-1].finish_reason == "stop" and len(pieces) < 200
    assert text_of(pieces).startswith(" serves many clients")
    assert all(token >= len(SPECIAL) for token in (piece.step.token for piece in pieces[:-1]))


def test_bias_penalty_and_stop_token_affect_the_output() -> None:
    token = model().tokenizer.encode(" noon")[0]
    forced = answer("x", Sampling(logit_bias=((token, 100.0),), max_tokens=3))
    assert [piece.step.token for piece in forced] == [token] * 3
    stopped = answer("x", Sampling(logit_bias=((token, 100.0),), stop_token_ids=(token,)))
    assert [(p.step.token, p.finish_reason, p.matched) for p in stopped] == [(token, "stop", token)]
    many = answer("x", Sampling(ignore_eos=True, max_tokens=300, temperature=0))
    assert len(many) == 300 and many[-1].finish_reason == "length"


SCHEMAS: list[tuple[object, object]] = [
    ({"type": "object"}, {}),
    ({"type": "object", "required": ["b", "a"], "properties": {"a": {"type": "integer"}}},
     {"b": None, "a": 0}),
    ({"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2}, ["x", "x"]),
    ({"type": "string", "minLength": 3}, "xxx"),
    ({"type": "integer", "exclusiveMinimum": 4}, 5),
    ({"type": "number", "maximum": -2.5}, -2.5),
    ({"type": ["boolean", "null"]}, False),
    ({"type": "object", "required": ["a"], "additionalProperties": {"type": "string"}}, {"a": ""}),
    ({"type": "string", "enum": ["x"], "title": "t"}, "x"),
    ({"const": {"k": [1]}}, {"k": [1]}),
    ({"anyOf": [{"$ref": "#/$defs/t"}], "$defs": {"t": {"type": "boolean"}}}, False),
    (True, None),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value"), SCHEMAS)
def test_smallest_value_of_a_schema(schema: object, value: object) -> None:
    assert json.loads(smallest_text(json.dumps(schema))) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "a+"},
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"type": "integer", "minimum": 0.2, "maximum": 0.8},
        {"$ref": "#"},
        {"$ref": "https://example.com/schema"},
        {"type": "color"},
        {"anyOf": [{"type": "object"}], "required": ["a"]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        False,
        {
            "$defs": {"a": {"type": "array", "minItems": 999, "items": {"$ref": "#/$defs/b"}},
                      "b": {"type": "array", "minItems": 999}},
            "$ref": "#/$defs/a",
        },
    ],
)  # fmt: skip
def test_unsupported_schema_is_rejected(schema: object) -> None:
    with pytest.raises(Unsupported):
        smallest_text(json.dumps(schema))


@pytest.mark.parametrize("text", ["{", '{"type": "array", "minItems": "2"}', '{"enum": []}'])
def test_text_that_is_not_a_schema_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        smallest_text(text)
