"""smg_proto.errors between real servers and clients, sync and aio, and beside google's own."""

import pickle
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from smg_proto import _google_rpc, smg_pb2, smg_pb2_grpc
from smg_proto.errors import (
    DETAILS_KEY,
    REASONS,
    FieldViolation,
    SmgError,
    abort,
    from_rpc_error,
    from_status_bytes,
    invalid,
    to_status_bytes,
)

Code = grpc.StatusCode
FULL = SmgError(
    Code.RESOURCE_EXHAUSTED,
    "the queue is full",
    reason="OVERLOADED",
    metadata={"http_status": "429"},
    field_violations=(FieldViolation("messages[0].role", "must be set"),),
    retry_after=timedelta(seconds=2, milliseconds=500),
)


def same(left: SmgError, right: SmgError) -> bool:
    return left.__reduce__() == right.__reduce__()


Context = grpc.ServicerContext
AioContext = grpc.aio.ServicerContext[Any, Any]


class Sync(smg_pb2_grpc.GatewayServiceServicer):
    def __init__(self, error: SmgError = FULL) -> None:
        self.error = error

    def GetGatewayInfo(
        self, request: smg_pb2.GetGatewayInfoRequest, context: Context
    ) -> smg_pb2.GatewayInfo:
        context.set_trailing_metadata((("x-kept", "1"),))
        abort(context, self.error)


class Aio(smg_pb2_grpc.GatewayServiceServicer):
    async def GetGatewayInfo(
        self, request: smg_pb2.GetGatewayInfoRequest, context: AioContext
    ) -> smg_pb2.GatewayInfo:
        context.set_trailing_metadata((("x-kept", "1"),))
        await abort(context, FULL)
        raise AssertionError("abort does not return")


@contextmanager
def serving(servicer: smg_pb2_grpc.GatewayServiceServicer) -> Iterator[str]:
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        smg_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture
async def aio_address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    smg_pb2_grpc.add_GatewayServiceServicer_to_server(Aio(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def sync_error(address: str) -> grpc.RpcError:
    with grpc.insecure_channel(address) as channel:
        try:
            smg_pb2_grpc.GatewayServiceStub(channel).GetGatewayInfo(
                smg_pb2.GetGatewayInfoRequest(), timeout=10
            )
        except grpc.RpcError as error:
            return error
    raise AssertionError("it must fail")


async def aio_error(address: str) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = smg_pb2_grpc.GatewayServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetGatewayInfo(smg_pb2.GetGatewayInfoRequest(), timeout=10)
        return raised.value


def test_sync_client_reads_what_a_sync_server_aborts_with() -> None:
    with serving(Sync()) as address:
        error = sync_error(address)
    assert same(from_rpc_error(error), FULL)
    assert isinstance(error, grpc.Call)
    assert ("x-kept", "1") in [tuple(pair) for pair in error.trailing_metadata() or ()]


async def test_aio_client_reads_what_an_aio_server_aborts_with(aio_address: str) -> None:
    error = await aio_error(aio_address)
    assert same(from_rpc_error(error), FULL)
    assert ("x-kept", "1") in list(error.trailing_metadata())


def test_grpc_status_reads_what_errors_writes() -> None:
    with serving(Sync()) as address:
        error = sync_error(address)
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None and status.code == Code.RESOURCE_EXHAUSTED.value[0]
    info, retry, bad = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.BadRequest(),
    )
    for packed, into in zip(status.details, (info, retry, bad), strict=True):
        assert packed.Unpack(into)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "OVERLOADED",
        "smg.v1",
        {"http_status": "429"},
    )
    assert retry.retry_delay.ToTimedelta() == FULL.retry_after
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("messages[0].role", "must be set")
    ]


def test_errors_reads_what_grpc_status_writes() -> None:
    class Google(smg_pb2_grpc.GatewayServiceServicer):
        def GetGatewayInfo(
            self, request: smg_pb2.GetGatewayInfoRequest, context: Context
        ) -> smg_pb2.GatewayInfo:
            status = status_pb2.Status(code=9, message="too late")
            info = error_details_pb2.ErrorInfo(reason="NEW_REASON", domain="elsewhere")
            help_ = error_details_pb2.Help(links=[error_details_pb2.Help.Link(url="http://x")])
            for detail in (help_, info):
                status.details.add().Pack(detail)
            context.abort_with_status(rpc_status.to_status(status))
            raise AssertionError

    with serving(Google()) as address:
        read = from_rpc_error(sync_error(address))
    assert (read.code, read.message) == (Code.FAILED_PRECONDITION, "too late")
    assert (read.reason, read.domain) == ("NEW_REASON", "elsewhere")
    assert read.known_reason == smg_pb2.ERROR_REASON_UNSPECIFIED


def test_a_status_of_grpc_itself_has_a_code_and_no_reason() -> None:
    read = from_rpc_error(sync_error("127.0.0.1:1"))
    assert (read.code, read.reason, read.domain) == (Code.UNAVAILABLE, "", "")
    assert from_rpc_error(grpc.RpcError("odd")).code == Code.UNKNOWN


TEXT = st.text(max_size=30)
ERRORS = st.builds(
    SmgError,
    code=st.sampled_from([code for code in Code if code != Code.OK]),
    message=TEXT,
    reason=st.sampled_from(sorted(REASONS)) | st.text(min_size=1, max_size=20),
    domain=TEXT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
    field_violations=st.lists(st.builds(FieldViolation, TEXT, TEXT), max_size=3).map(tuple),
    retry_after=st.none() | st.timedeltas(timedelta(0), timedelta(days=9)),
)


@given(error=ERRORS)
def test_every_error_survives_its_own_bytes_and_pickling(error: SmgError) -> None:
    assert same(from_status_bytes(to_status_bytes(error)), error)
    assert same(pickle.loads(pickle.dumps(error)), error)


@given(data=st.binary(max_size=60))
def test_unreadable_details_are_read_as_none(data: bytes) -> None:
    assert isinstance(from_status_bytes(data), SmgError)


def test_details_beside_one_that_cannot_be_read_are_read() -> None:
    status = status_pb2.Status(message="full")
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    delay = error_details_pb2.RetryInfo()
    delay.retry_delay.seconds = 2**62
    status.details.add().Pack(delay)
    for field in ("a", "b"):
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=field, description="must be set")
        status.details.add().Pack(bad)
    read = from_status_bytes(status.SerializeToString())
    assert (read.code, read.message, read.reason) == (Code.UNKNOWN, "full", "")
    assert read.retry_after == timedelta.max
    violations = [FieldViolation(field, "must be set") for field in ("a", "b")]
    assert list(read.field_violations) == violations


def test_an_error_too_large_for_a_trailer_loses_details_but_not_its_reason() -> None:
    many = [FieldViolation(f"items[{n}]", "x" * 50) for n in range(500)]
    big = SmgError(
        Code.INVALID_ARGUMENT, "m" * 5000, reason="INVALID_REQUEST", field_violations=many
    )
    read = from_status_bytes(to_status_bytes(big))
    assert read.reason == "INVALID_REQUEST"
    assert read.field_violations and read.field_violations[0] == many[0]
    big = SmgError(Code.INTERNAL, "m", reason="WORKER_ERROR", metadata={"x": "y" * 9000})
    read = from_status_bytes(to_status_bytes(big))
    assert (read.reason, dict(read.metadata)) == ("WORKER_ERROR", {})


@pytest.mark.parametrize("character", ["m", "中", "😀"])
def test_an_error_of_any_length_and_script_reaches_the_client(character: str) -> None:
    many = [FieldViolation(f"items[{n}]", character * 50) for n in range(500)]
    big = SmgError(
        Code.INVALID_ARGUMENT, character * 5000, reason="INVALID_REQUEST", field_violations=many
    )
    with serving(Sync(big)) as address:
        for _ in range(5):  # above the soft limit gRPC refuses some, not all
            read = from_rpc_error(sync_error(address))
            assert (read.code, read.reason) == (big.code, big.reason), read.message
            assert read.message == character * (1024 // len(character.encode()))
            assert read.field_violations and read.field_violations[0] == many[0]


def test_the_cost_of_violations_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is found by halving, not by leaving out one after the other."""
    tries: list[int] = []
    build = _google_rpc.bad_request

    def counted(violations: Sequence[tuple[str, str]]) -> Any:
        tries.append(len(violations))
        return build(violations)

    monkeypatch.setattr(_google_rpc, "bad_request", counted)
    many = [FieldViolation(f"items[{n}]", "must be set") for n in range(200_000)]
    big = SmgError(Code.INVALID_ARGUMENT, "m", reason="INVALID_REQUEST", field_violations=many)
    read = from_status_bytes(to_status_bytes(big))
    assert list(read.field_violations) == many[: len(read.field_violations)]
    assert len(read.field_violations) > 50
    assert len(tries) < 20 and max(tries) < 4000


def test_text_that_is_not_utf8_does_not_lose_the_error() -> None:
    """As in a gateway's error body with half of a surrogate pair in it."""
    half = "a\ud800b"
    broken = SmgError(
        Code.INVALID_ARGUMENT,
        half,
        reason=half,
        domain=half,
        metadata={half: half},
        field_violations=[FieldViolation(half, half)],
    )
    with serving(Sync(broken)) as address:
        read = from_rpc_error(sync_error(address))
    assert (read.code, read.message) == (Code.INVALID_ARGUMENT, "a?b")
    assert (read.reason, read.domain, dict(read.metadata)) == ("a?b", "a?b", {"a?b": "a?b"})
    assert list(read.field_violations) == [FieldViolation("a?b", "a?b")]


def test_reasons_are_those_of_the_contract() -> None:
    assert {"MODEL_NOT_FOUND", "STREAM_TRUNCATED"} <= REASONS
    assert len(REASONS) == len(smg_pb2.ErrorReason.keys()) - 1
    known = SmgError(Code.NOT_FOUND, "", reason="MODEL_NOT_FOUND").known_reason
    assert known == smg_pb2.ERROR_REASON_MODEL_NOT_FOUND


def test_text_of_an_error_names_code_reason_and_fields() -> None:
    assert str(invalid(FieldViolation("n", "must be at least 1"))) == (
        "INVALID_ARGUMENT (INVALID_REQUEST): n: must be at least 1"
    )
    assert DETAILS_KEY.endswith("-bin")


def test_a_reason_of_another_domain_is_not_one_of_ours() -> None:
    foreign = SmgError(Code.NOT_FOUND, "", reason="MODEL_NOT_FOUND", domain="example.com")
    assert foreign.known_reason == smg_pb2.ERROR_REASON_UNSPECIFIED


def test_an_error_that_is_not_of_a_call_has_neither_reason_nor_domain() -> None:
    read = from_rpc_error(grpc.RpcError("closed"))
    assert (read.code, read.message) == (Code.UNKNOWN, "closed")
    assert (read.reason, read.domain) == ("", "")


def test_errors_are_compared_by_identity_and_violations_by_value() -> None:
    assert SmgError(Code.UNKNOWN, "a") != SmgError(Code.UNKNOWN, "a")
    assert FieldViolation("a", "b") == FieldViolation("a", "b")
    assert len({FieldViolation("a", "b"), FieldViolation("a", "b")}) == 1


def test_invalid_names_its_fields_in_the_message_and_in_the_details() -> None:
    violations = (FieldViolation("a", "is empty"), FieldViolation("b", "is negative"))
    error = invalid(*violations)
    assert error.message == "a: is empty; b: is negative"
    assert tuple(from_status_bytes(to_status_bytes(error)).field_violations) == violations


def with_violations(lengths: Sequence[int]) -> SmgError:
    many = [FieldViolation("f", "x" * length) for length in lengths]
    return SmgError(Code.INVALID_ARGUMENT, "m", reason="INVALID_REQUEST", field_violations=many)


def test_details_take_up_to_3_kib_exactly() -> None:
    sizes = {
        len(to_status_bytes(with_violations([length])))
        for length in range(2900, 3100)
        if from_status_bytes(to_status_bytes(with_violations([length]))).field_violations
    }
    assert max(sizes) == 3072


def test_as_many_violations_are_kept_as_fit() -> None:
    data = to_status_bytes(with_violations([100] * 50))
    kept = len(from_status_bytes(data).field_violations)
    assert 0 < kept < 50
    assert to_status_bytes(with_violations([100] * kept)) == data
    assert len(data) + 110 > 3072  # no room for one more


def test_without_room_for_metadata_violations_go_too() -> None:
    error = with_violations([10])
    error.metadata = {"x": "y" * 4000}
    read = from_status_bytes(to_status_bytes(error))
    assert (read.reason, dict(read.metadata), read.field_violations) == ("INVALID_REQUEST", {}, ())
