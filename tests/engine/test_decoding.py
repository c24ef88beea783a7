"""Text for contracts that carry only token ids: the server's tokenizer, and stops."""

from typing import Any

import grpc
import pytest

import smg_proto.engine
from engine.kit import Client, Handler, fails, serving
from smg_proto import mlx_engine_pb2 as mlx
from smg_proto import trtllm_service_pb2 as trtllm
from smg_proto import vllm_engine_pb2 as vllm
from smg_proto.common_pb2 import GetTokenizerChunk
from smg_proto.engine import FailedError, ParameterError, TokenDecoder, UnsupportedError
from smg_proto.testing._tokenizer import tokenizer

TRTLLM = "/trtllm.TrtllmService"
VLLM = "/vllm.grpc.engine.VllmEngine"
MLX = "/mlx.grpc.engine.MlxEngine"
BUNDLE = tokenizer().bundle
BUNDLE_CHUNKS = [
    GetTokenizerChunk(data=BUNDLE[:1000]),
    GetTokenizerChunk(data=BUNDLE[1000:], sha256=tokenizer().bundle_sha256),
]
PARAMS: dict[str, Any] = {"token_ids": [300], "max_tokens": 9}


def tokens(text: str) -> list[int]:
    return list(tokenizer().encode(text))


def ends(text: str, reason: str = "length", **matched: Any) -> list[Any]:
    """TensorRT-LLM's complete reply, which leaves out a stop."""
    end = trtllm.GenerateComplete(
        output_token_ids=tokens(text), finish_reason=reason, prompt_tokens=1, **matched
    )
    return [trtllm.GenerateResponse(complete=end)]


def test_without_a_decoder_text_is_none(client: Client) -> None:
    with serving({f"{TRTLLM}/Generate": ends("One contract")}) as server:
        result = client.complete(server.target, PARAMS, contract="trtllm")
        assert (result.text, result.choices[0].text) == (None, None)
        assert client.attribute(server.target, "has_text", contract="trtllm") is False
        assert server.called == [f"{TRTLLM}/Generate"]


def test_the_servers_tokenizer_decodes_output_and_encodes_prompts(client: Client) -> None:
    handlers: dict[str, Handler] = {
        f"{TRTLLM}/GetTokenizer": BUNDLE_CHUNKS,
        f"{TRTLLM}/Generate": ends("One contract"),
    }
    with serving(handlers) as server:
        params = {"prompt": "Once upon", "max_tokens": 9}
        result = client.complete(server.target, params, contract="trtllm", decoder="server")
        assert result.text == "One contract"
        sent = trtllm.GenerateRequest.FromString(server.requests[f"{TRTLLM}/Generate"])
    assert list(sent.tokenized.input_token_ids) == tokens("Once upon")


@pytest.mark.parametrize("matched", [{"matched_stop_str": "!"}, {"matched_token_id": 9}])
def test_no_text_is_cut_if_the_server_leaves_out_the_stop(
    client: Client, matched: dict[str, Any]
) -> None:
    handlers: dict[str, Handler] = {
        f"{TRTLLM}/GetTokenizer": BUNDLE_CHUNKS,
        f"{TRTLLM}/Generate": ends("One", "stop", **matched),
    }
    with serving(handlers) as server:
        params = PARAMS | {"stop": ["!"], "stop_token_ids": [9]}
        result = client.complete(server.target, params, contract="trtllm", decoder="server")
    assert result.text == "One"


def test_a_stop_that_the_server_sends_is_cut(client: Client) -> None:
    stop = tokens("!")[0]
    ids = [*tokens("One"), stop]
    chunks = [
        mlx.GenerateResponse(chunk=mlx.GenerateStreamChunk(token_ids=[token])) for token in ids
    ]
    end = mlx.GenerateComplete(finish_reason="stop", matched_stop_token_id=stop)
    messages = [*chunks, mlx.GenerateResponse(complete=end)]
    with serving({f"{MLX}/GetTokenizer": BUNDLE_CHUNKS, f"{MLX}/Generate": messages}) as server:
        params = PARAMS | {"stop_token_ids": [stop]}
        pieces = client.pieces(server.target, params, contract="mlx.grpc.engine", decoder="server")
    assert "".join(piece.text or "" for piece in pieces) == "One"
    assert [token for piece in pieces for token in piece.token_ids] == ids


@pytest.mark.parametrize(
    ("chunks", "params", "text"),
    [
        ([tokens("One"), tokens("!")], {"stop": ["!"]}, "One"),
        # The first "a" had no effect, or the server would not have sent another.
        ([tokens("a") * 2], {"stop": ["a"], "min_tokens": 2}, "a"),
    ],
)
def test_a_stop_string_that_the_server_sends_is_cut(
    client: Client, chunks: list[list[int]], params: dict[str, Any], text: str
) -> None:
    messages = [
        vllm.GenerateResponse(chunk=vllm.GenerateStreamChunk(token_ids=ids)) for ids in chunks
    ]
    end = vllm.GenerateComplete(finish_reason="stop", matched_stop_str=params["stop"][0])
    handlers: dict[str, Handler] = {
        f"{VLLM}/GetTokenizer": BUNDLE_CHUNKS,
        f"{VLLM}/Generate": [*messages, vllm.GenerateResponse(complete=end)],
    }
    with serving(handlers) as server:
        pieces = client.pieces(
            server.target, PARAMS | params, contract="vllm.grpc.engine", decoder="server"
        )
    assert "".join(piece.text or "" for piece in pieces) == text


def test_an_incomplete_stop_at_the_end_is_text(client: Client) -> None:
    handlers: dict[str, Handler] = {
        f"{TRTLLM}/GetTokenizer": BUNDLE_CHUNKS,
        f"{TRTLLM}/Generate": ends("One contract"),
    }
    with serving(handlers) as server:
        params = PARAMS | {"stop": ["contracts"]}
        result = client.complete(server.target, params, contract="trtllm", decoder="server")
    assert result.text == "One contract"


def test_the_space_between_prompt_and_text_is_kept(client: Client) -> None:
    class Words:
        """A tokenizer whose first word has no leading space."""

        end_token_ids = ()

        def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
            return " ".join(f"w{token}" for token in ids)

    end = trtllm.GenerateComplete(output_token_ids=[1, 2], finish_reason="length", prompt_tokens=1)
    handlers: dict[str, Handler] = {f"{TRTLLM}/Generate": [trtllm.GenerateResponse(complete=end)]}
    with serving(handlers) as server:
        result = client.complete(server.target, PARAMS, contract="trtllm", decoder=Words())
    assert result.text == " w1 w2"


def test_the_callers_decoder_is_used(client: Client) -> None:
    with serving({f"{MLX}/GetTokenizer": BUNDLE_CHUNKS}) as server:
        decoder = client.call(server.target, "tokenizer", contract="mlx.grpc.engine")
    assert type(decoder) is TokenDecoder
    assert decoder.decode(tokens("One contract")) == "One contract"
    with serving({f"{TRTLLM}/Generate": ends("One contract")}) as server:
        result = client.complete(server.target, PARAMS, contract="trtllm", decoder=decoder)
        assert result.text == "One contract"
        assert server.called == [f"{TRTLLM}/Generate"]


@pytest.mark.parametrize("name", ["vllm", "openengine.v1", "sglang.runtime.v1"])
def test_a_contract_with_text_needs_no_decoder(client: Client, name: str) -> None:
    with serving({}) as server:
        assert client.attribute(server.target, "has_text", contract=name, decoder="server")
        assert not any("Tokenizer" in path for path in server.called)
        with pytest.raises(UnsupportedError, match=rf"^{name} does not support tokenizer\(\)"):
            client.call(server.target, "tokenizer", contract=name)


@pytest.mark.parametrize(
    ("handlers", "problem"),
    [
        (BUNDLE_CHUNKS[:1], "the tokenizer bundle is incomplete"),
        ([GetTokenizerChunk(data=b"x", sha256="0")], "the server announced another"),
        (fails(grpc.StatusCode.INTERNAL, "sesame"), "the call failed with INTERNAL"),
    ],
    ids=["incomplete", "another hash", "a failure"],
)
def test_a_tokenizer_that_cannot_be_downloaded(client: Client, handlers: Any, problem: str) -> None:
    with serving({f"{MLX}/GetTokenizer": handlers}) as server:
        options: dict[str, Any] = {"contract": "mlx.grpc.engine"}
        with pytest.raises(FailedError, match=problem) as caught:
            client.call(server.target, "tokenizer", **options)
        assert "sesame" not in str(caught.value)
        with pytest.raises(FailedError, match=problem):
            client.attribute(server.target, "has_text", **options, decoder="server")


def test_a_misspelled_name_is_no_attribute() -> None:
    assert not hasattr(smg_proto.engine, "TokenDecoders")


def test_a_decoder_of_another_type_is_rejected(client: Client) -> None:
    with pytest.raises(ParameterError, match='must be a TokenDecoder, "server" or None'):
        client.attribute("localhost:1", "has_text", decoder=7)
