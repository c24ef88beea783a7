"""smg-proto check, against real servers of other contracts than this package's."""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import smg_proto
from smg_proto.cli import main
from smg_proto.compat import ContractError, Server, diff, load

ENGINE = "vllm.grpc.engine.VllmEngine"
Edit = Callable[[FileDescriptorSet], None]


class Guard(grpc.ServerInterceptor):
    """Lets only calls through that carry the token."""

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if ("authorization", "s3cret") in handler_call_details.invocation_metadata:
            return continuation(handler_call_details)

        def refuse(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
            yield  # never: a stream handler must be a generator

        return grpc.stream_stream_rpc_method_handler(refuse)


@contextmanager
def serving(
    edit: Edit = lambda files: None,
    *,
    services: Sequence[str] = (ENGINE,),
    healthy: bool | None = True,
    reflects: bool = True,
    interceptors: Sequence[grpc.ServerInterceptor] = (),
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """A server with reflection over this package's contracts, edited; healthy None: no health."""
    files = smg_proto.descriptor_set()
    edit(files)
    pool = DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    server = grpc.server(ThreadPoolExecutor(4), interceptors=list(interceptors))
    if reflects:
        reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool)
    if healthy is not None:
        servicer = health.HealthServicer()
        states = health_pb2.HealthCheckResponse
        servicer.set("", states.SERVING if healthy else states.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = (
        server.add_secure_port("localhost:0", credentials)
        if credentials
        else server.add_insecure_port("localhost:0")
    )
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


def engine(files: FileDescriptorSet) -> Any:
    return next(file for file in files.file if file.package == "vllm.grpc.engine")


def message(files: FileDescriptorSet, name: str) -> Any:
    return next(m for m in engine(files).message_type if m.name == name)


def older(files: FileDescriptorSet) -> None:
    """Lacks an RPC, a field of a request and one of a response."""
    service = engine(files).service[0]
    service.method.remove(next(m for m in service.method if m.name == "Abort"))
    for name in ("GenerateRequest", "GenerateComplete"):
        owner = message(files, name)
        plain = [f for f in owner.field if not f.HasField("oneof_index")]
        owner.field.remove(plain[-1])


def newer(files: FileDescriptorSet) -> None:
    """Has an RPC and a field more, of a message of its own."""
    service = engine(files).service[0]
    service.method.add().CopyFrom(service.method[0])
    service.method[-1].name = "Newcomer"
    engine(files).message_type.add(name="Extra")
    message(files, "GenerateRequest").field.add(
        name="newcomer", number=12345, label=1, type=11, type_name=".vllm.grpc.engine.Extra"
    )


def other(files: FileDescriptorSet) -> None:
    """Means another thing by a field."""
    request_id = message(files, "GenerateRequest").field[0]
    request_id.type = request_id.TYPE_INT64


def unary(files: FileDescriptorSet) -> None:
    """Answers once where this package expects a stream."""
    generate = next(m for m in engine(files).service[0].method if m.name == "Generate")
    generate.server_streaming = False


def without_presence(files: FileDescriptorSet) -> None:
    """Cannot tell zero from unset where this package does."""
    sampling = message(files, "SamplingParams")
    field = next(f for f in sampling.field if f.proto3_optional)
    taken = field.oneof_index
    del sampling.oneof_decl[taken]
    field.ClearField("oneof_index")
    field.proto3_optional = False
    for rest in sampling.field:
        if rest.HasField("oneof_index") and rest.oneof_index > taken:
            rest.oneof_index -= 1


def check(capsys: pytest.CaptureFixture[str], code: int, *words: str | Path) -> str:
    assert main(["check", *map(str, words)]) == code
    output = capsys.readouterr()
    if code == 2:
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        return output.err
    return output.out


def test_a_server_with_the_same_contract_passes(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as address:
        output = check(capsys, 0, address)
        assert diff(load(f"grpc://{address}"), load("self")).verdict == "compatible"
    assert "health: SERVING" in output
    assert f"services of both: {ENGINE}" in output
    assert output.splitlines()[2].startswith("services of this package only: ")
    assert "trtllm.TrtllmService" in output.splitlines()[2]
    assert output.endswith("fine\n")


def test_symbols_that_an_older_server_lacks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(older) as address:
        output = check(capsys, 1, address)
        assert check(capsys, 0, address, "--allow-older").endswith("\nfine\n")
        result = json.loads(check(capsys, 1, address, "--format", "json"))
    assert f"{ENGINE}.Abort: the server lacks it: UNIMPLEMENTED" in output
    assert output.count("the server does not know it: it ignores it") == 1
    assert output.count("the server does not know it: it never sets it") == 1
    assert result["fine"] is False
    assert [gap["kind"] for gap in result["server_lacks"]] == ["rpc", "field", "field"]
    assert result["conflicts"] == []


def test_an_enum_value_that_the_server_does_not_know_is_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = "tokenspeed.grpc.scheduler.TokenSpeedScheduler"

    def edit(files: FileDescriptorSet) -> None:
        common = next(file for file in files.file if file.package == "smg.grpc.common")
        del next(e for e in common.enum_type if e.name == "Modality").value[-1]

    with serving(edit, services=[service]) as address:
        output = check(capsys, 1, address)
    assert "value smg.grpc.common.Modality." in output


def test_symbols_that_only_a_newer_server_has_are_listed_and_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(newer) as address:
        output = check(capsys, 0, address)
    assert "this package lacks" in output
    assert f"rpc   {ENGINE}.Newcomer" in output
    assert "GenerateRequest.newcomer: this package does not know it: it cannot set it" in output


@pytest.mark.parametrize(
    ("edit", "conflict"),
    [
        (other, "data     vllm.grpc.engine.GenerateRequest.request_id"),
        (unary, f"rpc      {ENGINE}.Generate"),
        (without_presence, "presence vllm.grpc.engine.SamplingParams."),
    ],
)
def test_symbols_that_differ_on_both_sides_are_conflicts(
    edit: Edit, conflict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(edit) as address:
        output = check(capsys, 1, address, "--allow-older")
    assert conflict in output


def test_the_output_has_all_parts(capsys: pytest.CaptureFixture[str]) -> None:
    def edit(files: FileDescriptorSet) -> None:
        older(files)
        newer(files)
        other(files)

    with serving(edit, services=[ENGINE, "vllm.Inference"]) as address:
        lines = check(capsys, 1, address).splitlines()
        output = check(capsys, 1, address, "--format", "json")
    assert lines.pop(2).startswith("services of this package only: entity.grpc.LLMService, ")
    package = "vllm.grpc.engine"
    assert lines == [
        "health: SERVING",
        f"services of both: vllm.Inference, {ENGINE}",
        "services of the server only: none",
        "release of vllm.Inference: 0.5.0 or newer",
        f"release of {ENGINE}: partly 0.4.28, but not all of 0.3.2",
        "",
        "both have it, but read it differently (old: the server, new: this package):",
        f"  data     {package}.GenerateRequest.request_id",
        "           Was int64, is string: a new reader loses what an old sender sets, "
        "and an old reader loses what a new sender sets.",
        "",
        "the server lacks:",
        f"  rpc   {ENGINE}.Abort: the server lacks it: UNIMPLEMENTED",
        f"  field {package}.GenerateComplete.media_identity: "
        "the server does not know it: it never sets it",
        f"  field {package}.GenerateRequest.extra_mm_inputs: "
        "the server does not know it: it ignores it",
        "",
        "this package lacks:",
        f"  rpc   {ENGINE}.Newcomer: this package lacks it: UNIMPLEMENTED",
        f"  field {package}.GenerateRequest.newcomer: "
        "this package does not know it: it cannot set it",
        "smg_proto.engine uses vllm; the server also has vllm.grpc.engine",
        "",
        "not fine",
    ]
    result = json.loads(output)
    assert output == json.dumps(result, indent=2) + "\n"
    assert [*result] == [
        "fine", "health", "reflection", "releases", "engines", "shared", "unserved", "unknown",
        "conflicts", "server_lacks", "client_lacks",
    ]  # fmt: skip
    assert (result["health"], result["reflection"]) == ("SERVING", True)
    assert [finding["class"] for finding in result["conflicts"]] == ["data"]


def test_a_renamed_field_is_not_missing(capsys: pytest.CaptureFixture[str]) -> None:
    def renamed(files: FileDescriptorSet) -> None:
        message(files, "GenerateRequest").field[0].name = "another"

    with serving(renamed) as address:
        assert "lacks" not in check(capsys, 0, address)


def test_the_contract_that_the_engine_client_uses_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving() as address:
        output = check(capsys, 0, address)
    assert "\nsmg_proto.engine uses vllm.grpc.engine\n" in output
    with serving(services=["vllm.grpc.engine.VllmEngine", "vllm.Inference"]) as address:
        output = check(capsys, 0, address)
        assert "uses vllm; the server also has vllm.grpc.engine\n" in output
        result = json.loads(check(capsys, 0, address, "--format", "json"))
    assert result["engines"] == ["vllm", "vllm.grpc.engine"]


def test_an_unhealthy_server_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(healthy=False) as address:
        assert "health: NOT_SERVING" in check(capsys, 1, address)
    with serving(healthy=None) as address:
        assert "no health service" in check(capsys, 0, address)


def test_a_health_service_that_knows_nothing_of_the_server_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Unaware(health_pb2_grpc.HealthServicer):
        def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")

    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(Unaware(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        assert "health: SERVICE_UNKNOWN" in check(capsys, 1, f"localhost:{port}")
    finally:
        server.stop(None).wait()


def test_a_server_without_known_services_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def edit(files: FileDescriptorSet) -> None:
        files.file.add(name="shop.proto", package="shop", syntax="proto3").service.add(name="Shop")

    with serving(edit, services=["shop.Shop"]) as address:
        output = check(capsys, 1, address)
    assert "services of the server only: shop.Shop" in output


def test_an_unreachable_or_silent_server_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing(socket.create_server(("localhost", 0))) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        assert address in check(capsys, 2, address, "--timeout", "0.5")
    assert "cannot be reached" in check(capsys, 2, address)


def test_metadata_is_sent_and_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(interceptors=[Guard()]) as address:
        assert "--metadata" in check(capsys, 2, address)
        assert "s3cret" not in check(capsys, 2, address, "--metadata", "authorization:s3cret")
        output = check(capsys, 0, address, "--metadata", "Authorization=s3cret")
    assert "s3cret" not in output


def test_tls_uses_the_given_roots_and_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority()
    identity = authority.issue("someone")
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    ca.write_bytes(authority.certificate)
    cert.write_bytes(identity.certificate)
    key.write_bytes(identity.key)
    pair = (identity.key, identity.certificate)
    mutual = grpc.ssl_server_credentials([pair], authority.certificate, require_client_auth=True)
    with ExitStack() as servers:
        plain = servers.enter_context(serving())
        address = servers.enter_context(serving(credentials=mutual))
        address = address.replace("localhost", "127.0.0.1")  # as in the certificate
        assert "fine" in check(capsys, 0, address, "--ca", ca, "--cert", cert, "--key", key)
        assert "TLS" in check(capsys, 2, address, "--ca", ca)  # it wants our certificate
        assert "TLS" in check(capsys, 2, address)  # plain text to a TLS port
        assert "TLS" in check(capsys, 2, plain, "--tls")
        assert "both" in check(capsys, 2, address, "--cert", cert)
        assert "no.pem" in check(capsys, 2, address, "--ca", tmp_path / "no.pem")


@pytest.mark.parametrize("seconds", ["0", "-1", "3600.1", "nan"])
def test_an_invalid_timeout_is_rejected(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, 2, "localhost:1", f"--timeout={seconds}").endswith(
        f": invalid --timeout {seconds}: must be from 0 to 3600 seconds\n"
    )


def test_the_longest_timeout_is_an_hour_and_the_default_port_50051(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[tuple[str, float]] = []

    def record(server: Server) -> None:
        addresses.append((server.address, server.access.timeout))
        raise ContractError("not now")

    monkeypatch.setattr(Server, "__post_init__", record)
    for words in (["host", "--timeout", "3600"], ["[::1]"], ["[::1]:1"]):
        check(capsys, 2, *words)
    assert addresses == [("host:50051", 3600), ("[::1]:50051", 10), ("[::1]:1", 10)]


@pytest.mark.parametrize(
    "address", ["", ":", "host:port", "localhost:99999", "a\udcff:1", "a\nb:1"]
)
def test_an_invalid_address_is_rejected(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "use HOST:PORT" in check(capsys, 2, address) or address == "localhost:99999"


def releases(capsys: pytest.CaptureFixture[str], address: str) -> dict[str, dict[str, str]]:
    assert main(["check", address, "--format", "json", "--allow-older"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reflection"] is True
    return found["releases"]  # type: ignore[no-any-return]


def test_the_release_is_judged_by_rpcs_and_by_the_fields_that_they_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def without_newest_rpcs(files: FileDescriptorSet) -> None:
        methods = engine(files).service[0].method
        for name in ("StartProfile", "StopProfile"):
            methods.remove(next(m for m in methods if m.name == name))

    def without_newest_field(files: FileDescriptorSet) -> None:
        fields = message(files, "SamplingParams").field
        fields.remove(next(f for f in fields if f.name == "grammar_from_first_token"))

    with serving() as address:
        assert releases(capsys, address) == {ENGINE: {"newest": "0.4.28", "before": ""}}
    for edit in (without_newest_rpcs, without_newest_field):
        with serving(edit) as address:
            assert releases(capsys, address)[ENGINE]["before"] == "0.4.28"
            assert f"release of {ENGINE}: partly 0.4.28" in check(
                capsys, 0, address, "--allow-older"
            )


def test_the_release_is_judged_by_the_enum_values_of_the_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = "openengine.v1.Control"

    def edit(files: FileDescriptorSet) -> None:
        own = next(
            file for file in files.file if any(e.name == "AbortStatus" for e in file.enum_type)
        )
        del next(e for e in own.enum_type if e.name == "AbortStatus").value[-1]

    with serving(services=[service]) as address:
        assert releases(capsys, address)[service] == {"newest": "0.1.0", "before": ""}
    with serving(edit, services=[service]) as address:
        assert releases(capsys, address)[service] == {"newest": "0.1.0", "before": "0.1.0"}
