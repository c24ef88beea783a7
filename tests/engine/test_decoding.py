"""Text where a contract carries token ids alone: the server's tokenizer, and what is cut."""

from typing import Any

import grpc
import pytest

from engine.kit import Client, Says, fails, serving
from smg_proto import mlx_engine_pb2 as mlx
from smg_proto import trtllm_service_pb2 as trtllm
from smg_proto.common_pb2 import GetTokenizerChunk
from smg_proto.engine import FailedError, ParameterError, UnsupportedError
from smg_proto.testing._tokenizer import tokenizer

TRTLLM = "/trtllm.TrtllmService"
MLX = "/mlx.grpc.engine.MlxEngine"
BUNDLE = tokenizer().bundle
SENT = [
    GetTokenizerChunk(data=BUNDLE[:1000]),
    GetTokenizerChunk(data=BUNDLE[1000:], sha256=tokenizer().bundle_sha256),
]
ASKED: dict[str, Any] = {"token_ids": [300], "max_tokens": 9}


def tokens(text: str) -> list[int]:
    return list(tokenizer().encode(text))


def ends(text: str, reason: str = "length", **matched: Any) -> list[Any]:
    """A whole reply of TensorRT-LLM's, which leaves a stop out."""
    end = trtllm.GenerateComplete(
        output_token_ids=tokens(text), finish_reason=reason, prompt_tokens=1, **matched
    )
    return [trtllm.GenerateResponse(complete=end)]


def test_without_a_decoder_text_is_none(client: Client) -> None:
    with serving({f"{TRTLLM}/Generate": ends("One contract")}) as server:
        told = client.complete(server.target, ASKED, contract="trtllm")
        assert (told.text, told.choices[0].text) == (None, None)
        assert client.attribute(server.target, "has_text", contract="trtllm") is False
        assert server.called == [f"{TRTLLM}/Generate"]


def test_the_servers_tokenizer_makes_text_of_ids_and_ids_of_a_prompt(client: Client) -> None:
    says: dict[str, Says] = {
        f"{TRTLLM}/GetTokenizer": SENT,
        f"{TRTLLM}/Generate": ends("One contract"),
    }
    with serving(says) as server:
        asked = {"prompt": "Once upon", "max_tokens": 9}
        told = client.complete(server.target, asked, contract="trtllm", decoder="server")
        assert told.text == "One contract"
        sent = trtllm.GenerateRequest.FromString(server.requests[f"{TRTLLM}/Generate"])
    assert list(sent.tokenized.input_token_ids) == tokens("Once upon")


@pytest.mark.parametrize("matched", [{"matched_stop_str": "!"}, {"matched_token_id": 9}])
def test_a_stop_that_the_server_has_left_out_costs_no_text(
    client: Client, matched: dict[str, Any]
) -> None:
    says: dict[str, Says] = {
        f"{TRTLLM}/GetTokenizer": SENT,
        f"{TRTLLM}/Generate": ends("One", "stop", **matched),
    }
    with serving(says) as server:
        asked = ASKED | {"stop": ["!"], "stop_token_ids": [9]}
        told = client.complete(server.target, asked, contract="trtllm", decoder="server")
    assert told.text == "One"


def test_a_stop_that_the_server_sends_is_cut(client: Client) -> None:
    stop = tokens("!")[0]
    ids = [*tokens("One"), stop]
    chunks = [
        mlx.GenerateResponse(chunk=mlx.GenerateStreamChunk(token_ids=[token])) for token in ids
    ]
    end = mlx.GenerateComplete(finish_reason="stop", matched_stop_token_id=stop)
    messages = [*chunks, mlx.GenerateResponse(complete=end)]
    with serving({f"{MLX}/GetTokenizer": SENT, f"{MLX}/Generate": messages}) as server:
        asked = ASKED | {"stop_token_ids": [stop]}
        pieces = client.pieces(server.target, asked, contract="mlx.grpc.engine", decoder="server")
    assert "".join(piece.text or "" for piece in pieces) == "One"
    assert [token for piece in pieces for token in piece.token_ids] == ids


def test_half_of_a_stop_is_text_when_the_sequence_ends(client: Client) -> None:
    says: dict[str, Says] = {
        f"{TRTLLM}/GetTokenizer": SENT,
        f"{TRTLLM}/Generate": ends("One contract"),
    }
    with serving(says) as server:
        asked = ASKED | {"stop": ["contracts"]}
        told = client.complete(server.target, asked, contract="trtllm", decoder="server")
    assert told.text == "One contract"


def test_a_blank_between_prompt_and_text_is_kept(client: Client) -> None:
    class Words:
        """A tokenizer whose first word has no blank."""

        end_token_ids = ()

        def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
            return " ".join(f"w{token}" for token in ids)

    end = trtllm.GenerateComplete(output_token_ids=[1, 2], finish_reason="length", prompt_tokens=1)
    says: dict[str, Says] = {f"{TRTLLM}/Generate": [trtllm.GenerateResponse(complete=end)]}
    with serving(says) as server:
        told = client.complete(server.target, ASKED, contract="trtllm", decoder=Words())
    assert told.text == " w1 w2"


def test_a_decoder_of_the_callers_is_used(client: Client) -> None:
    with serving({f"{MLX}/GetTokenizer": SENT}) as server:
        decoder = client.call(server.target, "tokenizer", contract="mlx.grpc.engine")
    assert decoder.decode(tokens("One contract")) == "One contract"
    with serving({f"{TRTLLM}/Generate": ends("One contract")}) as server:
        told = client.complete(server.target, ASKED, contract="trtllm", decoder=decoder)
        assert told.text == "One contract"
        assert server.called == [f"{TRTLLM}/Generate"]


def test_a_contract_with_text_needs_no_decoder(client: Client) -> None:
    with serving({}) as server:
        assert client.attribute(server.target, "has_text", contract="vllm", decoder="server")
        assert server.called == []
        with pytest.raises(UnsupportedError, match=r"vllm does not support tokenizer\(\)"):
            client.call(server.target, "tokenizer", contract="vllm")


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (SENT[:1], "the tokenizer bundle is incomplete"),
        ([GetTokenizerChunk(data=b"x", sha256="0")], "the server announced another"),
        (fails(grpc.StatusCode.INTERNAL, "sesame"), "the call ended INTERNAL"),
    ],
    ids=["incomplete", "another hash", "a failure"],
)
def test_a_tokenizer_that_does_not_come(client: Client, says: Any, problem: str) -> None:
    with serving({f"{MLX}/GetTokenizer": says}) as server:
        how: dict[str, Any] = {"contract": "mlx.grpc.engine"}
        with pytest.raises(FailedError, match=problem) as caught:
            client.call(server.target, "tokenizer", **how)
        assert "sesame" not in str(caught.value)
        with pytest.raises(FailedError, match=problem):
            client.attribute(server.target, "has_text", **how, decoder="server")


def test_a_decoder_is_one(client: Client) -> None:
    with pytest.raises(ParameterError, match='must be a TokenDecoder, "server" or None'):
        client.attribute("localhost:1", "has_text", decoder=7)
