"""What export does on systems and file systems that lack locks, links or an atomic swap."""

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smg_proto.cli import CommandError, _swap, _tree, main
from smg_proto.cli._swap import exchange, is_own_folder, locked

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    return one, other


def swapped(one: Path, other: Path) -> bool:
    names = [entry.name for folder in (one, other) for entry in folder.iterdir()]
    assert sorted(names) == ["one", "other"]
    return names == ["other", "one"]


# --- The swap ---


class Library:
    """A C library whose calls fail with this code."""

    def __init__(self, code: int) -> None:
        self._code = code

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self._code)
        return -1

    renameatx_np = renameat2


def test_two_folders_are_swapped(folders: tuple[Path, Path]) -> None:
    assert exchange(*folders) is swapped(*folders)  # no, if the file system cannot


@pytest.mark.parametrize(
    "library",
    [object(), *map(Library, (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP))],
)
def test_a_system_without_the_call_swaps_nothing(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, library: object
) -> None:
    def load(*_: object, **__: object) -> object:
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert exchange(*folders) is swapped(*folders) is False


def test_an_unknown_system_swaps_nothing(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_swap, "_AT_FDCWD", None)
    assert exchange(*folders) is swapped(*folders) is False


def test_a_swap_that_fails_names_the_folder(folders: tuple[Path, Path]) -> None:
    missing = folders[1] / "missing"
    with pytest.raises(FileNotFoundError) as raised:
        exchange(folders[0], missing)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, str(missing))


# --- The lock ---


def test_a_lock_is_waited_for_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_swap, "_WAIT_SECONDS", 30.0)
    other, waited = Other(tmp_path), list[float]()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        other.close()

    with locked(tmp_path):
        assert not other.lock()
    assert other.lock()
    monkeypatch.setattr(time, "sleep", wait)
    with locked(tmp_path):
        assert len(waited) == 1
        assert not Other(tmp_path).lock()


class Other:
    """Another run that locks the same folder."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)

    def lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._descriptor)


def test_a_lock_that_nobody_gives_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_swap, "_WAIT_SECONDS", 0.2)
    other = Other(tmp_path)
    assert other.lock()
    assert main(["export", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"smg-proto export: {tmp_path}: locked by another run for 0.2 s; wait for it, or stop it\n"
    )
    assert not (tmp_path / "out").exists()
    other.close()


def refuse(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_system_without_locks_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOTSUP))
    assert main(["export", str(tmp_path / "out"), "--only", "entity.grpc"]) == 0


def test_a_system_without_locks_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert main(["export", str(tmp_path / "out"), "--only", "entity.grpc"]) == 0
    with pytest.raises(CommandError, match="inside"), locked(tmp_path):
        raise CommandError("inside")


# --- Files of others ---


def test_without_hard_links_files_of_others_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(out), "--only", "entity.grpc"]) == 0
    (out / "mine").write_text("mine", encoding="utf-8")
    (out / "mine").chmod(0o640)
    (out / "link").symlink_to("mine")
    (out / "broken").symlink_to("nowhere")
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    assert main(["export", str(out), "--all"]) == 0
    assert (out / "mine").read_text(encoding="utf-8") == "mine"
    assert (out / "mine").stat().st_mode & 0o777 == 0o640
    assert [(out / name).readlink() for name in ("link", "broken")] == [
        Path("mine"),
        Path("nowhere"),
    ]


def test_only_a_real_folder_of_this_user_is_cleared_away(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = folders
    link, file = folder / "link", folder / "one"
    link.symlink_to(target)
    assert is_own_folder(folder)
    assert not any(map(is_own_folder, (link, file, folder / "missing")))
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert not is_own_folder(folder)


def test_a_folder_in_the_place_of_a_file_is_a_change(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(out), "--only", "entity.grpc"]) == 0
    (out / "LICENSE").unlink()
    (out / "LICENSE").mkdir()
    manifest = _tree.read_manifest(out)
    assert manifest
    assert (manifest.modified(out), manifest.missing(out)) == (["LICENSE"], [])
