"""smg-proto check and diff against servers whose reflection is odd, partial or hostile."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb
from support import eventually

import smg_proto
from smg_proto.cli import main
from smg_proto.compat import Access, ContractError, Rpc, Server, _limits, diff, load, probe_of

ENGINE = "trtllm.TrtllmService"  # its file imports another
Answer = Callable[[Any], Iterator[bytes]]
END = b"end of the stream"


@contextmanager
def listening(handler: grpc.GenericRpcHandler) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None)


def reflection(converse: Callable[..., Iterator[bytes]]) -> grpc.GenericRpcHandler:
    handler: Any = grpc.stream_stream_rpc_method_handler(converse)
    service = "grpc.reflection.v1alpha.ServerReflection"
    return grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server with only a reflection, which answers each question with these bytes."""

    def converse(questions: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for data in questions:
            for reply in answer(pb.ServerReflectionRequest.FromString(data)):
                if reply == END:
                    return
                yield reply

    with listening(reflection(converse)) as address:
        yield address


def listing(*names: str) -> bytes:
    services = [pb.ServiceResponse(name=name) for name in names]
    listed = pb.ListServiceResponse(service=services)
    return pb.ServerReflectionResponse(list_services_response=listed).SerializeToString()


def files(*protos: bytes) -> bytes:
    response = pb.FileDescriptorResponse(file_descriptor_proto=protos)
    return pb.ServerReflectionResponse(file_descriptor_response=response).SerializeToString()


BY_NAME = {file.name: file for file in smg_proto.descriptor_set().file}


def one_file_each(question: Any) -> Iterator[bytes]:
    """As tonic's and Go's reflection answer: the file that is asked for, without its imports."""
    if question.list_services:
        yield listing(ENGINE)
    elif question.file_containing_symbol:
        yield files(SERVED)
    else:
        yield files(BY_NAME[question.file_by_filename].SerializeToString())


def test_imports_are_requested_from_a_server_that_sends_one_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(one_file_each) as address:
        assert main(["check", address]) == 0
        assert f"services of both: {ENGINE}" in capsys.readouterr().out
        # Compared is what the server serves, not all that this package has besides.
        report = diff(load("self"), load(f"grpc://{address}"))
    assert report.findings == (), report.text()
    assert set(report.packages) == {"trtllm", "smg.grpc.common"}


def odd(**output: Any) -> Answer:
    def answer(question: Any) -> Iterator[bytes]:
        kind = question.WhichOneof("message_request")
        default = [listing(ENGINE)] if kind == "list_services" else [files()]
        yield from output.get(kind, default)

    return answer


def repeated(data: bytes) -> Iterator[bytes]:
    while True:
        yield data


EVIL = "\x1b]0;owned\x07\n\x1b[31m"
GARBAGE = b"\xff" * 50
OTHER = FileDescriptorProto(name="other.proto", package="other").SerializeToString()
SERVED = BY_NAME["trtllm/trtllm_service.proto"].SerializeToString()
WRONG = FileDescriptorProto(name="trtllm/trtllm_service.proto", package="x").SerializeToString()
LOOP = [
    FileDescriptorProto(name=f"{name}.proto", dependency=[f"{other}.proto"])
    for name, other in (("a", "b"), ("b", "a"))
]
ERROR = pb.ServerReflectionResponse(
    error_response=pb.ErrorResponse(error_code=5, error_message=EVIL)
).SerializeToString()


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ({"list_services": []}, "did not reply within 3 s"),
        ({"list_services": [END]}, "ended without a reply"),
        ({"list_services": [b""]}, "does not send the list"),
        ({"list_services": [GARBAGE]}, "cannot be parsed"),
        ({"list_services": [listing()]}, "lists no services"),
        ({"list_services": [listing("grpc.health.v1.Health")]}, "lists no services"),
        ({"list_services": [listing(EVIL)]}, "lists a service with an invalid name"),
        ({"list_services": [listing(*(f"s{n}.S" for n in range(3000)))]}, "than 2000 services"),
        ({"file_containing_symbol": [files()]}, f"do not declare {ENGINE}"),
        ({"file_containing_symbol": [files(GARBAGE)]}, "cannot be parsed"),
        ({"file_containing_symbol": [files(OTHER)]}, f"do not declare {ENGINE}"),
        ({"file_containing_symbol": [listing(ENGINE)]}, f"does not send the file of {ENGINE}"),
        ({"file_containing_symbol": [files(OTHER, OTHER, WRONG, OTHER)]}, "do not declare"),
        (
            {"file_containing_symbol": [files(SERVED, WRONG)]},
            "sends two different files named trtllm/trtllm_service.proto",
        ),
        ({"file_containing_symbol": [ERROR]}, f"failed for {ENGINE}"),
        ({"list_services": [files(*[b"x" * 2**20] * 20)]}, "16 MiB"),
        (
            {"file_containing_symbol": [files(SERVED)], "file_by_filename": [files(OTHER)]},
            "sends other files instead of smg/grpc/common/common.proto",
        ),
    ],
)  # fmt: skip
def test_invalid_reflection_is_one_line_without_a_verdict(
    output: dict[str, Sequence[bytes]], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(odd(**output)) as address:
        assert main(["check", address, "--timeout", "3"]) == 2
        shown = capsys.readouterr()
        assert main(["diff", "self", f"grpc://{address}"]) == 2
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.rstrip("\n").isprintable()
    assert problem in shown.err


def test_each_limit_of_reflection_begins_beyond_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = listing("S" * 1000)
    with answering(odd(list_services=[listed])) as address, Server(address) as server:
        assert server.services() == ["S" * 1000]
    too_long = pytest.raises(ContractError, match="lists a service with an invalid name: 'SSS")
    with answering(odd(list_services=[listing("S" * 1001)])) as address, too_long:
        load(f"grpc://{address}")
    with answering(one_file_each) as address:
        spec = f"grpc://{address}"
        loaded = load(spec)
        replies = [listing(ENGINE), *(files(file.SerializeToString()) for file in loaded.files)]
        sizes = sum(len(data) for data in replies if b"google/protobuf" not in data[:40])
        for limit, enough, problem in (
            ("MAX_SERVICES", 1, "lists more than 0 services"),
            ("MAX_SERVED_FILES", 2, "has more than 1 files"),
            ("MAX_REPLIES_BYTES", sizes, f"sends more than {sizes // 1024} KiB"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(_limits, limit, enough)
                assert load(spec).services.keys() == {ENGINE}
                patched.setattr(_limits, limit, enough - 1)
                with pytest.raises(ContractError) as raised:
                    load(spec)
                assert str(raised.value) == f"{address}: its reflection service {problem}"


def test_a_conversation_that_ended_leaves_no_call_and_no_thread() -> None:
    over, stopped = threading.Event(), threading.Event()

    def wait(questions: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        next(questions)
        context.add_callback(over.set)
        yield listing(ENGINE)
        stopped.wait(60)  # however the client ends its side

    before = sending()
    with listening(reflection(wait)) as address:
        try:
            with Server(address, Access(timeout=300)) as client:
                assert client.services() == [ENGINE]
                eventually(over.is_set)
                eventually(lambda: sending() <= before)
        finally:
            stopped.set()


def sending() -> int:
    """How many threads wait for something to send."""
    return sum("(_run)" in thread.name for thread in threading.enumerate())


def test_circular_imports_are_rejected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = FileDescriptorProto(name="s.proto", package="s", dependency=["a.proto"])
    service.service.add(name="S")

    def answer(question: Any) -> Iterator[bytes]:
        if question.list_services:
            yield listing("s.S")
        elif question.file_containing_symbol:
            yield files(service.SerializeToString())
        else:
            yield files(*(file.SerializeToString() for file in LOOP))

    with answering(answer) as address:
        assert main(["check", address]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_endless_replies_are_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """A server may send what nobody asked for, and each file may import one more."""
    count = iter(range(10**9))

    def answer(question: Any) -> Iterator[bytes]:
        if question.list_services:
            yield from [listing("s.S")] * 50
        else:
            number = next(count)
            file = FileDescriptorProto(name=question.file_by_filename or "0.proto", package="s")
            file.dependency.append(f"{number + 1}.proto")
            if not number:
                file.service.add(name="S")
            yield files(file.SerializeToString())

    with answering(answer) as address:
        assert main(["check", address, "--timeout", "20"]) == 2
    assert "reflection" in capsys.readouterr().err


# --- servers without reflection -------------------------------------------------------------------


class Recorder(grpc.GenericRpcHandler):
    """Answers some methods, as a server does that cannot read bytes which are no message."""

    def __init__(self, methods: Sequence[str], reply: dict[str, bytes], all_paths: bool) -> None:
        self.methods, self.reply, self.all_paths = methods, reply, all_paths
        self.called: list[tuple[str, bytes]] = []

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        method = path.rpartition("/")[2]
        if path.startswith("/grpc."):
            return None
        known = any(path.startswith(f"/{service}/") for service in SERVICES)

        def serve(data: bytes, context: grpc.ServicerContext) -> bytes:
            self.called.append((path, data))
            if data:
                context.abort(grpc.StatusCode.INTERNAL, "cannot parse")
            return self.reply.get(method, b"")

        if self.all_paths:
            return grpc.unary_unary_rpc_method_handler(serve)
        if not known or method not in self.methods:
            return None
        return grpc.unary_unary_rpc_method_handler(serve)


SERVICES = ("vllm.grpc.engine.VllmEngine",)
FIRST = ["Generate", "Embed", "Abort", "HealthCheck", "GetModelInfo", "GetServerInfo"]
ALL = [*FIRST, "GetTokenizer", "SubscribeKvEvents", "GetLoads", "FlushCache", "StartProfile"]


@contextmanager
def silent(
    methods: Sequence[str], reply: dict[str, bytes] | None = None, all_paths: bool = False
) -> Iterator[tuple[str, Recorder]]:
    recorder = Recorder(methods, reply or {}, all_paths)
    with listening(recorder) as address:
        yield address, recorder


def test_the_contract_of_a_server_without_reflection_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with silent(ALL) as (address, _):
        assert main(["check", address]) == 0
        output = capsys.readouterr().out
        assert main(["check", address, "--format", "json"]) == 0
        result = json.loads(capsys.readouterr().out)
    assert "services of both: vllm.grpc.engine.VllmEngine" in output
    assert "reflection: none" in output
    assert "not tried, because a call could change something:" in output
    assert result["reflection"] is False
    (spoken,) = result["spoken"]
    assert spoken["service"] == SERVICES[0]
    assert spoken["lacks"] == []


def test_an_older_server_without_reflection_is_detected_by_missing_rpcs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with silent(FIRST) as (address, _):
        assert main(["check", address]) == 1
        output = capsys.readouterr().out
        assert main(["check", address, "--allow-older", "--format", "json"]) == 0
        result = capsys.readouterr().out
    assert output.splitlines() == [
        "health: the server has no health service",
        "reflection: none; harmless calls show which RPCs the server has, not which fields",
        "services of both: vllm.grpc.engine.VllmEngine",
        "",
        "vllm.grpc.engine.VllmEngine",
        "  release: 0.3.2 or newer, but older than 0.4.2",
        "  has: HealthCheck, GetModelInfo, GetServerInfo, Generate, Embed",
        "  lacks (UNIMPLEMENTED): GetLoads, GetTokenizer, SubscribeKvEvents",
        "  not tried, because a call could change something: "
        "Abort, FlushCache, StartProfile, StopProfile",
        "smg_proto.engine uses vllm.grpc.engine",
        "",
        "not fine",
    ]
    assert result == json.dumps(json.loads(result), indent=2) + "\n"
    assert [*json.loads(result)] == [
        "fine", "health", "reflection", "releases", "engines", "spoken",
    ]  # fmt: skip


def test_an_rpc_is_tried_although_others_before_it_are_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with silent(["HealthCheck", "GetLoads"]) as (address, _):
        assert main(["check", address]) == 1
    assert "  has: HealthCheck, GetLoads\n" in capsys.readouterr().out


def test_no_call_changes_anything(capsys: pytest.CaptureFixture[str]) -> None:
    with silent(ALL) as (address, recorder):
        main(["check", address])
    called = {path.rpartition("/")[2] for path, _ in recorder.called}
    reading = {"HealthCheck", "GetModelInfo", "GetServerInfo", "GetLoads"}
    assert called == {"Generate", "Embed", "GetTokenizer", "SubscribeKvEvents", *reading}
    for path, data in recorder.called:
        assert (data == b"") == (path.rpartition("/")[2] in reading)


def test_every_rpc_of_every_contract_is_judged_safe_only_if_it_is() -> None:
    forbidden = (
        "Abort", "Shutdown", "Flush", "Update", "Load", "Unload", "Sleep", "Pause", "Resume",
        "Wake", "Start", "Stop", "Finish", "Init", "Create", "Delete", "Cancel", "Set", "Attach",
        "Detach", "Clear", "Release", "Send", "Drain", "Continue",
    )  # fmt: skip
    for service in load("self").services.values():
        for name, rpc in service.rpcs.items():
            probe = probe_of(rpc)
            if name.startswith(forbidden) and name not in ("CreateMessage", "Detokenize"):
                assert probe is None, rpc.name
            if probe and probe.effect == "works":
                assert probe.data, rpc.name  # never a request that can be read


@pytest.mark.parametrize(
    ("method", "idempotency", "effect"),
    [
        ("HealthCheck", "IDEMPOTENCY_UNKNOWN", "reads"),
        ("Generate", "IDEMPOTENCY_UNKNOWN", "works"),
        ("Generate", "NO_SIDE_EFFECTS", "works"),
        ("Look", "NO_SIDE_EFFECTS", "reads"),
        ("Look", "IDEMPOTENT", None),
    ],
)
def test_a_method_without_side_effects_is_called_with_an_empty_request_unless_it_uses_the_engine(
    method: str, idempotency: str, effect: str | None
) -> None:
    probe = probe_of(Rpc(f"p.S.{method}", "p.A", "p.B", False, False, False, idempotency))
    assert (probe and probe.effect) == effect


def test_versions_and_unknown_fields_of_replies_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from smg_proto import vllm_engine_pb2 as vllm

    replies = {
        "GetModelInfo": b"\xff",  # cannot be read; the others can
        "GetServerInfo": b"\xa2\x9c\x01\x01x",
        "GetLoads": vllm.GetLoadsResponse(timestamp="now", version="1.2.3").SerializeToString(),
    }
    with silent(ALL, replies) as (address, _):
        assert main(["check", address]) == 0
    output = capsys.readouterr().out
    assert "  version of the server: 1.2.3\n" in output
    assert output.count(" of the server: ") == 1
    assert "newer than this package: sets unknown fields (vllm.grpc.engine." in output


def test_probing_ends_where_the_server_denies_access(capsys: pytest.CaptureFixture[str]) -> None:
    class Denying(Recorder):
        def service(self, handler_call_details: Any) -> Any:
            def deny(data: bytes, context: grpc.ServicerContext) -> None:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

            known = super().service(handler_call_details)
            return known and grpc.unary_unary_rpc_method_handler(deny)

    with listening(Denying(ALL, {}, False)) as address:
        assert main(["check", address]) == 2
    assert capsys.readouterr().err == (
        f"smg-proto check: {address}: the server denied access; "
        "give credentials with --metadata or --cert and --key\n"
    )


def test_a_server_that_accepts_every_method_is_not_assumed_to_have_every_rpc(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with silent(ALL, all_paths=True) as (address, _):
        assert main(["check", address]) == 2
    assert "cannot detect its services" in capsys.readouterr().err


def test_a_server_without_known_rpcs_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with silent([]) as (address, _):
        assert main(["check", address]) == 1
        assert main(["diff", f"grpc://{address}", "self"]) == 2
    assert "no reflection" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["x-bin=?", "a b=secret", "k=\x1b[31m", "k=é", "novalue", "=v", "über=x"]
)
def test_invalid_metadata_is_rejected_and_not_printed(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "localhost:1", "--metadata", word]) == 2
    output = capsys.readouterr().err
    assert output.startswith("smg-proto check: --metadata: ")
    assert word.partition("=")[2] not in output or not word.partition("=")[2]


def test_a_missing_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "no-such-host.invalid", "--timeout", "2"])
    assert "the port defaults to 50051" in capsys.readouterr().err
