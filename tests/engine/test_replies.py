"""Reading the replies of each contract."""

import json
from typing import Any

import pytest

from engine.kit import Client, serving
from smg_proto import mlx_engine_pb2 as mlx
from smg_proto import openengine_pb2 as openengine
from smg_proto import sglang_runtime_pb2 as runtime
from smg_proto import sglang_scheduler_pb2 as scheduler
from smg_proto import tokenspeed_scheduler_pb2 as tokenspeed
from smg_proto import trtllm_service_pb2 as trtllm
from smg_proto import vllm_control_pb2 as control
from smg_proto import vllm_engine_pb2 as engine
from smg_proto import vllm_inference_pb2 as vllm
from smg_proto._standard import message_class
from smg_proto.engine import (
    BusyError,
    FailedError,
    Health,
    Info,
    Load,
    Logprob,
    Piece,
    RequestError,
    UnsupportedError,
    Usage,
)
from smg_proto.engine._contracts import load
from smg_proto.engine._request import check

IDS: dict[str, Any] = {"token_ids": [5, 6], "max_tokens": 7}


def read(name: str, *messages: Any, facts: Any = None, stream: bool = True, **more: Any) -> Any:
    """The pieces of these messages."""
    params = check((IDS if "prompt" not in more else {}) | more)
    reader = load(name).reader(params, stream, facts)
    return [piece for message in messages for piece in reader.read(message)]


def test_what_is_unset_and_what_is_not_shown() -> None:
    assert Piece() == Piece(0, "", (), ())
    reply = engine.GetModelInfoResponse(model_path="/m")
    for whole in (Info("vllm", "m", replies=(reply,)), Load(1, 2, replies=(reply,))):
        assert whole.replies == (reply,) and "replies" not in repr(whole)


# --- the gateway's contracts ---------------------------------------------------------------------


def test_tokens_that_complete_repeats_are_not_read_twice() -> None:
    chunk = engine.GenerateStreamChunk(token_ids=[1, 2], prompt_tokens=4, completion_tokens=2)
    end = engine.GenerateComplete(
        output_ids=[3], finish_reason="stop", prompt_tokens=4, completion_tokens=1, cached_tokens=2
    )
    end.matched_stop_str = "x"
    last = engine.GenerateStreamChunk(token_ids=[3], completion_tokens=1)
    messages = [engine.GenerateResponse(chunk=one) for one in (chunk, last)]
    assert read("vllm.grpc.engine", *messages, engine.GenerateResponse(complete=end)) == [
        Piece(0, None, (1, 2)),
        Piece(0, None, (3,)),
        Piece(0, None, finish_reason="stop", matched_stop="x", usage=Usage(4, 3, 2)),
    ]


def test_a_complete_without_chunks_has_all_tokens() -> None:
    end = engine.GenerateComplete(output_ids=[3, 4], finish_reason="length", prompt_tokens=4)
    end.matched_token_id = 0
    (piece,) = read("vllm.grpc.engine", engine.GenerateResponse(complete=end))
    assert (piece.token_ids, piece.usage) == ((3, 4), Usage(4, 2, 0))
    assert piece.matched_stop == 0  # a real token


def test_choices_without_a_number_are_numbered_in_order() -> None:
    ends = [
        scheduler.GenerateResponse(
            complete=scheduler.GenerateComplete(output_ids=[number], finish_reason="stop")
        )
        for number in (7, 8)
    ]
    result = read("sglang.grpc.scheduler", *ends, stream=False, n=2)
    assert [(piece.index, piece.token_ids) for piece in result] == [(0, (7,)), (1, (8,))]


def test_log_probabilities_with_fewer_candidates_than_tokens() -> None:
    chunk = scheduler.GenerateStreamChunk(token_ids=[1, 2])
    chunk.output_logprobs.token_ids.extend([1, 2])
    chunk.output_logprobs.token_logprobs.extend([-0.5, -1.5])
    chunk.output_logprobs.top_logprobs.add(token_ids=[9, 8], values=[-0.25])
    (piece,) = read("sglang.grpc.scheduler", scheduler.GenerateResponse(chunk=chunk), logprobs=1)
    assert piece.logprobs == (Logprob(1, -0.5, ((9, -0.25),)), Logprob(2, -1.5))


def test_log_probabilities_of_trtllm() -> None:
    top = trtllm.TopLogprob(token_id=9, logprob=-0.25)
    new = trtllm.GenerateStreamChunk(
        token_ids=[1],
        logprobs=[trtllm.TokenLogprob(token_id=1, logprob=-0.5, top_logprobs=[top])],
    )
    (piece,) = read("trtllm", trtllm.GenerateResponse(chunk=new), logprobs=1)
    assert piece.logprobs == (Logprob(1, -0.5, ((9, -0.25),)),)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [("stop", "stop"), ("cancelled", "abort"), ("", "stop"), ("timeout", "timeout")],
)
def test_reasons(sent: str, reason: str) -> None:
    end = trtllm.GenerateComplete(finish_reason=sent, output_token_ids=[1], sequence_index=1)
    (piece,) = read("trtllm", trtllm.GenerateResponse(complete=end), n=2)
    assert (piece.index, piece.finish_reason) == (1, reason)


def finished(reason: Any) -> Any:
    return openengine.GenerateResponse(finished=openengine.GenerationFinished(reason=reason))


def outputs(reason: Any) -> Any:
    end = vllm.FinishInfo(finish_reason=reason)
    return vllm.GenerateResponse(outputs=vllm.SequenceOutput(finish_info=end))


@pytest.mark.parametrize(
    ("name", "message", "reason"),
    [
        ("openengine.v1", finished(openengine.FINISH_REASON_STOP), "stop"),
        ("openengine.v1", finished(openengine.FINISH_REASON_LENGTH), "length"),
        ("openengine.v1", finished(openengine.FINISH_REASON_CANCELLED), "abort"),
        ("openengine.v1", finished(openengine.FINISH_REASON_UNSPECIFIED), "stop"),
        ("vllm", outputs(vllm.FinishInfo.STOP), "stop"),
        ("vllm", outputs(vllm.FinishInfo.LENGTH), "length"),
        ("vllm", outputs(vllm.FinishInfo.ABORTED), "abort"),
        ("vllm", outputs(9), "9"),
    ],
)
def test_reasons_of_the_engines_contracts(name: str, message: Any, reason: str) -> None:
    (piece,) = read(name, message)
    assert piece.finish_reason == reason


def test_choices_with_a_number_may_arrive_in_any_order() -> None:
    ends = [
        engine.GenerateResponse(
            complete=engine.GenerateComplete(index=n, output_ids=[n], finish_reason="stop")
        )
        for n in (1, 0)
    ]
    result = read("vllm.grpc.engine", *ends, stream=False, n=2)
    assert [(piece.index, piece.token_ids) for piece in result] == [(1, (1,)), (0, (0,))]


def test_log_probabilities_of_a_whole_reply(client: Client) -> None:
    end = engine.GenerateComplete(output_ids=[1, 2], finish_reason="stop")
    end.output_logprobs.token_ids.extend([1, 2])
    end.output_logprobs.token_logprobs.extend([-0.5, -1.5])
    handlers: Any = {
        "/vllm.grpc.engine.VllmEngine/Generate": [engine.GenerateResponse(complete=end)]
    }
    with serving(handlers) as server:
        for asked, expected in (({"logprobs": 0}, (Logprob(1, -0.5), Logprob(2, -1.5))), ({}, ())):
            found = client.complete(server.target, IDS | asked, contract="vllm.grpc.engine")
            assert found.choices[0].logprobs == expected


@pytest.mark.parametrize("ids", [(1,), ()])
def test_a_stream_of_mlx_that_ends_without_complete_was_aborted(
    client: Client, ids: tuple[int, ...]
) -> None:
    chunk = mlx.GenerateResponse(chunk=mlx.GenerateStreamChunk(token_ids=ids))
    with serving({"/mlx.grpc.engine.MlxEngine/Generate": [chunk]}) as server:
        result = client.complete(server.target, IDS, contract="mlx.grpc.engine")
    assert (result.token_ids, result.choices[0].finish_reason) == (ids, "abort")
    assert result.usage == Usage(None, len(ids))


@pytest.mark.parametrize(
    ("name", "pb", "engine", "version"),
    [
        ("vllm.grpc.engine", engine, "vLLM", {}),
        ("sglang.grpc.scheduler", scheduler, "SGLang 1.2", {"sglang_version": "1.2"}),
        ("tokenspeed.grpc.scheduler", tokenspeed, "TokenSpeed 1.2", {"tokenspeed_version": "1.2"}),
        ("tokenspeed.grpc.scheduler", tokenspeed, "TokenSpeed", {}),
        ("mlx.grpc.engine", mlx, "MLX", {}),
    ],
)
def test_info_of_the_gateways_contracts(
    client: Client, name: str, pb: Any, engine: str, version: dict[str, str]
) -> None:
    model = pb.GetModelInfoResponse(
        model_path="/m", max_context_length=4096, vocab_size=1000, eos_token_ids=[2, 3]
    )
    handlers: Any = {
        f"/{load(name).service}/GetModelInfo": [model],
        f"/{load(name).service}/GetServerInfo": [pb.GetServerInfoResponse(**version)],
    }
    with serving(handlers) as server:
        replies = (model, pb.GetServerInfoResponse(**version))
        expected = Info(name, "/m", engine, 4096, 1000, (2, 3), replies)
        assert client.call(server.target, "info", contract=name) == expected
        model.served_model_name, model.max_context_length, model.vocab_size = "tiny", 0, 0
        result = client.call(server.target, "info", contract=name)
    assert (result.model, result.context_length, result.vocab_size) == ("tiny", None, None)


def test_info_of_trtllm(client: Client) -> None:
    model = trtllm.GetModelInfoResponse(model_id="tiny", max_seq_len=4096, vocab_size=1000)
    reply = trtllm.GetServerInfoResponse(version="1.2")
    handlers: Any = {
        "/trtllm.TrtllmService/GetModelInfo": [model],
        "/trtllm.TrtllmService/GetServerInfo": [reply],
    }
    with serving(handlers) as server:
        result = client.call(server.target, "info", contract="trtllm")
    expected = Info("trtllm", "tiny", "TensorRT-LLM 1.2", 4096, 1000, replies=(model, reply))
    assert result == expected


@pytest.mark.parametrize(
    ("name", "pb"),
    [
        ("vllm.grpc.engine", engine),
        ("sglang.grpc.scheduler", scheduler),
        ("tokenspeed.grpc.scheduler", tokenspeed),
    ],
)
def test_load_of_several_ranks(client: Client, name: str, pb: Any) -> None:
    ranks = [
        pb.SchedulerLoad(num_running_reqs=2, num_waiting_reqs=1, token_usage=0.5),
        pb.SchedulerLoad(num_running_reqs=3, num_waiting_reqs=0, token_usage=0.25),
    ]
    reply = pb.GetLoadsResponse(loads=ranks)
    with serving({f"/{load(name).service}/GetLoads": [reply]}) as server:
        assert client.call(server.target, "load", contract=name) == Load(5, 1, 0.5, (reply,))
        server.handlers[f"/{load(name).service}/GetLoads"] = [b""]
        result = client.call(server.target, "load", contract=name)
    assert (result.running, result.waiting, result.cache_usage) == (0, 0, None)


# --- every contract ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("vllm.grpc.engine", engine.HealthCheckResponse(message="dead"), Health(False, "dead")),
        ("mlx.grpc.engine", mlx.HealthCheckResponse(healthy=True), Health(True)),
        ("trtllm", trtllm.HealthCheckResponse(status="OK"), Health(True, "OK")),
        ("trtllm", trtllm.HealthCheckResponse(status="dead"), Health(False, "dead")),
        ("sglang.runtime.v1", runtime.HealthCheckResponse(healthy=True), Health(True)),
        ("sglang.runtime.v1", runtime.HealthCheckResponse(), Health(False)),
    ],
)
def test_health(client: Client, name: str, reply: Any, expected: Health) -> None:
    with serving({f"/{load(name).service}/HealthCheck": [reply]}) as server:
        assert client.call(server.target, "health", contract=name) == expected


def scored_prompt(pb: Any, part: str) -> Any:
    """A reply of the gateway's contracts with the log probabilities of three tokens."""
    if part == "chunk":
        message = pb.GenerateResponse(chunk=pb.GenerateStreamChunk(token_ids=[9]))
    else:
        message = pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason="stop"))
    given = getattr(message, part).input_logprobs
    given.token_ids.extend([5, 6, 7])
    given.top_logprobs.add()
    given.top_logprobs.add(token_ids=[8, 9], values=[-0.25])
    given.token_logprobs.add()
    given.token_logprobs.add(value=-0.5)
    given.token_logprobs.add(value=-1.5)
    return message


_INPUT = {
    "input_token_logprobs": "[[null, 5, null], [-0.5, 6, null], [-1.5, 7, null]]",
    "input_top_logprobs": "[null, [[-0.25, 8, null]]]",
}
_OPEN = openengine.PromptOutput(
    tokens=[
        openengine.TokenInfo(token_id=5),
        openengine.TokenInfo(
            token_id=6,
            logprob=-0.5,
            candidates=[openengine.LogProb(token_id=8, logprob=-0.25)],
        ),
        openengine.TokenInfo(token_id=7, logprob=-1.5),
    ]
)
_VLLM = vllm.PromptInfo(token_ids=[5, 6, 7], logprobs=[0.0, -0.5, -1.5])
_VLLM.candidate_tokens.add()
_VLLM.candidate_tokens.add().tokens.add(id=8, logprob=-0.25)
_TRTLLM = trtllm.GenerateComplete(
    finish_reason="stop",
    prompt_tokens=3,
    prompt_logprobs=[
        trtllm.TokenLogprob(
            token_id=6, logprob=-0.5, top_logprobs=[trtllm.TopLogprob(token_id=8, logprob=-0.25)]
        ),
        trtllm.TokenLogprob(token_id=7, logprob=-1.5),
    ],
)


@pytest.mark.parametrize(
    ("name", "rpc", "first", "last"),
    [
        (
            "vllm.grpc.engine",
            "Generate",
            scored_prompt(engine, "chunk"),
            scored_prompt(engine, "complete"),
        ),
        ("vllm.grpc.engine", "Generate", None, scored_prompt(engine, "complete")),
        (
            "sglang.grpc.scheduler",
            "Generate",
            scored_prompt(scheduler, "chunk"),
            scored_prompt(scheduler, "complete"),
        ),
        (
            "trtllm",
            "Generate",
            trtllm.GenerateResponse(chunk=trtllm.GenerateStreamChunk(token_ids=[9])),
            trtllm.GenerateResponse(complete=_TRTLLM),
        ),
        (
            "vllm",
            "GenerateStream",
            vllm.GenerateResponse(prompt_info=_VLLM),
            vllm.GenerateResponse(
                outputs=vllm.SequenceOutput(finish_info=vllm.FinishInfo()), prompt_info=_VLLM
            ),
        ),
        (
            "openengine.v1",
            "Generate",
            openengine.GenerateResponse(prompt=_OPEN),
            openengine.GenerateResponse(finished=openengine.GenerationFinished()),
        ),
        (
            "sglang.runtime.v1",
            "Generate",
            runtime.GenerateResponse(output_ids=[9], meta_info=_INPUT),
            runtime.GenerateResponse(meta_info=_INPUT | {"finish_reason": '"stop"'}),
        ),
    ],
)
def test_log_probabilities_of_the_prompt(
    client: Client, name: str, rpc: str, first: Any, last: Any
) -> None:
    """One piece has them, also if more than one message does, or a message without a piece."""
    expected = (None, Logprob(6, -0.5, ((8, -0.25),)), Logprob(7, -1.5))
    messages = [first, last] if first else [last]
    with serving({f"/{load(name).service}/{rpc}": messages}) as server:
        params = IDS | {"prompt_logprobs": 1}
        pieces = client.pieces(server.target, params, contract=name)
        assert client.complete(server.target, params, contract=name).prompt_logprobs == expected
        without = client.pieces(server.target, IDS, contract=name)
    assert [piece.prompt_logprobs for piece in pieces if piece.prompt_logprobs] == [expected]
    assert [piece.prompt_logprobs for piece in without if piece.prompt_logprobs] == []
    assert {piece.text for piece in pieces} == {piece.text for piece in without}
    assert {piece.index for piece in pieces} == {0}


# --- vllm ----------------------------------------------------------------------------------------


def test_vllm() -> None:
    info = vllm.GenerateResponse(prompt_info=vllm.PromptInfo(num_prompt_tokens=4))
    new = vllm.GenerateResponse(outputs=vllm.SequenceOutput(text="a", num_tokens=1, token_ids=[9]))
    new.outputs.logprobs.append(-0.5)
    new.outputs.candidate_tokens.add().tokens.add(id=8, logprob=-0.25, rank=1)
    end = vllm.GenerateResponse(outputs=vllm.SequenceOutput(text="b", token_ids=[10]))
    finish = end.outputs.finish_info
    finish.num_output_tokens, finish.finish_reason = 2, vllm.FinishInfo.STOP
    finish.num_cached_tokens, finish.stop_string = 3, "c"
    assert read("vllm", info, new, end, logprobs=1) == [
        Piece(0, "a", (9,), (Logprob(9, -0.5, ((8, -0.25),)),)),
        Piece(0, "b", (10,), (), "stop", "c", Usage(4, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("field", "matched"), [("stop_token_id", 0), ("eos_token_id", None), ("stop_string", "x")]
)
def test_vllm_reports_only_stops_of_the_request(field: str, matched: Any) -> None:
    end = vllm.GenerateResponse(outputs=vllm.SequenceOutput())
    end.outputs.finish_info.finish_reason = vllm.FinishInfo.ABORTED
    setattr(end.outputs.finish_info, field, "x" if field == "stop_string" else 0)
    (piece,) = read("vllm", end)
    assert (piece.finish_reason, piece.matched_stop) == ("abort", matched)
    assert piece.usage == Usage(None, 0, None)


def test_health_of_vllm_is_the_standard_one(client: Client) -> None:
    response: Any = message_class("grpc.health.v1.HealthCheckResponse")
    words = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN", 9: "9"}
    for status, word in words.items():
        answer = [response(status=status)]
        with serving({"/grpc.health.v1.Health/Check": answer}) as server:
            result = client.call(server.target, "health", contract="vllm")
            assert result == Health(word == "SERVING", word)
            kind: Any = message_class("grpc.health.v1.HealthCheckRequest")
            sent = kind.FromString(server.requests["/grpc.health.v1.Health/Check"])
            assert sent.service == "vllm.Inference"


def test_info_of_vllm(client: Client) -> None:
    handlers: Any = {
        "/vllm.Control/GetModelInfo": [control.ModelInfo(model_id="/m", served_model_name="tiny")],
        "/vllm.Control/GetServerInfo": [
            control.ServerInfo(engine_version="0.33.0", max_model_len=4096)
        ],
    }
    with serving(handlers) as server:
        result = client.call(server.target, "info", contract="vllm")
        with pytest.raises(UnsupportedError, match=r"vllm does not support load\(\)"):
            client.call(server.target, "load", contract="vllm")
    assert (result.model, result.engine, result.context_length) == ("tiny", "vLLM 0.33.0", 4096)
    assert result.vocab_size is None and len(result.replies) == 2


# --- openengine.v1 -------------------------------------------------------------------------------


def test_openengine() -> None:
    prompt = openengine.GenerateResponse(prompt=openengine.PromptOutput())
    tokens = [
        openengine.TokenInfo(token_id=9, token="a", logprob=-0.5),
        openengine.TokenInfo(token_id=10, token="b", logprob=-1.0),
    ]
    tokens[0].candidates.add(token_id=8, logprob=-0.25)
    new = openengine.GenerateResponse(
        token=openengine.TokenOutput(output_index=1, tokens=tokens, text="ab")
    )
    end = openengine.GenerateResponse(
        finished=openengine.GenerationFinished(
            output_index=1,
            reason=openengine.FINISH_REASON_STOP,
            stop_match=openengine.StopMatch(stop_token_id=10),
        ),
        usage=openengine.Usage(prompt_tokens=4, completion_tokens=2, cached_prompt_tokens=1),
    )
    assert read("openengine.v1", prompt, new, end, logprobs=1, n=2) == [
        Piece(1, "ab", (9, 10), (Logprob(9, -0.5, ((8, -0.25),)), Logprob(10, -1.0))),
        Piece(1, "", (), (), "stop", 10, Usage(4, 2, 1)),
    ]


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("INVALID_ARGUMENT", RequestError, "INVALID_ARGUMENT"),
        ("MODEL_NOT_FOUND", RequestError, "NOT_FOUND"),
        ("REQUEST_NOT_FOUND", RequestError, "NOT_FOUND"),
        ("KV_SESSION_NOT_FOUND", RequestError, "NOT_FOUND"),
        ("UNSUPPORTED_FEATURE", RequestError, "FAILED_PRECONDITION"),
        ("ROLE_MISMATCH", RequestError, "FAILED_PRECONDITION"),
        ("DUPLICATE_REQUEST", RequestError, "ALREADY_EXISTS"),
        ("OVERLOADED", BusyError, "RESOURCE_EXHAUSTED"),
        ("CANCELLED", FailedError, "CANCELLED"),
        ("INTERNAL", FailedError, "INTERNAL"),
        ("UNSPECIFIED", FailedError, "INTERNAL"),
    ],
)
def test_an_error_event_in_a_stream_that_ends_with_ok(
    client: Client, code: str, kind: Any, status: str
) -> None:
    error = openengine.EngineError(
        code=openengine.ErrorCode.Value(f"ERROR_CODE_{code}"), message="of a secret"
    )
    handlers: Any = {
        "/openengine.v1.Inference/Generate": [openengine.GenerateResponse(error=error)],
    }
    with serving(handlers) as server, pytest.raises(kind) as caught:
        client.complete(server.target, IDS, contract="openengine.v1")
    assert (caught.value.code, caught.value.details) == (status, "of a secret")
    assert "secret" not in str(caught.value)


def test_load_and_health_of_openengine(client: Client) -> None:
    info = openengine.LoadInfo(
        running_requests=2, queued_requests=0, used_kv_blocks=1, total_kv_blocks=4
    )
    handlers: Any = {
        "/openengine.v1.Control/GetLoad": [info],
        "/openengine.v1.Control/Health": [
            openengine.HealthResponse(state=openengine.HEALTH_STATE_STARTING)
        ],
    }
    with serving(handlers) as server:
        result = client.call(server.target, "load", contract="openengine.v1")
        assert result == Load(2, 0, 0.25, (info,))
        health = client.call(server.target, "health", contract="openengine.v1")
        assert health == Health(False, "STARTING")
        for state in ("READY", "DEGRADED"):
            value = openengine.HealthState.Value(f"HEALTH_STATE_{state}")
            server.handlers["/openengine.v1.Control/Health"] = [
                openengine.HealthResponse(state=value)
            ]
            health = client.call(server.target, "health", contract="openengine.v1")
            assert health == Health(True, state)
        for empty in (openengine.LoadInfo(), openengine.LoadInfo(used_kv_blocks=1)):
            server.handlers["/openengine.v1.Control/GetLoad"] = [empty]
            result = client.call(server.target, "load", contract="openengine.v1")
            assert (result.running, result.waiting, result.cache_usage) == (None, None, None)


def test_info_of_openengine(client: Client) -> None:
    model = openengine.ModelInfo(model_id="/m", served_model_name="tiny", max_context_length=4096)
    reply = openengine.ServerInfo(engine_name="TensorRT-LLM", engine_version="1.2")
    handlers: Any = {
        "/openengine.v1.Control/GetModelInfo": [model],
        "/openengine.v1.Control/GetServerInfo": [reply],
    }
    with serving(handlers) as server:
        result = client.call(server.target, "info", contract="openengine.v1")
        expected = Info("openengine.v1", "tiny", "TensorRT-LLM 1.2", 4096, replies=(model, reply))
        assert result == expected
        server.handlers["/openengine.v1.Control/GetModelInfo"] = [
            openengine.ModelInfo(model_id="/m")
        ]
        result = client.call(server.target, "info", contract="openengine.v1")
    assert (result.model, result.context_length) == ("/m", None)


@pytest.mark.parametrize("cached", [None, 0, 3])
def test_usage_of_all_sequences(client: Client, cached: int | None) -> None:
    """Counts of the prompt may be in any sequence's last message."""
    usage = openengine.Usage(prompt_tokens=4, cached_prompt_tokens=cached)
    tokens = openengine.TokenOutput(tokens=[openengine.TokenInfo(token_id=1)])
    messages = [
        openengine.GenerateResponse(token=tokens),
        openengine.GenerateResponse(finished=openengine.GenerationFinished(output_index=0)),
        openengine.GenerateResponse(
            finished=openengine.GenerationFinished(output_index=1), usage=usage
        ),
    ]
    with serving({"/openengine.v1.Inference/Generate": messages}) as server:
        result = client.complete(server.target, IDS | {"n": 2}, contract="openengine.v1")
    assert result.usage == Usage(4, 1, cached)


# --- sglang.runtime.v1 ---------------------------------------------------------------------------


def meta(total: int, reason: Any = None, **more: Any) -> dict[str, str]:
    facts = {"id": "r", "prompt_tokens": 4, "completion_tokens": total, "finish_reason": reason}
    return {key: json.dumps(value) for key, value in (facts | more).items()}


def ids(count: int, since: int = 0, reason: Any = None, **more: Any) -> Any:
    return runtime.GenerateResponse(
        output_ids=range(since, count), meta_info=meta(count, reason, **more)
    )


def text(output: str, total: int, reason: Any = None, **more: Any) -> Any:
    return runtime.TextGenerateResponse(text=output, meta_info=meta(total, reason, **more))


END = {"type": "length", "length": 4}


@pytest.mark.parametrize("facts", [None, False, True])
def test_cumulative_or_incremental_ids(facts: bool | None) -> None:
    cumulative = [ids(2), ids(3), ids(4, reason=END)]
    incremental = [ids(2), ids(3, 2), ids(4, 3, reason=END)]
    kinds = {None: (cumulative, incremental), True: (incremental,), False: (cumulative,)}
    for messages in kinds[facts]:
        result = read("sglang.runtime.v1", *messages, facts=facts)
        assert [piece.token_ids for piece in result] == [(0, 1), (2,), (3,)]
        assert (result[-1].finish_reason, result[-1].usage) == ("length", Usage(4, 4, None))


def test_known_cumulative_ids_may_be_fewer_than_the_reported_count() -> None:
    short = [ids(2), runtime.GenerateResponse(output_ids=[0, 1, 2], meta_info=meta(4, END))]
    result = read("sglang.runtime.v1", *short, facts=False)
    assert [piece.token_ids for piece in result] == [(0, 1), (2,)]


@pytest.mark.parametrize("facts", [None, False, True])
def test_cumulative_or_incremental_text(facts: bool | None) -> None:
    cumulative = [text("On", 1), text("Once", 2), text("Once", 3), text("Once upon", 4, END)]
    incremental = [text("On", 1), text("ce", 2), text("", 3), text(" upon", 4, END)]
    kinds = {None: (cumulative, incremental), True: (incremental,), False: (cumulative,)}
    for messages in kinds[facts]:
        result = read("sglang.runtime.v1", *messages, facts=facts, prompt="Long ago")
        assert "".join(piece.text or "" for piece in result) == "Once upon"
        assert result[-1].usage == Usage(4, 4, None)


def test_incremental_text_that_starts_with_the_previous_text() -> None:
    result = read(
        "sglang.runtime.v1", text("ha", 1), text("haha", 3, END), facts=True, prompt="Laugh"
    )
    assert [piece.text for piece in result] == ["ha", "haha"]


@pytest.mark.parametrize("reported", [True, False, None, "yes"])
def test_the_server_reports_whether_its_text_is_incremental(client: Client, reported: Any) -> None:
    info = {} if reported is None else {"incremental_streaming_output": reported}
    service = "/sglang.runtime.v1.SglangService"
    handlers: Any = {
        f"{service}/GetServerInfo": [runtime.GetServerInfoResponse(json_info=json.dumps(info))],
        f"{service}/TextGenerate": [text("ha", 1), text("haha", 3, END)],
    }
    with serving(handlers) as server:
        pieces = client.pieces(
            server.target, {"prompt": "Laugh", "max_tokens": 4}, contract="sglang.runtime.v1"
        )
    expected = "hahaha" if reported is True else "haha"
    assert "".join(piece.text or "" for piece in pieces) == expected


def test_sequences_are_distinguished_by_their_ids() -> None:
    result = read(
        "sglang.runtime.v1",
        ids(1, id="b"),
        ids(1, id="a"),
        ids(2, id="b", reason=END),
        ids(2, id="a", reason={"type": "stop", "matched": 1}),
        n=2,
    )
    assert [(piece.index, piece.token_ids) for piece in result] == [
        (0, (0,)),
        (1, (0,)),
        (0, (1,)),
        (1, (1,)),
    ]
    assert (result[-1].finish_reason, result[-1].matched_stop) == ("stop", 1)


def test_cumulative_or_incremental_log_probabilities_of_sglang() -> None:
    def scored(begin: int, count: int) -> dict[str, Any]:
        return {
            "output_token_logprobs": [
                [-number / 4, number, None] for number in range(begin, count)
            ],
            "output_top_logprobs": [[[-0.25, 9, None]] for _ in range(begin, count)],
        }

    for begin in (0, 2):
        result = read(
            "sglang.runtime.v1",
            ids(2, **scored(0, 2)),
            ids(4, begin, **scored(begin, 4)),
            ids(6, 2 * begin, END, **scored(2 * begin, 6)),
            logprobs=1,
        )
        scores = [one for piece in result for one in piece.logprobs]
        assert scores == [Logprob(n, -n / 4, ((9, -0.25),)) for n in range(6)]
    # The last message repeats them, without another token.
    repeated = [ids(2, **scored(0, 2)), ids(2, reason=END, **scored(0, 2))]
    result = read("sglang.runtime.v1", *repeated, logprobs=1)
    assert [len(piece.logprobs) for piece in result] == [2, 0]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [("cancelled", "abort"), ("stop", "stop"), ({"type": "cancelled"}, "abort"), ({}, "stop")],
)
def test_reasons_and_counts_of_sglang(sent: Any, reason: str) -> None:
    info = {"finish_reason": json.dumps(sent), "prompt_tokens": '"4"', "completion_tokens": "true"}
    (piece,) = read("sglang.runtime.v1", runtime.GenerateResponse(output_ids=[1], meta_info=info))
    assert (piece.finish_reason, piece.usage) == (reason, Usage(None, 0, None))


@pytest.mark.parametrize(
    "info",
    [
        {"finish_reason": "{"},
        {"finish_reason": '"stop"', "completion_tokens": "no"},
        {"completion_tokens": "1", "output_token_logprobs": "[[1]]"},
        {"completion_tokens": "1", "output_token_logprobs": '[["a", "b", null]]'},
        {"completion_tokens": "1", "output_token_logprobs": "[" * 100_000},
    ],
)
def test_invalid_meta_info(client: Client, info: dict[str, str]) -> None:
    broken = runtime.GenerateResponse(output_ids=[1], meta_info=info)
    handlers: Any = {"/sglang.runtime.v1.SglangService/Generate": [broken]}
    with serving(handlers) as server, pytest.raises(FailedError):
        client.pieces(server.target, IDS | {"logprobs": 1}, contract="sglang.runtime.v1")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([{"num_running_reqs": 2, "num_waiting_reqs": 1, "token_usage": 0.5}], (2, 1, 0.5)),
        ([{"num_reqs": 2, "num_waiting_reqs": 1}, {"num_reqs": 3}], (5, None, None)),
        ({"num_running_reqs": 2}, (2, None, None)),
        ([], (None, None, None)),
        ([7, "x"], (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_load_of_sglang(client: Client, sent: Any, expected: Any) -> None:
    handlers: Any = {
        "/sglang.runtime.v1.SglangService/GetLoad": [
            runtime.GetLoadResponse(json_info=json.dumps(sent))
        ]
    }
    with serving(handlers) as server:
        result = client.call(server.target, "load", contract="sglang.runtime.v1")
    assert (result.running, result.waiting, result.cache_usage) == expected


def test_info_of_sglang(client: Client) -> None:
    service = "/sglang.runtime.v1.SglangService"
    card = runtime.ModelCard(id="tiny", max_model_len=4096)
    handlers: Any = {
        f"{service}/GetServerInfo": [runtime.GetServerInfoResponse(json_info='{"version":"0.5"}')],
        f"{service}/ListModels": [runtime.ListModelsResponse(models=[card])],
        f"{service}/GetModelInfo": [
            runtime.GetModelInfoResponse(model_path="/m", json_info='{"eos_token_id": 2}')
        ],
    }
    with serving(handlers) as server:
        result = client.call(server.target, "info", contract="sglang.runtime.v1")
        assert (result.model, result.engine, result.context_length) == ("tiny", "SGLang 0.5", 4096)
        assert result.eos_token_ids == (2,)
        server.handlers[f"{service}/GetServerInfo"] = [runtime.GetServerInfoResponse(json_info="{")]
        with pytest.raises(FailedError, match="not JSON"):
            client.call(server.target, "info", contract="sglang.runtime.v1")


# --- abort ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "sent"),
    [
        ("vllm", "/vllm.Control/Abort", control.AbortRequest(request_ids=["r"])),
        (
            "openengine.v1",
            "/openengine.v1.Control/Abort",
            openengine.AbortRequest(request_id="r"),
        ),
        (
            "sglang.runtime.v1",
            "/sglang.runtime.v1.SglangService/Abort",
            runtime.AbortRequest(rid="r"),
        ),
        ("trtllm", "/trtllm.TrtllmService/Abort", trtllm.AbortRequest(request_id="r")),
        (
            "mlx.grpc.engine",
            "/mlx.grpc.engine.MlxEngine/Abort",
            mlx.AbortRequest(request_ids=["r"]),
        ),
        (
            "vllm.grpc.engine",
            "/vllm.grpc.engine.VllmEngine/Abort",
            engine.AbortRequest(request_ids=["r"]),
        ),
        (
            "sglang.grpc.scheduler",
            "/sglang.grpc.scheduler.SglangScheduler/Abort",
            scheduler.AbortRequest(request_id="r"),
        ),
    ],
)
def test_abort(client: Client, name: str, path: str, sent: Any) -> None:
    with serving({path: [b""]}) as server:
        client.call(server.target, "abort", "r", contract=name)
        assert type(sent).FromString(server.requests[path]) == sent
