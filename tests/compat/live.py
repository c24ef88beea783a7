"""Releases against each other: which cells there are, and how to run one."""

import json
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _contract import contract
from _frozen import Frozen
from golden import Classes, Golden, todays_classes, written
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from peer import DETAILS, FAILURE, STREAMED, value
from support import build_wheel, missing, run

import smg_proto

THIS = "this"
OLD = "old"
PEER = Path(__file__).with_name("peer.py")
# Each way: the release of client, of proxy (or none), of server.
WAYS = {
    "old client, new server": (OLD, "", THIS),
    "new client, old server": (THIS, "", OLD),
    "new client and server, old proxy": (THIS, OLD, THIS),
    "old client and server, new proxy": (OLD, THIS, OLD),
}
PUBLISHED = ["published-0.4.6", "published-0.4.28"]
Cell = tuple[str, str]


def releases(frozen: Frozen) -> list[str]:
    return [*PUBLISHED, *frozen.own]


def cells(frozen: Frozen) -> list[Cell]:
    return [(release, way) for release in releases(frozen) for way in WAYS]


def uncovered(chosen: Iterable[Cell], frozen: Frozen) -> set[tuple[str, tuple[str, str, str]]]:
    """What no cell runs: each release must be client, server, proxy, and both ends around one."""
    roles = ((OLD, "", THIS), (THIS, "", OLD), (THIS, OLD, THIS), (OLD, THIS, OLD))
    wanted = {"published-0.4.6", "published-0.4.28", *frozen.own}
    return {(r, role) for r in wanted for role in roles} - {(r, WAYS[way]) for r, way in chosen}


def release_wheel(release: str, this_wheel: Path, out: Path, frozen: Frozen) -> Path:
    """The wheel of a release of ours, built from the commit that froze it.

    The commit is found by the file that it added: a clone need not have the tags.
    """
    root, file = frozen.home.parents[1], f"tests/compat/releases/{release}/contract.txt"
    if not (root / ".git").exists():
        missing(f"the wheel of {release} is built from its commit: run in a git clone")
    if run("git", "rev-parse", "--is-shallow-repository", cwd=root).strip() == "true":
        # A clone that was asked for without its history, unlike a missing tool, is nobody's fault.
        pytest.skip(f"a shallow clone lacks the commit of {release}: run git fetch --unshallow")
    found = run("git", "log", "--diff-filter=A", "--format=%H", "--", file, cwd=root).split()
    if not found:  # being released: frozen, not committed yet
        assert release == smg_proto.__version__, f"no commit has added {file}"
        return this_wheel
    source = out / "source"
    source.mkdir(parents=True)
    archive = out / "source.tar"
    run("git", "archive", f"--output={archive}", found[-1], cwd=root)
    run("tar", "-xf", archive, "-C", source)
    wheel = build_wheel(out / "wheel", source)
    assert f"-{release}-" in wheel.name, (
        f"{found[-1]} froze {release} but builds {wheel.name}: was it squashed?"
    )
    with zipfile.ZipFile(wheel) as zipped:
        files = FileDescriptorSet.FromString(zipped.read("smg_proto/descriptors.binpb"))
    assert contract(files) == frozen.contracts[release], f"{release} is not what was frozen"
    return wheel


@dataclass(frozen=True)
class Installed:
    """A release in an environment of its own."""

    python: Path
    package: str
    classes: Classes
    rpcs: dict[str, str]  # Service/Method to its "In -> Out"
    reset: frozenset[str] = frozenset()  # packages that were corrected since, and promise nothing

    def command(self, role: str, address: str = "") -> list[str]:
        return [str(self.python), str(PEER), role, self.package, *([address] if address else [])]


def describe(release: str, frozen: Frozen, golden: Golden) -> tuple[Classes, dict[str, str]]:
    """The message classes and RPCs of a release; THIS: of the checkout."""
    now = release == THIS
    lines = contract(smg_proto.descriptor_set()) if now else frozen.contracts[release]
    rpcs = {"/".join(x.name.rsplit(".", 1)): x.type for x in lines if x.kind == "rpc"}
    return todays_classes() if now else golden.readers[release], rpcs


@contextmanager
def serving(command: list[str], left: list[str]) -> Iterator[str]:
    """A server's address; when it has ended, `left` has the RPCs that saw their caller leave."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        port = process.stdout.readline().strip()
        try:
            assert port, f"{command}: no port\n{process.communicate(timeout=10)[1]}"
            yield f"127.0.0.1:{port}"
            out, errors = process.communicate(timeout=20)
            assert process.returncode == 0, errors
            left += json.loads(out)
        finally:
            process.kill()


def calls(client: Installed, address: str) -> list[dict[str, Any]]:
    out = run(*client.command("call", address))
    return [json.loads(line) for line in out.splitlines()]


def same(kind: type[Message], wire: str, expected: Message) -> bool:
    return written(kind.FromString(bytes.fromhex(wire))) == written(expected)


def wrong(got: dict[str, Any], client: Installed, server: Installed, there: set[str]) -> str:
    """What is wrong with the outcome of one call; empty: nothing."""
    method, mode, streaming = got["method"], got["mode"], "-> stream" in client.rpcs[got["method"]]
    if method not in there:
        return "" if got["code"] == "UNIMPLEMENTED" else f"{got['code']}, not UNIMPLEMENTED"
    if mode == "fail":
        expected = (FAILURE[0].name, FAILURE[1], DETAILS.hex())
        printed = (got["code"], got["message"], got["details"])
        return "" if printed == expected else f"the error came as {printed}"
    if mode == "leave":
        return "" if got["code"] == "CANCELLED" and got["replies"] else f"left, but {got['code']}"
    if got["code"] != "OK":
        return f"{got['code']}: {got['message']}"
    sent, _, _ = client.rpcs[method].partition(" -> ")
    request = client.classes[sent.removeprefix("stream ")]
    if not same(request, got["request"], value(request.DESCRIPTOR)):
        return "the server did not get all of the request"
    answered = server.classes[server.rpcs[method].rpartition(" ")[2]]
    if len(got["replies"]) != (STREAMED if streaming else 1):
        return f"{len(got['replies'])} replies"
    if not all(same(answered, reply, value(answered.DESCRIPTOR)) for reply in got["replies"]):
        return "the client did not get all of the reply"
    return ""


def run_chain(client: Installed, proxy: Installed | None, server: Installed) -> list[str]:
    """Run all calls of one cell; what went wrong."""
    there = set(server.rpcs) & set(proxy.rpcs if proxy else server.rpcs)
    left: list[str] = []
    with serving(server.command("serve"), left) as address:
        if proxy:
            with serving(proxy.command("proxy", address), left) as middle:
                outcomes = calls(client, middle)
        else:
            outcomes = calls(client, address)
    reset = client.reset | server.reset | (proxy.reset if proxy else frozenset())

    def promised(method: str) -> bool:
        return method.partition("/")[0].rpartition(".")[0] not in reset

    found = [
        f"{got['method']} ({got['mode']}): {problem}"
        for got in outcomes
        if promised(got["method"]) and (problem := wrong(got, client, server, there))
    ]
    if {got["method"] for got in outcomes} != set(client.rpcs):
        found.append("not every RPC of the client was called")
    streams = {name for name in client.rpcs if name in there and "-> stream" in client.rpcs[name]}
    for name in filter(promised, sorted(streams)):
        if left.count(name) != (2 if proxy else 1):
            found.append(f"{name} (leave): not every hop saw the caller leave")
    return found
