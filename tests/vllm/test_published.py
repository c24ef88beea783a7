"""The client against the published servicer 0.14.1, unmodified, in a process of its own."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from peers.start import Servicer, published_servicer, servicer_environment
from vllm_kit import Both, text_of, used

from smg_proto.vllm import (
    StructuredOutputs,
    TokenDecoder,
    VLLMGrpcClient,
    VLLMGrpcError,
    VLLMGrpcInternalError,
    VLLMGrpcInvalidArgumentError,
    VLLMGrpcNotFoundError,
    VLLMGrpcResourceExhaustedError,
    VLLMGrpcUnavailableError,
    VLLMGrpcUnimplementedError,
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def servicer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servicer]:
    home = tmp_path_factory.mktemp("published")
    python = servicer_environment(home / "env")
    with published_servicer(python, home / "run", delta=2) as running:
        yield running


@pytest.fixture(scope="module")
def decoder(servicer: Servicer) -> TokenDecoder:
    with VLLMGrpcClient(target=servicer.address) as client:
        return TokenDecoder.from_client(client)


@pytest.fixture
def client(both: Both, servicer: Servicer, decoder: TokenDecoder) -> Any:
    return both.make(servicer.address, decoder=decoder, initial_backoff=0.01, max_backoff=0.02)


# Its engine answers a prompt with the prompt; a token is a byte.


def test_a_stream_brings_every_token_once(both: Both, client: Any) -> None:
    text = "one two three"
    chunks = both.chunks(client, prompt=list(text.encode()))
    ids = [i for c in chunks for i in c.choices[0].token_ids]
    final = both.final(client, prompt=list(text.encode()))
    whole = both.create(client, prompt=list(text.encode()))
    assert ids == final.choices[0].token_ids == whole.choices[0].token_ids
    assert bytes(i for i in ids if i < 256).decode() == text
    assert used(final).completion_tokens == used(whole).completion_tokens == len(ids)
    assert used(final).prompt_tokens == len(text)
    assert final.choices[0].text == whole.choices[0].text == text
    assert text_of(chunks) == text
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


def test_every_one_of_n_choices_comes_back(both: Both, client: Any) -> None:
    for read in (both.create, both.final):
        got = read(client, prompt="abcdef", n=3)
        assert [c.text for c in got.choices] == ["abcdef", "bcdef", "cdef"]
        assert [c.index for c in got.choices] == [0, 1, 2]
        assert used(got).completion_tokens == sum(len(c.token_ids) for c in got.choices)


def test_characters_that_span_chunks_stay_whole(both: Both, client: Any) -> None:
    text = "héllo 👍 日本"
    chunks = both.chunks(client, prompt=text)
    assert text_of(chunks) == text
    assert not any("\ufffd" in (c.choices[0].text or "") for c in chunks)


def test_stops_are_reported_and_cut(both: Both, client: Any) -> None:
    for read in (both.create, both.final):
        choice = read(client, prompt="one two three four", stop=["three"]).choices[0]
        assert (choice.text, choice.stop_reason) == ("one two ", "three")
        choice = read(client, prompt="one two", stop_token_ids=[ord("w")]).choices[0]
        assert (choice.text, choice.stop_reason) == ("one t", ord("w"))
        choice = read(client, prompt="one two", max_tokens=3).choices[0]
        assert (choice.text, choice.finish_reason, choice.stop_reason) == ("one", "length", None)


def test_logprobs_come_as_the_server_lays_them_out(both: Both, client: Any) -> None:
    for read in (both.create, both.final):
        choice = read(client, prompt="abc", logprobs=2, prompt_logprobs=1).choices[0]
        assert choice.logprobs is not None and choice.prompt_logprobs is not None
        assert choice.logprobs.token_ids == choice.token_ids
        assert len(choice.logprobs.token_logprobs) == len(choice.token_ids)
        assert all(top and len(top) == 2 for top in choice.logprobs.top_ids)
        assert choice.prompt_logprobs.token_logprobs[0] is None
        assert choice.prompt_logprobs.token_ids == list(b"abc")


def test_parameters_reach_the_engine(both: Both, client: Any, servicer: Servicer) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    both.create(
        client, prompt="abc", request_id=f"params-{both.asynchronous}", temperature=0.5, seed=7,
        structured_outputs=StructuredOutputs(regex="a+"), traceparent=trace,
    )  # fmt: skip
    sent = [
        e
        for e in servicer.events()
        if e["event"] == "generate" and e["request_id"].startswith("params-")
    ][-1]
    given = sent["sampling_params"]
    assert (given["temperature"], given["seed"], given["n"]) == (0.5, 7, 1)
    assert given["top_p"] == 1.0 and given["max_tokens"] is None
    assert given["skip_special_tokens"] is True
    assert "a+" in str(given["structured_outputs"])
    assert sent["trace_headers"]["traceparent"] == trace


def test_leaving_a_stream_ends_the_request_in_the_engine(
    both: Both, client: Any, servicer: Servicer
) -> None:
    request_id = f"left-{both.asynchronous}"
    both.each(both.stream(client, prompt="hold on !hold", request_id=request_id), lambda _: True)

    def ended() -> bool:
        mine = [e for e in servicer.events() if e.get("request_id") == request_id]
        return any(e["event"] in ("cancelled", "aborted") for e in mine)

    both.eventually(ended)


def test_an_abort_is_a_finish_reason(both: Both, client: Any) -> None:
    stream: Any = both.stream(client, prompt="hold on !hold")
    both.next(stream)
    both.run(client.health.abort(stream.request_id))
    assert both.run(stream.get_final_completion()).choices[0].finish_reason == "abort"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("client", VLLMGrpcInvalidArgumentError),
        ("not_found", VLLMGrpcNotFoundError),
        ("engine", VLLMGrpcInternalError),
        ("other", VLLMGrpcInternalError),
        ("overload", VLLMGrpcResourceExhaustedError),
        ("unavailable", VLLMGrpcUnavailableError),
    ],
)
def test_failures_of_the_engine_are_typed(
    kind: str, expected: type[VLLMGrpcError], both: Both, client: Any
) -> None:
    for read in (both.create, both.final):
        with pytest.raises(expected):
            read(client, prompt=f"x !fail:{kind}", max_retries=1)
    stream = both.stream(client, prompt=f"x !fail:{kind}@4")
    with pytest.raises(expected):
        both.each(stream)
    assert len(stream.completion.choices[0].token_ids) >= 4


def test_everything_else_that_it_offers(
    both: Both, client: Any, servicer: Servicer, decoder: TokenDecoder
) -> None:
    info = both.run(client.models.retrieve())
    assert info.model_path == str(servicer.model) and info.id
    assert both.create(client, prompt="x").model == info.id
    assert both.run(client.health.check()).healthy
    server = both.run(client.health.server_info())
    assert server.active_requests is None and server.data_parallel_size >= 1
    assert both.run(client.loads.retrieve()).loads
    bundle = both.run(client.tokenizer.download())
    assert hashlib.sha256(bundle.data).hexdigest() == bundle.sha256
    assert decoder.decode(list(b"abc")) == "abc"
    embedding = both.run(client.embeddings.create(input=["abc", [1, 2]]))
    assert [e.index for e in embedding.data] == [0, 1]
    assert used(both.create(client, prompt=[65] * 40, max_tokens=1)).prompt_tokens == 40
    assert used(both.create(client, prompt=[65] * 40, max_tokens=1)).cached_tokens == 32
    assert both.run(client.admin.flush_cache()).success
    assert both.run(client.admin.start_profile()).success
    assert both.run(client.admin.stop_profile()).success
    with pytest.raises(VLLMGrpcUnimplementedError):  # it runs without a publisher of events
        both.next(both.run(client.kv_events.subscribe()))
    transfer = both.create(
        client, prompt="x", max_tokens=1, kv_transfer_params={"do_remote_decode": True}
    )
    assert (transfer.choices[0].kv_transfer_params or {})["remote_engine_id"] == "fake"
