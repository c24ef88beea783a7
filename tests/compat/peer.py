"""One side of a live run: a process that speaks with the stubs of the release it is run in.

    python peer.py serve PACKAGE              answer every RPC of PACKAGE (smg_proto, ...)
    python peer.py proxy PACKAGE UPSTREAM     forward every RPC of PACKAGE, parsed and written anew
    python peer.py call PACKAGE ADDRESS       call every RPC of PACKAGE in every mode

serve and proxy print their port, run until standard input ends, then print as JSON which RPCs saw
their caller leave. call prints one JSON line for each call. Needs grpcio and protobuf only.
"""

import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import grpc
from _vectors import cases, files_of
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

# A google.rpc.Status with one detail, as any server may send it beside its status.
DETAILS = b"\x08\x03\x12\x03bad\x1a\x0f\x0a\x08some.url\x12\x03\x01\x00\xff"
FAILURE = (grpc.StatusCode.INVALID_ARGUMENT, "temperature: é is no number")
STREAMED = 3
DEADLINE = 20.0
PATIENCE = 5.0  # how long a stream waits for its caller to leave
OPTIONS = [("grpc.max_metadata_size", 1 << 20)]  # the echoed request travels as metadata
Service = tuple[Any, ModuleType]


def services(package: str) -> list[Service]:
    """The descriptor of each service, and the module with its stub and servicer."""
    modules: dict[str, ModuleType] = {}
    found = {file.name: file for file in files_of(package)}
    for name, module in list(sys.modules.items()):
        if name.startswith(package) and name.endswith("_pb2"):
            file = getattr(module.DESCRIPTOR, "name", "")
            if getattr(found.get(file), "services_by_name", None):
                modules[file] = importlib.import_module(f"{name}_grpc")
    return [
        (service, modules[file])
        for file in sorted(modules)
        for service in found[file].services_by_name.values()
    ]


def value(descriptor: Any) -> Message:
    """The fully populated value of a message, with unknown fields on top."""
    return GetMessageClass(descriptor).FromString(dict(cases(descriptor))["unknown"])


def name_of(method: Any) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def mode_of(context: grpc.ServicerContext) -> str:
    return str(dict(context.invocation_metadata())["mode"])


class Left:
    """The RPCs whose caller left before the end; a proxy's calls that have to end with them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.upstream: list[Any] = []

    def watch(self, context: grpc.ServicerContext, name: str) -> threading.Event:
        """Set as soon as the RPC has ended; noted if that was before it ends by itself."""
        over, started = threading.Event(), time.monotonic()

        def ended() -> None:
            if time.monotonic() - started < PATIENCE:
                self.names.append(name)
            over.set()

        if not context.add_callback(ended):
            ended()
        return over


Handler = Callable[[Any, Any, grpc.ServicerContext], Any]


def answer(method: Any, left: Left) -> Handler:
    """Answers with full values; fails or never ends when the caller's metadata say so."""

    def begin(request: Any, context: grpc.ServicerContext) -> None:
        if method.client_streaming:
            request = next(request)
        if mode_of(context) == "fail":
            context.set_trailing_metadata((("grpc-status-details-bin", DETAILS),))
            context.abort(*FAILURE)
        context.set_trailing_metadata((("request-bin", request.SerializeToString()),))

    def unary(_: Any, request: Message, context: grpc.ServicerContext) -> Message:
        begin(request, context)
        return value(method.output_type)

    def stream(_: Any, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        begin(request, context)
        reply = value(method.output_type)
        if mode_of(context) == "leave":
            over = left.watch(context, name_of(method))
            yield reply
            over.wait(PATIENCE)
            return
        for _index in range(STREAMED):
            yield reply

    return stream if method.server_streaming else unary


def forward(method: Any, left: Left, channel: grpc.Channel, module: ModuleType) -> Handler:
    """Passes a call on, through this release's own classes."""
    call = getattr(stub(module, method.containing_service, channel), method.name)

    def ask(request: Message, context: grpc.ServicerContext) -> Any:
        return {"metadata": [("mode", mode_of(context))], "timeout": DEADLINE}

    def finish(outcome: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(outcome.trailing_metadata())
        if outcome.code() != grpc.StatusCode.OK:
            context.abort(outcome.code(), outcome.details())

    def unary(_: Any, request: Message, context: grpc.ServicerContext) -> Any:
        try:
            reply, outcome = call.with_call(request, **ask(request, context))
        except grpc.RpcError as error:
            reply, outcome = None, error
        finish(outcome, context)
        return reply

    def stream(_: Any, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        replies = call(request, **ask(request, context))
        if mode_of(context) == "leave":
            left.watch(context, name_of(method))
        left.upstream.append(replies)  # were it dropped, it would be cancelled by chance
        context.add_callback(replies.cancel)
        try:
            yield from replies
        except grpc.RpcError:
            if not context.is_active():
                return  # the caller has left, and took the upstream call with it
        finish(replies, context)

    return stream if method.server_streaming else unary


def stub(module: ModuleType, service: Any, channel: grpc.Channel) -> Any:
    return getattr(module, f"{service.name}Stub")(channel)


def serve(package: str, upstream: str = "") -> None:
    left = Left()
    channel = grpc.insecure_channel(upstream, options=OPTIONS) if upstream else None
    server = grpc.server(ThreadPoolExecutor(64), options=OPTIONS)
    for service, module in services(package):
        handlers = {
            method.name: forward(method, left, channel, module) if channel else answer(method, left)
            for method in service.methods
        }
        servicer = type(service.name, (getattr(module, f"{service.name}Servicer"),), handlers)
        getattr(module, f"add_{service.name}Servicer_to_server")(servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(5).wait()
    if channel:
        for replies in left.upstream:
            replies.code()  # waits for its end
        channel.close()
    print(json.dumps(sorted(left.names)), flush=True)


def call_one(method: Any, mode: str, call: Any) -> dict[str, Any]:
    """One call in one mode, and all that came back."""
    request, replies = value(method.input_type), []
    sent = iter([request]) if method.client_streaming else request
    started = (call if method.server_streaming else call.future)(
        sent, metadata=[("mode", mode)], timeout=DEADLINE
    )
    try:
        if method.server_streaming:
            for reply in started:
                replies.append(reply.SerializeToString().hex())
                if mode == "leave":
                    started.cancel()
        else:
            replies.append(started.result().SerializeToString().hex())
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass  # its code and details are read below
    trailing = dict(started.trailing_metadata() or ())
    return {
        "method": name_of(method),
        "mode": mode,
        "code": started.code().name,
        "message": started.details(),
        "details": trailing.get("grpc-status-details-bin", b"").hex(),
        "request": trailing.get("request-bin", b"").hex(),
        "replies": replies,
    }


def call(package: str, address: str) -> None:
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        for service, module in services(package):
            for method in service.methods:
                one = getattr(stub(module, service, channel), method.name)
                for mode in ("answer", "fail", "leave")[: 3 if method.server_streaming else 2]:
                    print(json.dumps(call_one(method, mode, one)), flush=True)


if __name__ == "__main__":
    role, arguments = sys.argv[1], sys.argv[2:]
    call(*arguments) if role == "call" else serve(*arguments)
