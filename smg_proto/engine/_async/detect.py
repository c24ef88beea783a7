"""Detects which contracts a server speaks, by reflection or else by read-only calls."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from smg_proto._probe import UNKNOWN_RPC, Answer
from smg_proto._probe._async.ask import async_ask
from smg_proto._standard import message_class
from smg_proto.engine._config import Settings
from smg_proto.engine._contracts import CONTRACTS, served
from smg_proto.engine._errors import NoContractError, Tried, from_status

REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
MAX_NAMES = 20  # of services, in an error
MAX_NAME = 100  # characters
_NO_SERVER = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_NO_ACCESS = ("UNAUTHENTICATED", "PERMISSION_DENIED")


@dataclass(frozen=True, slots=True)
class Detected:
    """The contracts of a server, newest first, and the calls that showed them."""

    contracts: tuple[str, ...]
    tried: tuple[Tried, ...] = ()


async def async_detect(channel: grpc.aio.Channel, settings: Settings) -> Detected:
    """Detect the contracts. NoContractError: there are none, or they cannot be detected."""
    tried: list[Tried] = []
    found = served(await _reflect(channel, settings, tried))
    found = found or await _probe(channel, settings, tried)
    if not found:
        raise NoContractError(settings.target, "no known engine contract", tuple(tried))
    return Detected(found, tuple(tried))


async def _reflect(channel: Any, settings: Settings, tried: list[Tried]) -> list[str]:
    """The services that the server lists; empty without reflection."""
    for path in REFLECTION:
        call = channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        requests = iter([_list_services()])
        replies = call(requests, timeout=settings.timeout, metadata=settings.metadata)
        names: list[str] | None = None
        try:
            async for data in replies:
                names = _service_names(data)
                break
        except grpc.RpcError as error:
            failed: Any = error
            code = failed.code().name
            if code in _NO_SERVER:
                raise from_status(code, failed.details() or "", settings.target) from error
            tried.append(Tried("reflection", path, code))
            continue
        finally:
            replies.cancel()
        if names is None:
            tried.append(Tried("reflection", path, "no list of services"))
            continue
        listed = [name[:MAX_NAME] for name in names if name.isprintable()][:MAX_NAMES]
        tried.append(Tried("reflection", path, ", ".join(listed) or "no services"))
        return names
    return []


async def _probe(channel: Any, settings: Settings, tried: list[Tried]) -> tuple[str, ...]:
    """The contracts whose RPCs the server has. The calls generate and change nothing."""
    answer = await _ask(channel, UNKNOWN_RPC, settings)
    if answer.has_rpc:
        tried.append(Tried("none", UNKNOWN_RPC, answer.code))
        problem = "cannot detect the contract: the server accepts every method; pass contract="
        raise NoContractError(settings.target, problem, tuple(tried))
    found: list[str] = []
    for name, entry in CONTRACTS.items():
        answer = await _ask(channel, entry.probe, settings)
        tried.append(Tried(name, entry.probe, answer.code))
        if answer.has_rpc:
            found.append(name)
    return tuple(found)


async def _ask(channel: Any, path: str, settings: Settings) -> Answer:
    """The server's reply to an empty request."""
    options = {"timeout": settings.timeout, "metadata": settings.metadata}
    answer = await async_ask(channel, path, b"", **options)
    if answer.code in _NO_SERVER or (answer.code in _NO_ACCESS and path == UNKNOWN_RPC):
        raise from_status(answer.code, answer.details, settings.target)
    return answer


def _list_services() -> bytes:
    request: Any = message_class("grpc.reflection.v1.ServerReflectionRequest")
    data: bytes = request(list_services="*").SerializeToString()
    return data


def _service_names(data: bytes) -> list[str] | None:
    """The services in a reply, or None if the reply does not list services."""
    try:
        reply: Any = message_class("grpc.reflection.v1.ServerReflectionResponse").FromString(data)
    except DecodeError:
        return None
    if not reply.HasField("list_services_response"):
        return None
    return [str(service.name) for service in reply.list_services_response.service]
