"""Finds and runs other programs, with a time limit and without a terminal."""

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
    """A program failed. `output` is what it printed."""

    def __init__(self, text: str, output: str) -> None:
        super().__init__(text)
        self.output = output


def program(name: str) -> str | None:
    """The path of a program, on PATH or beside this Python, where pip installs programs."""
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
    """What the program prints. ProgramError if it fails, ContractError if it does not run."""
    name = Path(command[0]).name
    # Files, not pipes: a program that prints without end does not fill memory.
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
            raise ContractError(f"{origin}: could not run {name}: {error}") from error
        printed = out.tell()
        out.seek(0)
        err.seek(0)
        if done.returncode:
            output = (err.read(2**16) or out.read(2**16)).decode(errors="replace").strip()
            raise ProgramError(f"{origin}: {name} failed: {output or done.returncode}", output)
        if printed > limit:
            raise ContractError(f"{origin}: {name} printed more than {size(limit)}")
        return out.read()
