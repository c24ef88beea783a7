"""clients/browser in a headless Chromium: a page streams a chat, over Connect and over gRPC-Web."""

import shutil
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from chromium import Page, browser
from docs.pages import blocks
from support import ROOT, async_eventually, need
from toolchains import TOOLCHAINS

from smg_proto import smg_pb2, smg_pb2_grpc
from smg_proto.testing import FakeGateway, Fault, run_gateway

pytestmark = [pytest.mark.languages, pytest.mark.timeout(900)]

SHOWN = "['#reply', '#state'].map(where => document.querySelector(where).textContent)"


@pytest.fixture(scope="module")
def client() -> Path:
    """clients/browser, made as its README says."""
    need("go")
    toolchain = TOOLCHAINS["typescript"]("typescript")
    toolchain.home.mkdir(parents=True, exist_ok=True)
    toolchain.install()
    folder = toolchain.home.with_name("browser")
    shutil.rmtree(folder / "node_modules" / "smg-grpc-proto", ignore_errors=True)
    for made in ("contract.binpb", "package-lock.json"):
        (folder / made).unlink(missing_ok=True)
    ignored = shutil.ignore_patterns("gen", "node_modules")
    shutil.copytree(ROOT / "clients" / "browser", folder, dirs_exist_ok=True, ignore=ignored)
    (block,) = (b for b in blocks() if b.page == ROOT / "clients" / "browser" / "README.md")
    *commands, run = block.text.splitlines()
    for command in commands:
        toolchain.run("bash", "-euc", command, cwd=folder)
    assert run.startswith("go run . -front-door ")
    toolchain.run("go", "vet", "./...", cwd=folder)
    toolchain.run("go", "build", "-o", "browser", ".", cwd=folder)
    return folder


@contextmanager
def served(folder: Path, front_door: str) -> Generator[str, None, None]:
    """The URL of the page, while the program that serves it runs."""
    words = ["-listen", "127.0.0.1:0", "-front-door", f"http://{front_door}"]
    with subprocess.Popen(
        [folder / "browser", *words], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncGenerator[Page, None]:
    async with browser(tmp_path) as page:
        yield page


async def sent(page: Page, protocol: str) -> tuple[str, str]:
    """What the page shows once the reply has come: its text, and how it ended."""
    await page.evaluate(f"document.querySelector('select').value = {protocol!r}")
    await page.evaluate("document.querySelector('form').requestSubmit()")
    await async_eventually(lambda: page.evaluate("document.querySelector('#state').textContent"))
    reply, state = await page.evaluate(SHOWN)
    return reply, state


@pytest.mark.parametrize("protocol", ["Connect", "gRPC-Web"])
async def test_a_page_streams_a_chat(protocol: str, client: Path, page: Page) -> None:
    with run_gateway() as gateway, served(client, gateway) as url:
        await page.open(url)
        with grpc.insecure_channel(gateway) as channel:
            message = smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content="Tell me a story.")
            request = smg_pb2.ChatRequest(model="demo-model", messages=[message])
            reply = smg_pb2_grpc.ChatServiceStub(channel).Chat(request)
        tokens = f"{reply.usage.completion_tokens} tokens"
        assert await sent(page, protocol) == (reply.choices[0].message.content, tokens)
        gateway.servicer.script.add(Fault(grpc.StatusCode.UNAVAILABLE, "try later", after=3))
        text, state = await sent(page, protocol)
        assert text != ""
        assert state == "[unavailable] try later"


async def test_text_is_shown_as_it_arrives_and_a_reload_ends_the_call(
    client: Path, page: Page
) -> None:
    fake = FakeGateway(token_delay=0.5)
    with run_gateway(fake) as gateway, served(client, gateway) as url:
        await page.open(url)
        await page.evaluate("document.querySelector('form').requestSubmit()")
        await async_eventually(lambda: page.evaluate(f"{SHOWN}.join('')"))
        reply, state = await page.evaluate(SHOWN)
        assert (reply != "", state) == (True, "")  # the call goes on
        await page.call("Page.reload")
        await async_eventually(lambda: fake.record.counters.cancelled == 1)


async def test_a_page_can_call_no_other_service(client: Path, page: Page) -> None:
    with run_gateway() as gateway, served(client, gateway) as url:
        await page.open(url)
        path = "/smg.v1.WorkerService/ListWorkers"
        options = "{method: 'POST', body: '{}', headers: {'content-type': 'application/json'}}"
        assert await page.evaluate(f"fetch({path!r}, {options}).then(reply => reply.status)") == 404
