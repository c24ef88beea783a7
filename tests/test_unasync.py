"""scripts/_unasync.py: the sync client is the async one without what only asyncio needs."""

from pathlib import Path

import pytest
from _tools import Stop
from _unasync import sync, sync_folders
from support import ROOT

SOURCE = '''\
"""What an async client needs: an AsyncCall, an async iterator."""

import grpc
from shop._async.wait import AsyncPause, async_sleep


class AsyncCall:
    """Made by `await call.begin()`; read with `async for`."""

    def __init__(self, at: grpc.aio.Channel, ask: Callable[[int], Awaitable[list[int]]]) -> None:
        self.asynchronous = at  # an async channel

    async def __aenter__(self) -> "AsyncCall":
        await async_sleep(1)
        return self

    def word(self) -> str:
        return f"{self!r} async for {await_me} async iterators"

    async def read(self) -> AsyncIterator[int]:
        async for item in self:
            yield await anext(item)
        raise StopAsyncIteration
'''
MADE = '''\
"""What a client needs: a Call, an iterator."""

import grpc
from shop._sync.wait import Pause, sleep


class Call:
    """Made by `call.begin()`; read with `for`."""

    def __init__(self, at: grpc.Channel, ask: Callable[[int], list[int]]) -> None:
        self.asynchronous = at  # a channel

    def __enter__(self) -> "Call":
        sleep(1)
        return self

    def word(self) -> str:
        return f"{self!r} for {await_me} iterators"

    def read(self) -> Iterator[int]:
        for item in self:
            yield next(item)
        raise StopIteration
'''


def test_async_code_becomes_sync_code() -> None:
    made = sync(SOURCE).splitlines()
    assert made == MADE.splitlines()


def write(root: Path, name: str, text: str) -> None:
    path = root / "smg_proto" / "shop" / "_async" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_each_module_of_a_folder_has_a_twin_that_names_its_source(tmp_path: Path) -> None:
    write(tmp_path, "__init__.py", '"""An async shop."""\n')
    write(tmp_path, "till.py", "async def pay(\n    price: int,\n) -> None: ...\n")
    made = sync_folders(tmp_path)
    assert made.keys() == {f"smg_proto/shop/_sync/{name}.py" for name in ("__init__", "till")}
    head, *code = made["smg_proto/shop/_sync/till.py"].splitlines()
    assert "smg_proto/shop/_async/till.py" in head
    assert "build.py" in head
    assert code == ["def pay(", "    price: int,", ") -> None: ..."]


def test_unused_names_are_removed_and_imports_are_sorted(tmp_path: Path) -> None:
    write(
        tmp_path,
        "till.py",
        "from collections.abc import Awaitable, Callable\n\n"
        "from shop._wait import AsyncTill, Sale\n\n\n"
        "def pay(till: AsyncTill, sale: Sale, ask: Callable[[], Awaitable[int]]) -> None: ...\n",
    )
    made = sync_folders(tmp_path)["smg_proto/shop/_sync/till.py"]
    assert "from collections.abc import Callable\n" in made
    assert "from shop._wait import Sale, Till\n" in made


def test_a_module_that_is_not_python_is_named(tmp_path: Path) -> None:
    write(tmp_path, "till.py", "async def pay() -> None: x x\n")
    with pytest.raises(Stop, match=r"smg_proto/shop/_sync/till\.py"):
        sync_folders(tmp_path)


def test_the_twins_of_this_package_are_current() -> None:
    made = sync_folders(ROOT)
    assert "smg_proto/vllm/_sync/client.py" in made
    there = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("smg_proto/*/_sync/*.py")}
    assert made.keys() == there
    here = {path: (ROOT / path).read_text(encoding="utf-8") for path in made}
    assert [path for path, text in made.items() if here[path] != text] == []
