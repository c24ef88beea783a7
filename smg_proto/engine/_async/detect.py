"""Which contract a server speaks: reflection says, or else calls that only read."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from smg_proto._probe import NOBODY_HAS_THIS, Answer
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
class Found:
    """The contracts of a server, newest first, and how that is known."""

    contracts: tuple[str, ...]
    tried: tuple[Tried, ...] = ()


async def async_detect(channel: grpc.aio.Channel, settings: Settings) -> Found:
    """Ask the server. NoContractError: it speaks none of them, or the answers do not tell."""
    tried: list[Tried] = []
    found = served(await _reflect(channel, settings, tried))
    found = found or await _probe(channel, settings, tried)
    if not found:
        problem = "the server speaks none of the contracts of engines"
        raise NoContractError(settings.target, problem, tuple(tried))
    return Found(found, tuple(tried))


async def _reflect(channel: Any, settings: Settings, tried: list[Tried]) -> list[str]:
    """The services that the server lists; none where it has no reflection."""
    for path in REFLECTION:
        call = channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        asking = iter([_question()])
        answers = call(asking, timeout=settings.timeout, metadata=settings.metadata)
        names: list[str] | None = None
        try:
            async for data in answers:
                names = _names(data)
                break
        except grpc.RpcError as error:
            failed: Any = error
            code = failed.code().name
            if code in _NO_SERVER:
                raise from_status(code, failed.details() or "", settings.target) from error
            tried.append(Tried("reflection", path, code))
            continue
        finally:
            answers.cancel()
        if names is None:
            tried.append(Tried("reflection", path, "no list of services"))
            continue
        told = [name[:MAX_NAME] for name in names if name.isprintable()][:MAX_NAMES]
        tried.append(Tried("reflection", path, ", ".join(told) or "no services"))
        return names
    return []


async def _probe(channel: Any, settings: Settings, tried: list[Tried]) -> tuple[str, ...]:
    """The contracts whose RPCs the server has. Nothing is generated or changed by asking."""
    answer = await _ask(channel, NOBODY_HAS_THIS, settings)
    if answer.has_rpc:
        tried.append(Tried("none", NOBODY_HAS_THIS, answer.code))
        problem = "the server knows every method, so they cannot be told apart; give contract="
        raise NoContractError(settings.target, problem, tuple(tried))
    found: list[str] = []
    for name, entry in CONTRACTS.items():
        answer = await _ask(channel, entry.probe, settings)
        tried.append(Tried(name, entry.probe, answer.code))
        if answer.has_rpc:
            found.append(name)
    return tuple(found)


async def _ask(channel: Any, path: str, settings: Settings) -> Answer:
    """How the server answers an empty request."""
    how = {"timeout": settings.timeout, "metadata": settings.metadata}
    answer = await async_ask(channel, path, b"", **how)
    if answer.code in _NO_SERVER or (answer.code in _NO_ACCESS and path == NOBODY_HAS_THIS):
        raise from_status(answer.code, answer.details, settings.target)
    return answer


def _question() -> bytes:
    request: Any = message_class("grpc.reflection.v1.ServerReflectionRequest")
    data: bytes = request(list_services="*").SerializeToString()
    return data


def _names(data: bytes) -> list[str] | None:
    """The services in an answer; None: it is no list of them."""
    try:
        answer: Any = message_class("grpc.reflection.v1.ServerReflectionResponse").FromString(data)
    except DecodeError:
        return None
    if not answer.HasField("list_services_response"):
        return None
    return [str(service.name) for service in answer.list_services_response.service]
