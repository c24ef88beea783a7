"""Other programs: found, and run for a bounded time, without a terminal or a question."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import MAX_LISTING_BYTES, size


class ProgramError(ContractError):
    """A program that ended with an error; `said` is what it printed."""

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        self.said = said


def program(name: str) -> str | None:
    """On PATH, or beside this Python, where pip puts programs."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def run(
    command: Sequence[str],
    origin: str,
    *,
    seconds: float,
    cwd: Path | None = None,
    stdin: bytes = b"",
    environment: dict[str, str] | None = None,
    limit: int = MAX_LISTING_BYTES,
) -> bytes:
    """What the program prints. ProgramError: it failed; ContractError: it cannot be had."""
    name = Path(command[0]).name
    # Files, not pipes: a program that prints without end fills no memory.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                input=stdin,
                stdout=out,
                stderr=err,
                timeout=seconds,
                env=os.environ | (environment or {}),
            )
        except subprocess.TimeoutExpired:
            raise ContractError(f"{origin}: {name} did not end within {seconds:g} s") from None
        except OSError as error:
            raise ContractError(f"{origin}: {name} does not run: {error}") from error
        printed = out.tell()
        out.seek(0)
        err.seek(0)
        if done.returncode:
            said = (err.read(2**16) or out.read(2**16)).decode(errors="replace").strip()
            raise ProgramError(f"{origin}: {name} failed: {said or done.returncode}", said)
        if printed > limit:
            raise ContractError(f"{origin}: {name} gave more than {size(limit)}")
        return out.read()
