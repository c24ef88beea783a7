"""Results as objects: their fields and defaults, and what they are made from."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm import (
    ChatCompletion,
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    HealthCheckResponse,
    Loads,
    ModelInfo,
    ModelList,
    Outcome,
    ServerInfo,
)
from smg_proto.vllm._types import Generated, Result, embedding_response

REQUIRED: dict[str, dict[str, Any]] = {
    "CompletionUsage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "EmbeddingUsage": {"prompt_tokens": 1, "total_tokens": 1},
    "ChatTopLogprob": {"token": "a", "logprob": -1.0, "token_id": 5},
    "ChatTokenLogprob": {"token": "a", "logprob": -1.0, "token_id": 5},
    "Embedding": {"embedding": [0.5]},
    "HealthCheckResponse": {"healthy": True},
    "Outcome": {"success": True},
    "CompletionChunk": {"id": "i"},
    "ChatCompletionChunk": {"id": "i"},
    "ModelInfo": {
        "model_path": "p", "is_generation": True, "max_context_length": 1, "vocab_size": 2,
        "supports_vision": False,
    },
}  # fmt: skip
REQUIRED["ModelList"] = REQUIRED["ModelInfo"]
RECORDED = Path(__file__).with_name("result_defaults.json")


def kinds() -> list[type[Result]]:
    found: list[type[Result]] = [Result]
    for kind in found:
        found += kind.__subclasses__()
    bases = ("Result", "Generated", "Decodable", "Copied", "SchedulerLoad")
    public = [kind for kind in found if kind.__name__ not in bases]
    return sorted(public, key=lambda kind: kind.__name__)


def defaults() -> dict[str, Any]:
    made = {kind.__name__: kind(**REQUIRED.get(kind.__name__, {})) for kind in kinds()}
    return {name: one.model_dump(exclude={"id", "created"}) for name, one in made.items()}


def test_fields_and_defaults_are_those_that_were_recorded() -> None:
    """`python tests/vllm/test_types.py` records them again; what changes is a user's change."""
    assert defaults() == json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", REQUIRED)
def test_required_fields_are_required(name: str) -> None:
    (kind,) = (one for one in kinds() if one.__name__ == name)
    for field in REQUIRED[name]:
        with pytest.raises(ValidationError, match=field):
            kind(**{key: value for key, value in REQUIRED[name].items() if key != field})


@pytest.mark.parametrize(("kind", "prefix"), [(Completion, "cmpl"), (ChatCompletion, "chatcmpl")])
def test_results_have_an_id_and_a_time(kind: Any, prefix: str) -> None:
    one: Generated = kind()
    assert re.fullmatch(prefix + "-[0-9a-f]{24}", one.id) and one.id != kind().id
    assert one.request_id == one.id
    assert abs(one.created - time.time()) < 60 and type(one.created) is int
    assert kind(id="mine", created=5, model="m").model_dump(include={"id", "created", "model"}) == {
        "id": "mine",
        "created": 5,
        "model": "m",
    }


def test_both_names_of_a_chunks_parts_are_the_same() -> None:
    choice = CompletionChunkChoice(delta_text="a", delta_token_ids=[5])
    assert (choice.text, choice.token_ids) == ("a", [5])


def test_a_completion_lists_the_messages_of_ended_choices() -> None:
    end = pb.GenerateComplete(index=1)
    choices = [CompletionChoice(), CompletionChoice(raw=end)]
    assert Completion(choices=choices).raw == [end]
    assert CompletionChunk(id="i").raw is None


def test_embeddings_keep_their_order_and_sum_their_tokens() -> None:
    replies = [pb.EmbedResponse(embedding=[n, 0.5], prompt_tokens=n + 1) for n in range(3)]
    made = embedding_response(replies, "m")
    assert [(one.index, one.embedding) for one in made.data] == [(n, [n, 0.5]) for n in range(3)]
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.total_tokens, made.model) == (6, 6, "m")
    assert made.raw == replies


def test_a_model_is_described_field_by_field() -> None:
    wire = pb.GetModelInfoResponse(
        model_path="/m", tokenizer_path="/t", is_generation=True, max_context_length=9,
        vocab_size=8, supports_vision=True, served_model_name="name", model_type="llama",
        architectures=["A"], eos_token_ids=[2, 3], pad_token_id=4, bos_token_id=5,
        max_req_input_len=6, default_sampling_params_json='{"top_k": 7}',
    )  # fmt: skip
    info = ModelInfo.from_grpc(wire)
    assert info.model_dump() == {
        "model_path": "/m", "tokenizer_path": "/t", "is_generation": True, "max_context_length": 9,
        "vocab_size": 8, "supports_vision": True, "served_model_name": "name",
        "model_type": "llama", "architectures": ["A"], "eos_token_ids": [2, 3], "pad_token_id": 4,
        "bos_token_id": 5, "max_req_input_len": 6, "default_sampling_params": {"top_k": 7},
        "object": "model",
    }  # fmt: skip
    assert info.raw is wire and info.id == "name"
    assert ModelInfo.from_grpc(pb.GetModelInfoResponse(model_path="/m")).id == "/m"
    several = ModelList.of(info)
    assert several.data == [info] == list(several) and len(several) == 1
    assert (several.object, several.id, several.default_sampling_params) == (
        "list", "name", {"top_k": 7},
    )  # fmt: skip


def test_activity_is_unknown_unless_a_server_reports_some_of_it() -> None:
    unknown = ServerInfo.from_grpc(pb.GetServerInfoResponse(block_size=16, kv_role="r"))
    assert (unknown.active_requests, unknown.is_paused, unknown.server_type) == (None, None, None)
    assert (unknown.last_receive_timestamp, unknown.uptime_seconds) == (None, None)
    assert (unknown.block_size, unknown.kv_role) == (16, "r")
    known = ServerInfo.from_grpc(pb.GetServerInfoResponse(server_type="vllm"))
    assert (known.active_requests, known.is_paused, known.server_type) == (0, False, "vllm")
    assert known.raw is not None and known.raw.server_type == "vllm"


def test_load_is_the_sum_of_all_ranks() -> None:
    wire = pb.GetLoadsResponse(timestamp="t", version="v")
    wire.loads.add(dp_rank=0, num_total_reqs=2, token_usage=0.5)
    wire.loads.add(dp_rank=1, num_total_reqs=3)
    loads = Loads.from_grpc(wire)
    assert (loads.active_requests, loads.timestamp, loads.version) == (5, "t", "v")
    assert [(one.dp_rank, one.token_usage) for one in loads.loads] == [(0, 0.5), (1, 0.0)]
    assert loads.raw is wire


def test_small_replies_are_copied() -> None:
    healthy = HealthCheckResponse.from_grpc(pb.HealthCheckResponse(healthy=True, message="m"))
    assert healthy.model_dump() == {"healthy": True, "message": "m"}
    assert Outcome(success=False).message == ""


if __name__ == "__main__":
    text = json.dumps(defaults(), indent=1, sort_keys=True)
    RECORDED.write_text(text + "\n", encoding="utf-8")
