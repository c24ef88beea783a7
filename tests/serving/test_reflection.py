"""Reflection of our servers, asked as tools ask it."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import smg_proto
from smg_proto._descriptors import symbols
from smg_proto._standard import message_class
from smg_proto.testing import run_gateway

Request = message_class("grpc.reflection.v1.ServerReflectionRequest")
Response = message_class("grpc.reflection.v1.ServerReflectionResponse")


class Client:
    def __init__(self, channel: grpc.Channel, version: str) -> None:
        self._call: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=Response.FromString,
        )

    def ask(self, **question: Any) -> Any:
        (reply,) = self._call(iter([Request(**question)]), timeout=30)
        return reply

    def files(self, **question: str) -> dict[str, FileDescriptorProto]:
        reply = self.ask(**question)
        assert not reply.HasField("error_response"), (question, reply.error_response)
        found = map(
            FileDescriptorProto.FromString, reply.file_descriptor_response.file_descriptor_proto
        )
        return {file.name: file for file in found}

    def first(self, symbol: str) -> FileDescriptorProto:
        return next(iter(self.files(file_containing_symbol=symbol).values()))

    def error(self, **question: Any) -> tuple[int, str]:
        reply = self.ask(**question)
        assert reply.HasField("error_response"), question
        return reply.error_response.error_code, reply.error_response.error_message


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    with run_gateway() as address, grpc.insecure_channel(address) as opened:
        yield opened


@pytest.fixture(params=["v1", "v1alpha"])
def client(channel: grpc.Channel, request: pytest.FixtureRequest) -> Client:
    return Client(channel, request.param)


def test_services_are_listed(client: Client) -> None:
    reply = client.ask(list_services="*", host="h")
    names = [service.name for service in reply.list_services_response.service]
    assert len(names) == len({*names})
    assert {"smg.v1.ChatService", "grpc.health.v1.Health"} < {*names}
    assert {f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha")} < {*names}
    assert (reply.valid_host, reply.original_request.list_services) == ("h", "*")
    for name in names:
        file = client.first(name)
        assert name.rpartition(".")[2] in [service.name for service in file.service]


@pytest.mark.parametrize(
    "symbol",
    [
        "smg.v1.ChatService",
        "smg.v1.ChatService.StreamChat",
        "smg.v1.ChatService/StreamChat",
        "/smg.v1.ChatService/StreamChat",
        ".smg.v1.ChatRequest",
        "smg.v1.ChatRequest.model",
    ],
)
def test_a_symbol_is_found_however_a_tool_spells_it(client: Client, symbol: str) -> None:
    assert client.first(symbol).name == "smg/v1/chat.proto"


def test_every_symbol_of_every_contract_can_be_looked_up(channel: grpc.Channel) -> None:
    client = Client(channel, "v1")
    wanted = {
        symbol.name: symbol.file
        for symbol in symbols(smg_proto.descriptor_set())
        if symbol.kind not in ("file", "reserved")
    }
    call: Any = client._call(
        iter([Request(file_containing_symbol=name) for name in wanted]), timeout=100
    )
    names: dict[bytes, str] = {}  # of the files, each of which comes many times
    for name, reply in zip(wanted, call, strict=True):
        data = reply.file_descriptor_response.file_descriptor_proto
        assert data, name
        if data[0] not in names:
            names[data[0]] = FileDescriptorProto.FromString(data[0]).name
        assert names[data[0]] == wanted[name]


def test_an_enum_value_is_found_by_both_of_its_names(client: Client) -> None:
    for name in ("smg.v1.Role.ROLE_USER", "smg.v1.ROLE_USER"):
        values = [v.name for enum in client.first(name).enum_type for v in enum.value]
        assert "ROLE_USER" in values


def test_a_file_is_sent_with_all_its_imports(client: Client) -> None:
    for question in (
        {"file_by_filename": "smg/v1/chat.proto"},
        {"file_containing_symbol": "smg.v1.ChatService"},
    ):
        files = client.files(**question)
        assert next(iter(files)) == "smg/v1/chat.proto"
        for file in files.values():
            assert {*file.dependency} <= files.keys()
        pool = DescriptorPool()
        for file in reversed(files.values()):  # fails on what is missing, once all are added
            pool.Add(file)
        assert pool.FindServiceByName("smg.v1.ChatService")


def test_comments_are_served(client: Client) -> None:
    file = client.first("smg.v1.CompletionService.Complete")
    service = [s.name for s in file.service].index("CompletionService")
    rpc = [m.name for m in file.service[service].method].index("Complete")
    comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
    assert comments[6, service, 2, rpc].strip()


def test_details_of_errors_are_served(client: Client) -> None:
    for name in ("ErrorInfo", "BadRequest", "RetryInfo", "Status"):
        file = client.first(f"google.rpc.{name}")
        assert file.package == "google.rpc"
        assert name in [message.name for message in file.message_type]


def test_json_names_are_those_of_every_language(client: Client) -> None:
    for symbol in (
        "smg.v1.CompletionResponse",
        "google.rpc.BadRequest",
        "vllm.grpc.engine.VllmEngine",
    ):
        for file in client.files(file_containing_symbol=symbol).values():
            for message in file.message_type:
                for field in message.field:
                    head, *rest = field.name.split("_")
                    expected = head + "".join(word.capitalize() for word in rest)
                    assert field.json_name.lower() == expected.lower(), field.name
                    assert "_" not in field.json_name


def test_the_description_of_reflection_names_its_own_version(channel: grpc.Channel) -> None:
    for version in ("v1", "v1alpha"):
        file = Client(channel, "v1").first(f"grpc.reflection.{version}.ServerReflection")
        assert file.package == f"grpc.reflection.{version}"
        (method,) = file.service[0].method
        assert method.input_type == f".grpc.reflection.{version}.ServerReflectionRequest"


def test_an_unknown_symbol_is_an_error_and_the_call_continues(client: Client) -> None:
    for question in (
        {"file_by_filename": "smg/v1/none.proto"},
        {"file_containing_symbol": "smg.v1.None"},
        {"file_containing_symbol": ""},
        {"file_by_filename": "../../etc/passwd"},
        {"all_extension_numbers_of_type": "smg.v1.None"},
        {"file_containing_extension": {"containing_type": "smg.v1.Role", "extension_number": 1}},
    ):
        code, message = client.error(**question)
        assert code == grpc.StatusCode.NOT_FOUND.value[0] and message
    assert client.error()[0] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    extensions = client.ask(all_extension_numbers_of_type="smg.v1.ChatRequest")
    reply = extensions.all_extension_numbers_response
    assert (reply.base_type_name, [*reply.extension_number]) == ("smg.v1.ChatRequest", [])
    questions = [Request(file_containing_symbol="none"), Request(list_services="*")]
    first, second = client._call(iter(questions), timeout=30)
    assert first.HasField("error_response") and second.HasField("list_services_response")


def test_grpc_s_own_client_understands_it(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("smg.v1.ChatService")
    assert "StreamChat" in [method.name for method in service.methods]
    assert "logprobs" in pool.FindMessageTypeByName("smg.v1.ChatChoice").fields_by_name
