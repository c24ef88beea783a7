"""Replaces one folder by another, atomically if the system supports it."""

import ctypes
import errno
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from smg_proto.cli import CommandError

_WAIT_SECONDS = 60.0
_AT_FDCWD = {"linux": -100, "darwin": -2}.get(sys.platform)
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically. False if the system does not support it."""
    if _AT_FDCWD is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2" if sys.platform == "linux" else "renameatx_np", None)
    if call is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if not call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_EXCHANGE)):
        return True
    if (code := ctypes.get_errno()) in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Hold a lock, so that one run at a time writes directly into a folder. Leaves no file."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock: concurrent runs are not supported there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"{folder}: locked by another run for {_WAIT_SECONDS:g} s; "
                        "wait for it, or stop it"
                    ) from None
                time.sleep(0.05)
            except OSError:  # the file system does not support locks
                break
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def is_own_folder(path: Path) -> bool:
    """Whether the path is a real folder, not a link, that belongs to the current user."""
    try:
        status = path.lstat()
    except OSError:
        return False
    owner = getattr(os, "getuid", lambda: status.st_uid)()
    return path.is_dir() and not path.is_symlink() and status.st_uid == owner
