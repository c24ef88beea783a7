"""Calls that fail: what is tried again, what is not, and which error comes of it."""

import copy
import pickle
import time
from typing import Any

import grpc
import pytest
from vllm_kit import Both, ScriptedEngine, chunk, complete, sent

from smg_proto import vllm as v
from smg_proto.testing import Address, FakeVllmEngine, Fault
from smg_proto.vllm._async.call import AsyncCall, Limits
from smg_proto.vllm._config import Options
from smg_proto.vllm._errors import from_rpc_error, from_status
from smg_proto.vllm._sync.call import Call

Code = grpc.StatusCode
FAST: dict[str, Any] = {"initial_backoff": 0.01, "max_backoff": 0.02}


@pytest.fixture
def quick(both: Both, address: Address[FakeVllmEngine]) -> Any:
    client = both.make(address, **FAST)
    both.run(client.models.retrieve())
    address.servicer.record.received.clear()
    return client


def requests(engine: FakeVllmEngine, rpc: str = "Generate") -> list[Any]:
    return [r.request for r in engine.record.received if r.rpc == rpc]


@pytest.mark.parametrize("status", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
@pytest.mark.parametrize("stream", [False, True])
def test_a_busy_server_is_asked_again_with_the_same_request(
    status: Code, stream: bool, both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(status), rpc="Generate", times=2)
    read = both.final if stream else both.create
    assert read(quick, prompt="x", max_tokens=2).choices[0].finish_reason
    requested = requests(engine)
    assert len(requested) == 3 and requested[0] == requested[1] == requested[2]
    assert requested[0].request_id


@pytest.mark.parametrize("stream", [False, True])
def test_retries_are_limited_and_can_be_switched_off(
    stream: bool, both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="Generate", times=None)
    read = both.final if stream else both.create
    for client, more, tries in (
        (quick, {}, 3),
        (quick, {"max_retries": 0}, 1),
        (quick, {"timeout": v.NOT_GIVEN, "wait_for_ready": None, "max_retries": 0}, 1),
        (quick.with_options(max_retries=1), {}, 2),
    ):
        engine.record.received.clear()
        with pytest.raises(v.VLLMGrpcUnavailableError) as caught:
            read(client, prompt="x", **more)
        assert len(requests(engine)) == tries
        assert caught.value.retryable


def test_a_stream_is_never_repeated_after_its_first_message(
    both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE, after=2), rpc="Generate", times=None)
    stream = both.stream(quick, prompt="x", max_tokens=9)
    with pytest.raises(v.VLLMGrpcUnavailableError):
        both.each(stream)
    assert len(requests(engine)) == 1
    assert len(stream.completion.choices[0].token_ids) == 2


@pytest.mark.parametrize("status", [Code.INTERNAL, Code.INVALID_ARGUMENT, Code.DEADLINE_EXCEEDED])
def test_other_failures_are_not_repeated(
    status: Code, both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(status), rpc="Generate", times=None)
    with pytest.raises(v.VLLMGrpcError) as caught:
        both.create(quick, prompt="x")
    assert len(requests(engine)) == 1 and not caught.value.retryable


def test_the_servers_pushback_is_honoured(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    client = both.make(scripted_server, **FAST)
    scripted.messages = [complete(1)]
    scripted.refusals = [(Code.RESOURCE_EXHAUSTED, "300")]
    began = time.monotonic()
    assert both.create(client, prompt="x").choices
    assert time.monotonic() - began >= 0.3
    for never in ("-1", "soon", "1.5", "9" * 400):
        scripted.refusals = [(Code.UNAVAILABLE, never)]
        with pytest.raises(v.VLLMGrpcUnavailableError) as caught:
            both.create(client, prompt="x")
        assert not caught.value.retryable and not scripted.refusals


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_cannot_make_a_client_wait_for_hours(
    stream: bool, both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    client = both.make(scripted_server, timeout=None)
    scripted.refusals = [(Code.UNAVAILABLE, "86400000")]
    with pytest.raises(v.VLLMGrpcUnavailableError) as caught:
        (both.final if stream else both.create)(client, prompt="x")
    assert caught.value.pushback == 86400.0 and not scripted.refusals


def test_retries_stay_within_the_time_limit(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    client = both.make(address, initial_backoff=500.0, max_backoff=500.0)
    engine.script.add(Fault(Code.UNAVAILABLE), times=None)
    for stream in (False, True):
        with pytest.raises(v.VLLMGrpcUnavailableError):  # at once: a retry would come too late
            (both.final if stream else both.create)(client, prompt="x", timeout=50.0)


def test_unary_calls_are_repeated_too_and_profiles_are_not(
    both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="GetLoads", times=2)
    assert both.run(quick.loads.retrieve()).loads
    assert len(requests(engine, "GetLoads")) == 3
    admin = quick.admin  # the first try may have started it
    for rpc, call in (("StartProfile", admin.start_profile), ("StopProfile", admin.stop_profile)):
        engine.script.add(Fault(Code.UNAVAILABLE), rpc=rpc, times=1)
        with pytest.raises(v.VLLMGrpcUnavailableError):
            both.run(call())
        assert len(requests(engine, rpc)) == 1


def test_several_embeddings_are_repeated_one_by_one(
    both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    def second(request: Any) -> bool:
        return 2 in request.tokenized.input_ids

    engine.script.add(Fault(Code.UNAVAILABLE), rpc="Embed", when=second, times=2)
    got = both.run(quick.embeddings.create(input=[[1], [2], [3]], request_id="e"))
    assert [e.index for e in got.data] == [0, 1, 2]
    assert got.data[0].embedding != got.data[1].embedding
    assert len(requests(engine, "Embed")) == 5
    assert {r.request_id for r in requests(engine, "Embed")} == {"e-0", "e-1", "e-2"}


@pytest.mark.parametrize("kind", [Call, AsyncCall])
def test_a_server_may_ask_for_two_minutes(kind: Any) -> None:
    for milliseconds, expected in (("120000", 120.0), ("120001", None)):
        trailers = (("grpc-retry-pushback-ms", milliseconds),)
        error = v.VLLMGrpcUnavailableError("x", retryable=True, trailing_metadata=trailers)
        call = kind(None, "Generate", None, Options(v.Timeout()), Limits(), None, ())
        assert call._delay(error) == expected


@pytest.mark.parametrize("kind", [Call, AsyncCall])
def test_waits_grow_with_jitter_up_to_a_limit(kind: Any) -> None:
    options = Options(v.Timeout(), max_retries=8, initial_backoff=1.0, max_backoff=8.0)
    error = v.VLLMGrpcUnavailableError("x", code="UNAVAILABLE", retryable=True)

    def waits() -> list[float]:
        call = kind(None, "Generate", None, options, Limits(), None, ())
        return [call._delay(error) or 0.0 for _ in range(8)]

    for number, wait in enumerate(waits()):
        full = min(2.0**number, 8.0)
        assert full / 2 <= wait <= full
    assert waits() != waits()


CLASSES = {
    Code.CANCELLED: v.VLLMGrpcCancelledError,
    Code.UNKNOWN: v.VLLMGrpcUnknownError,
    Code.INVALID_ARGUMENT: v.VLLMGrpcInvalidArgumentError,
    Code.DEADLINE_EXCEEDED: v.VLLMGrpcTimeoutError,
    Code.NOT_FOUND: v.VLLMGrpcNotFoundError,
    Code.ALREADY_EXISTS: v.VLLMGrpcAlreadyExistsError,
    Code.PERMISSION_DENIED: v.VLLMGrpcPermissionDeniedError,
    Code.RESOURCE_EXHAUSTED: v.VLLMGrpcResourceExhaustedError,
    Code.FAILED_PRECONDITION: v.VLLMGrpcFailedPreconditionError,
    Code.ABORTED: v.VLLMGrpcAbortedError,
    Code.OUT_OF_RANGE: v.VLLMGrpcOutOfRangeError,
    Code.UNIMPLEMENTED: v.VLLMGrpcUnimplementedError,
    Code.INTERNAL: v.VLLMGrpcInternalError,
    Code.UNAVAILABLE: v.VLLMGrpcUnavailableError,
    Code.DATA_LOSS: v.VLLMGrpcDataLossError,
    Code.UNAUTHENTICATED: v.VLLMGrpcUnauthenticatedError,
}

ADVICE = {
    Code.CANCELLED: "was cancelled",
    Code.INVALID_ARGUMENT: "correct it",
    Code.DEADLINE_EXCEEDED: "a longer timeout= may help",
    Code.NOT_FOUND: "does not have",
    Code.PERMISSION_DENIED: "not allowed",
    Code.RESOURCE_EXHAUSTED: "try again later",
    Code.FAILED_PRECONDITION: "not configured",
    Code.UNIMPLEMENTED: "does not support this call",
    Code.INTERNAL: "the engine or its server failed",
    Code.UNAVAILABLE: "try again later",
    Code.UNAUTHENTICATED: "check token=",
}


def test_every_status_has_a_class() -> None:
    assert set(CLASSES) == set(Code) - {Code.OK}


@pytest.mark.parametrize("status", CLASSES, ids=lambda code: code.name)
def test_an_error_tells_status_details_request_and_metadata(
    status: Code, both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    client = both.make(scripted_server, max_retries=0)
    for read in (both.create, both.final):
        scripted.refusals = [(status, "250")]
        with pytest.raises(v.VLLMGrpcError) as caught:
            read(client, prompt="a secret prompt", request_id="mine")
        error = caught.value
        assert type(error) is CLASSES[status]
        assert (error.code, error.details, error.request_id) == (status.name, "not now", "mine")
        assert ("x-cost", "7") in error.trailing_metadata and error.pushback == 0.25
        assert error.retryable == (status in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED))
        assert f"code={status.name} | details=not now | request_id=mine" in str(error)
        assert "secret" not in str(error)
        assert ADVICE.get(status, f"the call ended {status.name}") in str(error)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("0", 0.0),
        ("1500", 1.5),
        ("9" * 12, 999999999.999),
        ("9" * 13, -1.0),
        ("-1", -1.0),
        ("soon", -1.0),
        ("", -1.0),
        ("\u0665", -1.0),  # a digit, but not in ASCII
        (b"5", -1.0),
    ],
)
def test_a_pushback_that_is_no_number_means_no_retry(sent: str | bytes, seconds: float) -> None:
    trailers = (("grpc-retry-pushback-ms", sent),)
    error = from_status(Code.UNAVAILABLE, "busy", target="t", trailing_metadata=trailers)
    assert error.pushback == seconds
    assert error.retryable == (seconds >= 0)


def test_an_error_has_the_headers_of_its_call() -> None:
    headers, trailers = (("x-server", "s"),), (("x-cost", "7"),)
    cause = grpc.aio.AioRpcError(
        Code.INTERNAL,
        grpc.aio.Metadata(*headers),
        grpc.aio.Metadata(*trailers),
        details="d",
    )
    error = from_rpc_error(cause, target="t")
    assert (error.initial_metadata, error.trailing_metadata) == (headers, trailers)


# As in OpenAI's library, by the HTTP status that a gateway would make of it.
CAUGHT_BY: dict[Code, tuple[type[v.VLLMGrpcError], int | None]] = {
    Code.CANCELLED: (v.APIError, None),
    Code.UNKNOWN: (v.InternalServerError, 500),
    Code.INVALID_ARGUMENT: (v.BadRequestError, 400),
    Code.DEADLINE_EXCEEDED: (v.APITimeoutError, None),
    Code.NOT_FOUND: (v.NotFoundError, 404),
    Code.ALREADY_EXISTS: (v.ConflictError, 409),
    Code.PERMISSION_DENIED: (v.PermissionDeniedError, 403),
    Code.RESOURCE_EXHAUSTED: (v.RateLimitError, 429),
    Code.FAILED_PRECONDITION: (v.BadRequestError, 400),
    Code.ABORTED: (v.ConflictError, 409),
    Code.OUT_OF_RANGE: (v.BadRequestError, 400),
    Code.UNIMPLEMENTED: (v.InternalServerError, 501),
    Code.INTERNAL: (v.InternalServerError, 500),
    Code.UNAVAILABLE: (v.InternalServerError, 503),
    Code.DATA_LOSS: (v.InternalServerError, 500),
    Code.UNAUTHENTICATED: (v.AuthenticationError, 401),
}


@pytest.mark.parametrize("status", CAUGHT_BY, ids=lambda code: code.name)
def test_errors_are_caught_as_those_of_openais_library_are(status: Code) -> None:
    error = from_status(status, "x", target="h:1", connected=True)
    kind, http = CAUGHT_BY[status]
    assert isinstance(error, kind) and isinstance(error, v.OpenAIError)
    assert http == (error.status_code if isinstance(error, v.APIStatusError) else None)


def test_what_has_no_reply_is_a_connection_error() -> None:
    assert issubclass(v.APITimeoutError, v.APIConnectionError)
    assert not issubclass(v.APIConnectionError, v.APIStatusError)
    assert issubclass(v.VLLMGrpcValidationError, v.BadRequestError)
    assert issubclass(v.VLLMGrpcValidationError, ValueError)


@pytest.mark.parametrize(
    "error",
    [
        v.VLLMGrpcValidationError("top_p", "is wrong"),
        v.VLLMGrpcTimeoutError("late", code="DEADLINE_EXCEEDED", request_id="r"),
        v.VLLMGrpcUnavailableError(
            "busy", code="UNAVAILABLE", details="d", retryable=True, trailing_metadata=(("a", "b"),)
        ),
        v.VLLMGrpcClosedError("closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_sent_to_other_processes_and_copied(error: v.VLLMGrpcError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error) and str(other) == str(error)
        assert other.args == error.args and other.__dict__ == error.__dict__


def test_an_error_leaves_a_process_pool_as_it_is(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    client = both.make(address)
    with pytest.raises(v.VLLMGrpcValidationError) as caught:
        both.create(client, prompt="x", top_p=7)
    # Pickled by one protocol after the other, as pools of any Python do.
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(caught.value, protocol))
        assert (again.param, str(again)) == ("top_p", str(caught.value))


# What gRPC itself says when there is no server, or a connection breaks. A server may say it too.
GRPCS_WORDS = [
    "lossless KV cache warming up",
    "worker not connected to the KV store yet",
    "transport of the KV cache is busy",
    "certificate store is being reloaded",
    "failed to connect to all addresses; last error: Ssl handshake failed",
]


@pytest.mark.parametrize("details", GRPCS_WORDS)
def test_what_a_server_says_is_not_taken_for_a_broken_connection(
    details: str, both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    for read in (both.create, both.final):
        engine.record.received.clear()
        engine.script.add(Fault(Code.UNAVAILABLE, details), rpc="Generate", times=2)
        assert read(quick, prompt="x", max_tokens=2).choices  # it was tried again
        assert len(requests(engine)) == 3
        engine.script.add(Fault(Code.UNAVAILABLE, details), rpc="Generate")
        with pytest.raises(v.VLLMGrpcUnavailableError) as caught:
            read(quick, prompt="x", max_retries=0)
        assert type(caught.value) is v.VLLMGrpcUnavailableError
        assert (caught.value.details, caught.value.retryable) == (details, True)


SOME = (("x-cost", "7"),)


@pytest.mark.parametrize(
    ("details", "known", "lost", "retryable"),
    [
        ("busy", {"connected": True}, False, True),
        ("busy", {"connected": False}, True, True),
        ("busy", {"connected": False, "initial_metadata": SOME}, False, True),
        ("Socket closed", {}, True, True),
        ("Socket closed", {"trailing_metadata": SOME}, False, True),  # the server has spoken
        ("the cache has its socket closed", {}, False, True),
        ("Stream removed: a certificate was renewed", {}, True, True),
        ("failed to connect to all addresses", {}, True, True),
        ("failed to connect to all addresses: Ssl handshake failed", {}, True, False),
    ],
)
def test_who_sent_a_status_decides_and_not_its_words_alone(
    details: str, known: dict[str, Any], lost: bool, retryable: bool
) -> None:
    error = from_status(Code.UNAVAILABLE, details, target="h:1", **known)
    kind = v.VLLMGrpcConnectionError if lost else v.VLLMGrpcUnavailableError
    assert (type(error), error.retryable) == (kind, retryable)


def test_a_port_that_nobody_named_is_explained(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_GRPC_PORT", raising=False)
    monkeypatch.delenv("VLLM_GRPC_HOST", raising=False)
    monkeypatch.setattr("smg_proto.vllm._config._DEFAULT_PORT", 1)
    kind: Any = v.AsyncVLLMGrpcClient if both.asynchronous else v.VLLMGrpcClient
    for client, explained in ((kind(max_retries=0), True), (kind(port=1, max_retries=0), False)):
        with pytest.raises(v.VLLMGrpcConnectionError) as caught:
            both.run(client.health.check())
        assert ("8000 (vllm serve --grpc) or 50051" in str(caught.value)) == explained
        both.run(client.close())


def test_a_request_id_of_ones_own_is_sent(both: Both, client: Any, engine: FakeVllmEngine) -> None:
    both.create(client, prompt="x", max_tokens=1, request_id="mine")
    assert sent(engine).request_id == "mine"
    both.create(client, prompt=["x", "y"], max_tokens=1, request_id="mine")
    assert {r.request_id for r in requests(engine)} == {"mine", "mine-0", "mine-1"}


def test_an_answer_that_grows_over_the_limit_is_not_asked_for_again(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    client = both.make(scripted_server, max_receive_message_length=1000, **FAST)
    scripted.messages = [chunk(*range(2000))]
    with pytest.raises(v.VLLMGrpcResourceExhaustedError, match="max_receive_message_length"):
        both.create(client, prompt="x")
    assert len([r for r in scripted.record.received if r.rpc == "Generate"]) == 1
