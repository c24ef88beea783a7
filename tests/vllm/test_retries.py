"""Calls that fail: what is tried again, what is not, and which error comes of it."""

import time
from typing import Any

import grpc
import pytest
from vllm_kit import Both, ScriptedEngine, chunk, complete, sent

from smg_proto import vllm as v
from smg_proto.testing import Address, FakeVllmEngine, Fault
from smg_proto.vllm.options import Attempts, Options

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
    asked = requests(engine)
    assert len(asked) == 3 and asked[0] == asked[1] == asked[2]
    assert asked[0].request_id


@pytest.mark.parametrize("stream", [False, True])
def test_retries_are_limited_and_can_be_switched_off(
    stream: bool, both: Both, quick: Any, engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="Generate", times=None)
    read = both.final if stream else both.create
    for client, more, tries in (
        (quick, {}, 3),
        (quick, {"max_retries": 0}, 1),
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
    for never in ("-1", "soon"):
        scripted.refusals = [(Code.UNAVAILABLE, never)]
        with pytest.raises(v.VLLMGrpcUnavailableError) as caught:
            both.create(client, prompt="x")
        assert not caught.value.retryable and not scripted.refusals


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
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="StartProfile", times=1)
    with pytest.raises(v.VLLMGrpcUnavailableError):
        both.run(quick.admin.start_profile())
    assert len(requests(engine, "StartProfile")) == 1


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


def test_waits_grow_with_jitter_up_to_a_limit() -> None:
    options = Options(v.Timeout(), max_retries=8, initial_backoff=1.0, max_backoff=8.0)
    error = v.VLLMGrpcUnavailableError("x", code="UNAVAILABLE", retryable=True)

    def waits() -> list[float]:
        attempts = Attempts(options, None, target="t")
        return [attempts.delay(error) or 0.0 for _ in range(8)]

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
        assert f"code={status.name}" in str(error) and "secret" not in str(error)


def test_names_of_openais_library_lead_to_the_same_classes() -> None:
    assert issubclass(v.BadRequestError, v.APIError)
    assert v.RateLimitError is v.VLLMGrpcResourceExhaustedError
    assert issubclass(v.APIConnectionError, v.VLLMGrpcUnavailableError)
    assert issubclass(v.VLLMGrpcValidationError, v.BadRequestError)
    assert issubclass(v.VLLMGrpcValidationError, ValueError)


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
