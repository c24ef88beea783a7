"""Peers of different releases talk: real wheels, environments, processes and connections."""

from collections.abc import Callable
from pathlib import Path

import live
import pytest
from _frozen import RESET, Frozen
from golden import Golden
from live import OLD, THIS, WAYS, Installed, cells, describe, release_wheel, run_chain
from support import make_environment

pytestmark = pytest.mark.live

FROZEN = Frozen.here()
GOLDEN = Golden(FROZEN)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Installed]:
    """A release, installed on first use."""
    done: dict[str, Installed] = {}

    def get(release: str) -> Installed:
        if release not in done:
            home = tmp_path_factory.mktemp(release)
            package = "smg_grpc_proto" if release.startswith("published-") else "smg_proto"
            source: str | Path = f"smg-grpc-proto=={release.removeprefix('published-')}"
            if release == THIS:
                source = wheel
            elif package == "smg_proto":
                source = release_wheel(release, wheel, home, FROZEN)
            python = make_environment(home / "venv", [source])
            done[release] = Installed(
                python,
                package,
                *describe(release, FROZEN, GOLDEN),
                RESET.get(release, frozenset()),
            )
        return done[release]

    return get


@pytest.mark.parametrize(("release", "way"), cells(FROZEN))
def test_releases_understand_each_other(
    release: str, way: str, installed: Callable[[str], Installed]
) -> None:
    client, proxy, server = (
        installed(release if x == OLD else x) if x else None for x in WAYS[way]
    )
    assert client
    assert server
    assert run_chain(client, proxy, server) == []


# What a peer may get wrong: in peer.py, this text, replaced by that; and what is then found.
FAULTS = {
    "a proxy that drops unknown fields": (
        "reply, outcome = call.with_call(request,",
        "request.DiscardUnknownFields(); reply, outcome = call.with_call(request,",
        "the server did not get all of the request",
    ),
    "a proxy that drops unknown fields of what is streamed": (
        "            yield from replies\n",
        "            for reply in replies: reply.DiscardUnknownFields(); yield reply\n",
        "the client did not get all of the reply",
    ),
    "a proxy that loses the details of errors": (
        "context.set_trailing_metadata(outcome.trailing_metadata())",
        "pass",
        "the error came as",
    ),
    "a proxy that does not cancel upstream": (
        "context.add_callback(replies.cancel)",
        "pass",
        "not every hop saw the caller leave",
    ),
    "a server that streams too little": ("STREAMED)", "STREAMED - 1)", "2 replies"),
    "a server that lacks a service": (
        'getattr(module, f"add_{service.name}Servicer_to_server")(servicer(), server)',
        'service.name == "VllmEngine" or getattr(module, f"add_{service.name}Servicer_to_server")'
        "(servicer(), server)",
        "vllm.grpc.engine.VllmEngine/Generate (answer): UNIMPLEMENTED",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_peer_is_found(
    fault: str,
    installed: Callable[[str], Installed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, faulty, expected = FAULTS[fault]
    source = live.PEER.read_text(encoding="utf-8").replace(
        "Path(__file__)", f"Path({str(live.PEER)!r})"
    )
    assert source.count(right) == 1
    peer = tmp_path / "peer.py"
    peer.write_text(source.replace(right, faulty), encoding="utf-8")
    monkeypatch.setattr(live, "PEER", peer)
    this = installed(THIS)
    assert [problem for problem in run_chain(this, this, this) if expected in problem]
