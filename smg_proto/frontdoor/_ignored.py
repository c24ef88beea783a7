"""Request fields that a gateway is known to ignore, for PipelineReport.ignored_fields."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Field = tuple[str, Callable[[Any], bool]]


@dataclass
class Gateway:
    """What is known about the gateway. The version is empty if the gateway does not report it."""

    version: str = ""


def _set(path: str) -> Field:
    """A field that matters if it is set."""
    *holders, name = path.split(".")

    def matters(request: Any) -> bool:
        for holder in holders:
            request = getattr(request, holder)
        field = request.DESCRIPTOR.fields_by_name[name]
        return request.HasField(name) if field.has_presence else bool(getattr(request, name))

    return path, matters


# What gateway 1.13 was observed to ignore with gRPC workers, by service. Fields that never change
# the text (user, metadata) are not listed.
_OVER_GRPC: dict[str, tuple[Field, ...]] = {
    "CompletionService": (_set("logprobs"), _set("return_token_ids")),
    "ChatService": (
        _set("reasoning_budget_tokens"),
        _set("return_token_ids"),
        _set("sampling.min_tokens"),
        ("sampling.skip_special_tokens", lambda request: _is_off(request.sampling)),
    ),
    "MessageService": (_set("reasoning_budget_tokens"),),
    "ResponseService": (_set("include"), _set("reasoning_summary")),
}
_KNOWN = {("1.13", "grpc"): _OVER_GRPC, ("1.13", "grpcs"): _OVER_GRPC}


def _is_off(sampling: Any) -> bool:
    return sampling.HasField("skip_special_tokens") and not sampling.skip_special_tokens


def ignored_fields(gateway: Gateway, worker_url: str, method: str, request: Any) -> Iterator[str]:
    """The paths of fields that the request sets and the gateway ignores."""
    release = ".".join(gateway.version.split(".")[:2])
    service = method.partition(".")[0]
    known = _KNOWN.get((release, urlsplit(worker_url).scheme), {})
    for path, matters in known.get(service, ()):
        if matters(request):
            yield path
